"""`tuneyard train`: one run on this machine, without Ray."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from tuneyard.launch.request import base_spec, new_run_id, open_experiment_store, run_to_resume
from tuneyard.trainers.checks import check_experiment
from tuneyard.trainers.errors import ConfigError, InterruptedRunError
from tuneyard.trainers.experiment import Experiment
from tuneyard.trainers.loading import load_experiment
from tuneyard.trainers.record import RunRecord, read_run
from tuneyard.trainers.spec import TrialSpec


def train_command(path: Path, overrides: Sequence[str], *, resume: bool, run_id: str | None) -> None:
    """Check everything, train, and say what came out."""
    experiment = load_experiment(path, overrides)
    check_experiment(experiment)
    store = open_experiment_store(experiment)
    chosen = run_to_resume(store, experiment.name, run_id) if resume else new_run_id()
    spec = base_spec(experiment, path, chosen, resume=resume, progress=True)
    try:
        _train(spec)
    except InterruptedRunError as error:
        given = shlex.join([str(path), *overrides])
        raise InterruptedRunError(
            f"{error}; it is saved. Go on with: tuneyard train {given} --run {chosen} --resume"
        ) from None
    _summarize(read_run(store, spec.prefix), spec, Console(highlight=False))


def _train(spec: TrialSpec) -> None:
    # Torch takes seconds to import: the file's mistakes were told before.
    import torch

    from tuneyard.trainers.checks import check_augment, check_metric
    from tuneyard.trainers.session import Session, available_cores
    from tuneyard.trainers.tasks import task_class
    from tuneyard.trainers.worker import train_here

    experiment = spec.experiment
    gpus = torch.cuda.device_count()
    workers = _workers(experiment, gpus)
    check_experiment(experiment, workers=workers)
    cpus = experiment.resources.cpus_per_worker
    threads = max(available_cores() // workers, 1) if cpus == "auto" else cpus
    session = Session(threads=threads, cpu=experiment.resources.gpus_per_worker == 0)
    project_dir = Path(spec.project_dir)
    data = session.data(experiment.data, project_dir)
    check_metric(experiment, task_class(experiment.task, project_dir)(data.classes, experiment.train).metric_names())
    check_augment(experiment, data.channels)
    for skipped in data.skipped:
        print(f"skipped {skipped}", file=sys.stderr)  # noqa: T201 - the command line speaks
    if workers == 1:
        train_here(spec, session)
        return
    from tuneyard.trainers.processes import train_in_processes

    train_in_processes(spec, workers, threads)


def _workers(experiment: Experiment, gpus: int) -> int:
    resources = experiment.resources
    if resources.gpus_per_worker == 1 and gpus == 0:
        raise ConfigError(
            "resources.gpus_per_worker: 1 is asked for, and this machine shows no GPU; set it to auto or 0."
        )
    uses_gpus = resources.gpus_per_worker != 0 and gpus > 0
    if resources.workers == "auto":
        return gpus if uses_gpus else 1
    if uses_gpus and resources.workers > gpus:
        raise ConfigError(f"resources.workers: {resources.workers} are asked for, and this machine has {gpus} GPU(s).")
    return resources.workers


def _summarize(record: RunRecord, spec: TrialSpec, console: Console) -> None:
    if record.best is not None:
        console.print(f"best {record.metric.name} {record.best.value:.4f} in epoch {record.best.epoch}", soft_wrap=True)
    for name, value in (record.test or {}).items():
        console.print(f"{name} {value:.4f}")
    if record.memory:
        beyond = (record.memory.peak_bytes - record.memory.imports_bytes) / 1e6
        console.print(
            f"peak memory {record.memory.peak_bytes / 1e6:,.0f} MB, {beyond:,.0f} MB of it beyond the imports"
        )
    console.print(f"record and checkpoints: {spec.store_uri}/{spec.prefix}", soft_wrap=True)
