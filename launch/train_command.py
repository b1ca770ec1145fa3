"""`tuneyard train`: one run on this machine, or one for each fold, without Ray."""

import math
import re
import shlex
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from tuneyard.launch.request import base_spec, new_run_id, open_experiment_store, run_to_resume
from tuneyard.trainers.config.checks import check_experiment, check_resumed
from tuneyard.trainers.config.experiment import Experiment
from tuneyard.trainers.config.loading import load_experiment, with_overrides
from tuneyard.trainers.errors import ConfigError, InterruptedRunError, MissingKeyError, choose_from
from tuneyard.trainers.record import RunRecord, read_run
from tuneyard.trainers.signals import LateError, StopSignals
from tuneyard.trainers.spec import TrialSpec
from tuneyard.trainers.stores.store import Store

if TYPE_CHECKING:
    from tuneyard.trainers.session import Session

OUT_OF_FOLD = "out_of_fold.npz"
FOLD_RUN = re.compile(r"(?P<base>.+)-fold\d+")


def train_command(path: Path, overrides: Sequence[str], *, resume: bool, run_id: str | None) -> None:
    """Check everything, train, and say what came out; with `data.validation.folds` alone, every fold in turn."""
    experiment = load_experiment(path, overrides)
    check_experiment(experiment)
    store = open_experiment_store(experiment)
    every_fold = experiment.data.validation.every_fold
    if not resume:
        chosen = new_run_id()
    elif every_fold:
        chosen = _folds_to_resume(store, experiment, run_id)
    else:
        chosen = run_to_resume(store, experiment.name, run_id)
    spec = base_spec(experiment, path, chosen, resume=resume, progress=True)
    console = Console(highlight=False)
    try:
        if every_fold:
            _train_folds(spec, store, console)
        else:
            _train(spec, prepare_run(spec))
            _summarize(read_run(store, spec.prefix), spec, console)
    except InterruptedRunError as error:
        given = shlex.join([str(path), *overrides])
        saved = "" if isinstance(error, LateError) else "; it is saved."
        raise InterruptedRunError(
            f"{error}{saved} Go on with: tuneyard train {given} --run {chosen} --resume"
        ) from None


@dataclass(frozen=True, slots=True)
class Prepared:
    """What was made ready before the first run: this process's session, and how the run is shared out."""

    session: "Session"
    workers: int
    threads: int


def prepare_run(spec: TrialSpec) -> Prepared:
    """All checks that need torch, the data or the machine; raises before a run has begun."""
    # Torch takes seconds to import: the file's mistakes were told before.
    import torch

    from tuneyard.trainers.config.checks import check_augment, check_metric
    from tuneyard.trainers.session import Session, available_cores
    from tuneyard.trainers.tasks import task_class

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
    return Prepared(session, workers, threads)


def _train(spec: TrialSpec, prepared: Prepared) -> None:
    if prepared.workers == 1:
        from tuneyard.trainers.parallel.worker import train_here

        train_here(spec, prepared.session)
        return
    from tuneyard.trainers.parallel.processes import train_in_processes

    train_in_processes(spec, prepared.workers, prepared.threads)


def _train_folds(whole: TrialSpec, store: Store, console: Console) -> None:
    """Every fold that is not complete yet; then the test set, once for each fold, and what they come to together."""
    folds = [_fold_spec(whole, fold) for fold in range(whole.experiment.data.validation.folds or 0)]
    before = {spec.run_id: _record(store, spec) for spec in folds}
    for spec in folds:
        if (record := before[spec.run_id]) is not None:
            # Of the folds that are complete too: all must have been trained alike.
            check_resumed(spec.experiment, record.experiment)
    # The first fold's data are what its run will use: loaded once.
    prepared = prepare_run(folds[0])
    with StopSignals() as signals:
        for spec in folds:
            if (record := before[spec.run_id]) is None or record.status != "completed":
                _stop_if_asked(signals)
                _train(spec.model_copy(update={"resume": record is not None}), prepared)
        _test_folds(folds, store, prepared.session, signals)
    records = {spec.part["fold"]: read_run(store, spec.prefix) for spec in folds}
    _summarize_folds(records, folds, store, whole, console)


def _fold_spec(whole: TrialSpec, fold: int) -> TrialSpec:
    """The run that holds this fold out. No fold sees the test set before all of them are trained."""
    experiment = with_overrides(whole.experiment, {"data.validation.fold": fold})
    return whole.model_copy(
        update={
            "run_id": f"{whole.run_id}-fold{fold}", "trial_id": whole.run_id, "part": {"fold": fold},
            "experiment": experiment, "evaluate_test": False,
        }
    )  # fmt: skip


def _test_folds(folds: Sequence[TrialSpec], store: Store, session: "Session", signals: StopSignals) -> None:
    from tuneyard.trainers.evaluation import evaluate_on_test
    from tuneyard.trainers.reporting import complete_tracking

    for spec in folds:
        if session.data(spec.experiment.data, Path(spec.project_dir)).test is None:
            return
        if read_run(store, spec.prefix).test is None:
            _stop_if_asked(signals)
            evaluate_on_test(spec, session)
            for problem in session.close():
                print(problem, file=sys.stderr)  # noqa: T201 - the command line speaks
            complete_tracking(session, store, spec.prefix)


def _stop_if_asked(signals: StopSignals) -> None:
    """A signal that came between two folds, where no training loop is there to obey it."""
    if signals.asked():
        raise InterruptedRunError("stopped between two folds")


def _folds_to_resume(store: Store, experiment: Experiment, wanted: str | None) -> str:
    """The cross-validation that `--resume` means: the one named (or one of its folds), or the newest."""
    prefix = f"{experiment.name}/"
    keys = [key.removeprefix(prefix) for key in store.keys(prefix)]
    runs = [key.removesuffix("/run.json") for key in keys if key.count("/") == 1 and key.endswith("/run.json")]
    ids = sorted({found["base"] for run in runs if (found := FOLD_RUN.fullmatch(run))})
    if not ids:
        raise ConfigError(
            f"There is no cross-validation of {experiment.name} in {store.uri}: nothing to resume. Leave --resume out "
            "to begin."
        )
    if wanted is not None and (found := FOLD_RUN.fullmatch(wanted)):
        wanted = found["base"]
    if wanted is not None and wanted not in ids:
        raise ConfigError(choose_from(f"Cross-validation of {experiment.name}", wanted, ids))
    chosen = wanted or ids[-1]
    if store.exists(f"{prefix}{chosen}/{OUT_OF_FOLD}"):
        raise ConfigError(
            f"Cross-validation {chosen} is complete: there is nothing to resume. Leave --resume out to train anew."
        )
    return chosen


def _record(store: Store, spec: TrialSpec) -> RunRecord | None:
    try:
        return read_run(store, spec.prefix)
    except MissingKeyError:
        return None


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


def _summarize_folds(
    records: Mapping[int, RunRecord], folds: Sequence[TrialSpec], store: Store, whole: TrialSpec, console: Console
) -> None:
    from tuneyard.tune.folds import collect_out_of_fold

    metric = records[0].metric.name
    bests = {fold: record.best for fold, record in records.items() if record.best is not None}
    for fold, best in bests.items():
        console.print(f"fold {fold}: best {metric} {best.value:.4f} in epoch {best.epoch}")
    _print_mean(metric, [best.value for best in bests.values()], console)
    for name in records[0].test or {}:
        _print_mean(name, [(record.test or {}).get(name, math.nan) for record in records.values()], console)
    together = collect_out_of_fold(
        store, {spec.part["fold"]: spec.prefix for spec in folds}, f"{whole.prefix}{OUT_OF_FOLD}"
    )
    console.print(
        f"out-of-fold accuracy {together.accuracy:.4f} over {together.covered:,} of {together.pool:,} samples"
    )
    console.print(f"out-of-fold predictions: {store.uri}/{together.key}", soft_wrap=True)
    console.print(f"records and checkpoints: {whole.store_uri}/{whole.prefix.rstrip('/')}-fold*/", soft_wrap=True)


def _print_mean(name: str, values: Sequence[float], console: Console) -> None:
    spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    console.print(f"{name} {statistics.fmean(values):.4f}{spread} over {len(values)} folds (mean ± standard deviation)")


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
