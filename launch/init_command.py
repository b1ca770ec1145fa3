"""`tuneyard init`: a starter project that trains as it is."""

import json
from importlib.resources import files
from pathlib import Path

from tuneyard.trainers.config.experiment import Experiment
from tuneyard.trainers.errors import ConfigError

STARTER = {"experiment.yaml": "starter-experiment.yaml", "task.py": "starter-task.py.txt"}
SCHEMA = "experiment.schema.json"


def make_project(folder: Path) -> None:
    """Write the project's files into `folder`; ConfigError where one of them is there already."""
    there = [name for name in (*STARTER, SCHEMA) if (folder / name).exists()]
    if there:
        raise ConfigError(f"{folder} already holds {', '.join(there)}; nothing was written. Name another folder.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, template in STARTER.items():
            (folder / name).write_text(files("tuneyard.launch").joinpath(template).read_text())
        (folder / SCHEMA).write_text(schema())
    except OSError as error:
        raise ConfigError(f"{folder} cannot be written: {error}") from error
    print(f"Made {', '.join((*STARTER, SCHEMA))} in {folder}.")  # noqa: T201 - the command line speaks
    print(f"Next: cd {folder} && tuneyard train experiment.yaml")  # noqa: T201 - the command line speaks


def schema() -> str:
    """The experiment file's JSON schema, for editors."""
    return json.dumps(Experiment.model_json_schema(), indent=1) + "\n"
