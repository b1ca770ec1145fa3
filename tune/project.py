"""The project's folder on the machine where a trial runs."""

import os
from pathlib import Path

from tuneyard.trainers.spec import TrialSpec


def project_here(spec: TrialSpec) -> TrialSpec:
    """The spec with the place that its project has on this machine.

    Ray unpacks a job's working directory on every node that has a process of the job, under one name made of its
    contents, but below a folder of the node's own; and it is on the path that Python's modules are looked for.
    """
    told = Path(spec.project_dir)
    if told.is_dir():
        return spec
    for entry in map(Path, filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))):
        if entry.name in told.parts:
            here = entry.joinpath(*told.parts[told.parts.index(entry.name) + 1 :])
            if here.is_dir():
                return spec.model_copy(update={"project_dir": str(here)})
    return spec
