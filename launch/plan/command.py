"""`tuneyard plan`: what a sweep would do and cost, from a few dozen steps of a few of its configurations."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from tuneyard.launch.plan.basis import Machine, Measured, draw, find_prices, measure, this_machine
from tuneyard.launch.plan.table import render_plan
from tuneyard.trainers.config.checks import check_augment, check_experiment, check_task_and_model
from tuneyard.trainers.config.experiment import Experiment
from tuneyard.trainers.config.loading import load_experiment
from tuneyard.trainers.config.search import TuneConfig
from tuneyard.trainers.errors import ConfigError

if TYPE_CHECKING:
    from tuneyard.trainers.session import Session
    from tuneyard.tune.rehearsal import Pace

RAY_START_S = 6.0  # until Ray runs on this machine; a cluster's runs already
LEG_S = (
    0.4  # what a kept process takes from one leg to the next beside making the model (benchmarks/trial_turnaround.py)
)


def plan_command(
    path: Path, overrides: Sequence[str], *, configs: int, steps: int, parallel: int | None, as_json: bool
) -> None:
    """Check the experiment as `tune` does, measure, and print the plan. Nothing is started or stored."""
    experiment = load_experiment(path, overrides)
    check_experiment(experiment, sweep=True)
    from tuneyard.tune.plan import make_plan
    from tuneyard.tune.rehearsal import Stage

    config = _tune(experiment)
    machine = this_machine(experiment)
    basis = find_prices(experiment, machine.gpu)
    session = _session(experiment, machine)
    startup_s = RAY_START_S + _process_age_s()
    _check_parts(experiment, path, session)
    drawn = draw(config, path.absolute().parent)
    console = Console(highlight=False, stderr=as_json)
    measured = _measure_some(experiment, drawn, path, session, machine, console, configs=configs, steps=steps)
    stage = Stage(
        experiment, drawn, [_pace(one) for one in measured], cpus=machine.cpus, gpus=machine.gpus, prices=basis.prices,
        parallel=min(parallel or machine.room, config.concurrent or len(drawn), len(drawn)),
        # The first one that is made also imports and warms up what all need; kept processes do that once.
        setup_s=min(one.pace.build_s for one in measured if one.pace is not None) + LEG_S, startup_s=startup_s,
    )  # fmt: skip
    with console.status("playing the sweep through …"):
        plan = make_plan(stage)
    if not as_json:
        render_plan(experiment, plan, measured, machine, basis, console)
        return
    prices = {"source": basis.source, "spot": basis.spot.model_dump() if basis.spot else None}
    told = {
        "name": experiment.name, "plan": asdict(plan), "measured": [asdict(one) for one in measured],
        "machine": asdict(machine), "prices": prices | basis.prices.model_dump(),
    }  # fmt: skip
    print(json.dumps(told, indent=1))  # noqa: T201 - the command line speaks


def _check_parts(experiment: Experiment, path: Path, session: "Session") -> None:
    """As `tune` does: load the data, and build every model that the sweep may choose."""
    project_dir = path.absolute().parent
    data = session.data(experiment.data, project_dir)
    for skipped in data.skipped:
        print(f"skipped {skipped}", file=sys.stderr)  # noqa: T201 - the command line speaks
    check_augment(experiment, data.channels)
    check_task_and_model(experiment, project_dir, data.classes, data.channels)


def _measure_some(
    experiment: Experiment, drawn: Sequence[dict[str, Any]], path: Path, session: "Session", machine: Machine,
    console: Console, *, configs: int, steps: int,
) -> list[Measured]:  # fmt: skip
    """Measure some of the trials' configurations; ConfigError where none of them can be trained."""
    chosen = _spread(drawn, configs)
    measured = []
    for number, values in enumerate(chosen, start=1):
        with console.status(f"measuring configuration {number} of {len(chosen)} …"):
            measured.append(measure(experiment, values, path, session, machine.workers, steps))
    if all(one.pace is None for one in measured):
        raise ConfigError(f"None of the {len(measured)} configurations can be trained here: {measured[0].error}")
    return measured


def _tune(experiment: Experiment) -> TuneConfig:
    assert experiment.tune is not None, "check_experiment has refused this"
    return experiment.tune


def _session(experiment: Experiment, machine: Machine) -> "Session":
    """A session as a worker of a trial has it, with as many threads."""
    from tuneyard.trainers.session import Session

    threads = max(int(machine.cpus) // machine.workers, 1)
    return Session(threads=threads, cpu=experiment.resources.gpus_per_worker == 0)


def _process_age_s() -> float:
    """How long this process has lived, most of it for imports: a worker's process needs about that long too."""
    import time

    import psutil

    return time.time() - psutil.Process().create_time()


def _spread(drawn: Sequence[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """So many of them, evenly spread: a grid's neighbours are alike."""
    count = min(count, len(drawn))
    return [drawn[place * len(drawn) // count] for place in range(count)]


def _pace(measured: Measured) -> "Pace":
    from tuneyard.tune.rehearsal import Pace

    return Pace(measured.pace.epoch_s if measured.pace is not None else ())
