"""`tuneyard drill`: kills a worker of a run of this experiment, and measures how the run gets over it."""

import json
import os
import random
import signal
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tuneyard.launch.request import base_spec, new_run_id, open_experiment_store
from tuneyard.trainers.config.checks import check_experiment
from tuneyard.trainers.config.loading import load_experiment
from tuneyard.trainers.errors import ConfigError, InterruptedRunError
from tuneyard.trainers.spec import TrialSpec
from tuneyard.trainers.stores.store import Store

if TYPE_CHECKING:
    from tuneyard.trainers.parallel.supervisor import Loss, Recovery, Supervisor

STEPS_AFTER_SAVING = 2
"""So that there is something to lose."""
SECONDS_BETWEEN_LOOKS = 0.3


@dataclass(frozen=True, slots=True)
class Drilled:
    """What came out. Seconds count from the moment of the signal, steps from the beginning of the run.

    A warm spare stood ready where `spares` is above 0. noticed_s, first_step_s and the rest are None where it came to
    nothing.
    """

    run_id: str
    workers: int
    spares: int
    worker: int
    signal: str
    went_on: bool
    step: int
    noticed_s: float | None
    first_step_s: float | None
    checkpoint_step: int | None
    steps_again: int | None


def drill_command(path: Path, overrides: Sequence[str], *, worker: int | None, kill_with: str, as_json: bool) -> int:
    """Run the experiment until the drill is done, and print what it came to; the exit status, 1 where it failed."""
    experiment = load_experiment(path, overrides)
    check_experiment(experiment)
    number = _signal(kill_with)
    if experiment.data.validation.every_fold:
        raise ConfigError("drill: one run is enough; add data.validation.fold=0 to hold out the first fold alone.")
    store = open_experiment_store(experiment)
    spec = base_spec(experiment, path, f"drill-{new_run_id()}", resume=False, progress=False)
    from tuneyard.launch.train_command import prepare_run
    from tuneyard.trainers.parallel.processes import WorkerError, train_in_processes

    # What happens on the way is for a person; what comes out is for whoever asked.
    console = Console(highlight=False, stderr=as_json)
    prepared = prepare_run(spec)
    if worker is not None and worker >= prepared.workers:
        raise ConfigError(f"--worker {worker}: the run has {prepared.workers} worker(s), counted from 0.")
    chosen = random.randrange(prepared.workers) if worker is None else worker
    drill = Drill(spec, store, chosen, number, console)
    console.print(f"drill: run {spec.run_id} -> {spec.store_uri}/{spec.prefix}", soft_wrap=True)
    try:
        train_in_processes(_with_spare(spec), prepared.workers, prepared.threads, drill)
    except InterruptedRunError:
        if not drill.done:
            raise
    except WorkerError as error:
        if not drill.killed_ns:
            raise
        console.print(Text(str(error), "red"))
    if not drill.killed_ns:
        raise ConfigError(
            "drill: the run was over before there was a checkpoint with steps after it, and a spare ready. Give it "
            "more to do, for example with train.epochs=100."
        )
    drilled = drill.result(prepared.workers)
    if as_json:
        print(json.dumps(asdict(drilled)))  # noqa: T201 - the command line speaks
    else:
        _render(drilled, console)
    return 0 if drilled.went_on else 1


class Drill:
    """The observer that does it: waits for a checkpoint and some steps, sends the signal, and notes what follows."""

    def __init__(self, spec: TrialSpec, store: Store, worker: int, number: signal.Signals, console: Console) -> None:
        from tuneyard.trainers.parallel.leaving import checkpoints_of

        self._spec, self._worker, self._number, self._console = spec, worker, number, console
        self._checkpoints = checkpoints_of(spec, store)
        self._looked, self._saved = 0.0, 0
        self.killed_ns = self._step = 0
        self._loss: Loss | None = None
        self._recovery: Recovery | None = None

    @property
    def done(self) -> bool:
        """Did the run go on?"""
        return self._recovery is not None

    def look(self, supervisor: "Supervisor") -> None:
        """Send the signal when the time has come."""
        if self.done:
            supervisor.stop()
        elif not self.killed_ns and self._ready(supervisor):
            self._step, self.killed_ns = supervisor.step, time.monotonic_ns()
            os.kill(supervisor.workers[self._worker].pid, self._number)
            self._say(f"after step {self._step}: {self._number.name} to worker {self._worker} of {supervisor.count}")

    def lost(self, loss: "Loss") -> None:
        """The supervisor has noticed."""
        self._loss = self._loss or loss
        self._say(loss.cause.splitlines()[0].rstrip(":"))

    def recovered(self, recovery: "Recovery") -> None:
        """The first step after it is done."""
        self._recovery = self._recovery or recovery

    def result(self, workers: int) -> Drilled:
        """What it came to."""
        recovery, loss = self._recovery, self._loss
        resources = self._spec.experiment.resources
        spares = int(resources.spare_workers) if resources.spare_workers != "auto" else 1
        return Drilled(
            run_id=self._spec.run_id, workers=workers, spares=spares, worker=self._worker, signal=self._number.name,
            went_on=self.done, step=recovery.loss.step if recovery else self._step,
            noticed_s=self._after(loss.noticed_ns) if loss else None,
            first_step_s=self._after(recovery.first_step_ns) if recovery else None,
            checkpoint_step=recovery.origin if recovery else None,
            steps_again=recovery.steps_again if recovery else None,
        )  # fmt: skip

    def _ready(self, supervisor: "Supervisor") -> bool:
        """Is the run in its steps, with something to lose, and a spare warm?"""
        if not (supervisor.stepping and supervisor.spares_ready):
            return False
        if time.monotonic() - self._looked >= SECONDS_BETWEEN_LOOKS:
            self._looked = time.monotonic()
            infos = self._checkpoints.infos()
            self._saved = infos[-1].step if infos else 0
        return 0 < self._saved <= supervisor.step - STEPS_AFTER_SAVING

    def _after(self, then_ns: int) -> float:
        return round((then_ns - self.killed_ns) / 1e9, 3)

    def _say(self, text: str) -> None:
        self._console.print(f"drill: {text}", soft_wrap=True)


def _with_spare(spec: TrialSpec) -> TrialSpec:
    """With a spare beside a single worker too: it is what the drill is to show."""
    resources = spec.experiment.resources
    if resources.spare_workers != "auto":
        return spec
    experiment = spec.experiment.model_copy(update={"resources": resources.model_copy(update={"spare_workers": 1})})
    return spec.model_copy(update={"experiment": experiment})


def _signal(name: str) -> signal.Signals:
    allowed: dict[str, signal.Signals] = {"KILL": signal.SIGKILL, "STOP": signal.SIGSTOP}
    found = allowed.get(name.upper().removeprefix("SIG"))
    if found is None:
        raise ConfigError(f"--signal {name}: allowed are KILL (the worker dies) and STOP (it hangs).")
    return found


def _render(drilled: Drilled, console: Console) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    for row in _rows(drilled):
        table.add_row(*(Text(cell) for cell in row))
    console.print(table)


def _rows(drilled: Drilled) -> list[tuple[str, str]]:
    def told(value: float | None, unit: str) -> str:
        return "never" if value is None else f"{value:.2f}{unit}" if isinstance(value, float) else f"{value}{unit}"

    origin = drilled.checkpoint_step
    return [
        ("the run went on", "yes" if drilled.went_on else "no"),
        ("until the loss was noticed", told(drilled.noticed_s, " s")),
        ("until the first step after it", told(drilled.first_step_s, " s")),
        ("went on from the checkpoint of", "nothing" if origin is None else f"step {origin}"),
        ("steps done twice", told(drilled.steps_again, "")),
    ]
