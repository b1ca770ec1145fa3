"""`tuneyard tune`: a sweep, live in the terminal, and its table and report at the end."""

import shlex
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from tuneyard.launch.compare_table import render
from tuneyard.launch.request import base_spec, open_experiment_store, sweep_to_resume
from tuneyard.launch.sweep_view import SweepView
from tuneyard.trainers.config.checks import check_augment, check_experiment, check_task_and_model
from tuneyard.trainers.config.experiment import Experiment
from tuneyard.trainers.config.loading import load_experiment
from tuneyard.trainers.config.training import Prices
from tuneyard.trainers.errors import ConfigError, InterruptedRunError
from tuneyard.trainers.record import SweepRecord
from tuneyard.trainers.signals import StopSignals
from tuneyard.tune.history import read_earlier
from tuneyard.tune.reports.comparison import compare
from tuneyard.tune.reports.report import report_html, write_report
from tuneyard.tune.sweep import SweepRequest, new_sweep_id, run_sweep

CONNECT_S = 10.0
REPORT = "report.html"
"""Its key below the sweep's, where the sweep ran on a cluster."""


def tune_command(
    path: Path, overrides: Sequence[str], *, resume: bool, grow: int | None, warm_start: Sequence[str],
    sweep_id: str | None, address: str | None, report: Path | None,
) -> None:  # fmt: skip
    """Check everything, run the sweep, and say what came out."""
    experiment = load_experiment(path, overrides)
    check_experiment(experiment, sweep=True)
    _check_resources(experiment, here=address is None)
    if address is not None:
        _check_address(address)
    store = open_experiment_store(experiment)
    chosen = sweep_to_resume(store, experiment.name, sweep_id) if resume else new_sweep_id()
    console = Console(highlight=False)
    _check_parts(experiment, path)
    prices = _prices(experiment, here=address is None)
    base = base_spec(experiment, path, chosen, resume=False, progress=False)
    with StopSignals("Stopping the sweep: its trials save first. Ctrl-C again leaves at once.") as signals:
        request = SweepRequest(
            base, chosen, resume, address, signals.asked, grow=grow, warm_start=tuple(warm_start), prices=prices
        )
        console.print(f"{experiment.name}: sweep {chosen} -> {base.store_uri}/{request.prefix}", soft_wrap=True)
        earlier = read_earlier(store, request.prefix)
        ended, runs = sum(run.ended for run in earlier), _runs_in_all(request, len(earlier))
        with SweepView(request.config, experiment.train.epochs, console, trials=runs, ended=ended) as view:
            record = run_sweep(request, view)
    target = f"{base.store_uri}/{request.prefix}"
    comparison = compare([target], options=experiment.checkpoint.s3_options)
    console.print()
    render(comparison, console, None)
    _summarize(record, target, experiment, console)
    if report is None and address is not None:
        # On a node of a cluster a file is nobody's: a job's folder is removed after it, and the node itself some day.
        store.put(f"{request.prefix}{REPORT}", report_html(comparison).encode())
        place = f"{target}{REPORT}"
    else:
        page = report or Path(base.tracking_dir).parent / f"{experiment.name}-{chosen}.html"
        write_report(comparison, page)
        place = str(page.absolute())
    console.print(f"report: {place}", soft_wrap=True)
    if record.status == "interrupted":
        given = shlex.join([str(path), *overrides])
        raise InterruptedRunError(f"The sweep was stopped. Go on with: tuneyard tune {given} --sweep {chosen} --resume")


def _check_resources(experiment: Experiment, *, here: bool) -> None:
    """What a cluster has is known only once it is asked; what this machine has, at once."""
    resources = experiment.resources
    if not here:
        return
    from tuneyard.trainers.session import available_cores  # imports torch

    cores = available_cores()
    workers = 1 if resources.workers == "auto" else resources.workers
    each = 1 if resources.cpus_per_worker == "auto" else resources.cpus_per_worker
    if workers * each > cores:
        raise ConfigError(
            f"resources: {workers} worker(s) with cpus_per_worker {each} are asked for, and this machine has {cores} "
            "core(s); give at most that, or the address of a cluster."
        )


def _runs_in_all(request: SweepRequest, before: int) -> int:
    """How many runs the sweep will have at most: a grid has no more than its points, and each fold is a run."""
    config, validation = request.config, request.experiment.data.validation
    trials = config.trials
    if config.search == "grid":
        from tuneyard.tune.space import grid  # imports Optuna

        trials = min(trials, len(grid(config.space)))
    folds = (validation.folds or 1) if validation.every_fold else 1
    confirming = config.confirm.top * config.confirm.seeds * folds if config.confirm else 0
    searched = before + request.grow * folds if request.grow is not None else trials * folds
    return searched + confirming


def _prices(experiment: Experiment, *, here: bool) -> Prices:
    """The user's own prices or, where money limits the sweep, the table's for what this machine has."""
    own = experiment.resources.prices
    if own is not None or experiment.tune is None or experiment.tune.budget.money is None:
        return own or Prices()
    from tuneyard.launch.plan.basis import find_prices, this_machine

    found = find_prices(experiment, this_machine(experiment).gpu).prices if here else Prices()
    if found == Prices():
        raise ConfigError(
            "tune.budget.money: what an hour costs there is not known. Give resources.prices, such as {gpu_hour: 1.2}."
        )
    return found


def _check_address(address: str) -> None:
    """Raise ConfigError where nobody answers: Ray itself tries for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return  # auto, local and the like, which Ray knows better
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_S).close()
    except OSError as error:
        raise ConfigError(
            f"There is no Ray cluster at {address}: {error}. Give the address of one (--address or RAY_ADDRESS), or "
            "none to use this machine."
        ) from error


def _check_parts(experiment: Experiment, path: Path) -> None:
    """Load the data, and build every model that the sweep may choose, before any trial starts."""
    from tuneyard.trainers.session import prepare_data

    project_dir = path.absolute().parent
    data = prepare_data(experiment.data, project_dir)
    for skipped in data.skipped:
        print(f"skipped {skipped}", file=sys.stderr)  # noqa: T201 - the command line speaks
    check_augment(experiment, data.channels)
    check_task_and_model(experiment, project_dir, data.classes, data.channels)


def _summarize(record: SweepRecord, target: str, experiment: Experiment, console: Console) -> None:
    console.print()
    if record.winner is None:
        console.print("No trial came to a result.")
        return
    console.print(f"winner: {record.winner}", soft_wrap=True)
    if experiment.tune and experiment.tune.confirm and not record.confirmation and record.status == "completed":
        console.print(
            "Nothing was confirmed over seeds: fewer than two trials came to a result, or the budget ended it."
        )
    if record.out_of_fold:
        joined = record.out_of_fold
        console.print(
            f"out-of-fold accuracy {joined['accuracy']:.4f} over {joined['covered']} samples: {joined['key']}",
            soft_wrap=True,
        )
    for name, value in (record.winner_test or {}).items():
        console.print(f"{name} {value:.4f}")
    from tuneyard.launch.request import best_checkpoint

    console.print(f"best checkpoint: {best_checkpoint(experiment, target, record.winner_runs[0])}", soft_wrap=True)
