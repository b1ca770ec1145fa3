"""Trains a run with worker processes, and goes on from its newest checkpoint when one of them is lost or hangs.

Workers that were left alone by a lost one keep their process, with its imports and data: they leave the broken group
and join a new one, in which a warm spare has the lost worker's place. What costs seconds, a new process with its
imports, was done ahead.
"""

import selectors
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tuneyard.trainers.parallel.board import Board, Phase, Place
from tuneyard.trainers.parallel.orders import Answer, Order
from tuneyard.trainers.parallel.process_group import free_port
from tuneyard.trainers.parallel.watchdog import Watchdog
from tuneyard.trainers.parallel.worker_process import WorkerProcess
from tuneyard.trainers.signals import StopSignals
from tuneyard.trainers.spec import TrialSpec

_TICK_S = 0.2
"""How long a signal to this process, or a wish of its observer, may wait. An end of a worker wakes it at once."""
_ALIKE_S = 3.0
"""After a mistake that was told: the others may be in the middle of telling the same one."""
_OUT_S = 30.0
"""After a loss: for the others to come out of their exchange, and to end the upload that is under way."""
_EXCHANGE_S = 24 * 3600.0
"""The group's own patience: the watchdog has less, and knows more."""
_TRACKERS_S = 90.0


@dataclass(frozen=True, slots=True)
class Loss:
    """Why an attempt came to nothing. `cause`: for the user; `step`: the last that was done; times by CLOCK_MONOTONIC.

    kind: for telling whether two losses are alike. rank: the worker that was the cause; None where they hung together.
    """

    cause: str
    kind: str
    rank: int | None
    step: int
    noticed_ns: int


@dataclass(frozen=True, slots=True)
class Recovery:
    """A loss that was overcome: after which step the run went on, and when the first step was done again."""

    loss: Loss
    origin: int
    first_step_ns: int

    @property
    def seconds(self) -> float:
        """From the moment the loss was noticed to the first step after it."""
        return (self.first_step_ns - self.loss.noticed_ns) / 1e9

    @property
    def steps_again(self) -> int:
        """Steps that were done twice."""
        return max(self.loss.step - self.origin, 0)


class Observer(Protocol):
    """Who is told how a supervised run goes, between its events and a few times a second."""

    def look(self, supervisor: "Supervisor") -> None: ...

    def lost(self, loss: Loss) -> None: ...

    def recovered(self, recovery: Recovery) -> None: ...


class Supervisor:
    """Holds the worker processes of one run. Use it in the main thread, and `close` it.

    Attributes:
        workers: the processes at work, by rank.
        recoveries: what was overcome so far.
    """

    def __init__(
        self, workers: int, threads: int, spares: int, folder: Path, signals: StopSignals, observer: Observer
    ) -> None:  # fmt: skip
        self.count, self._threads, self._spares_wanted = workers, threads, spares
        self._folder, self._signals, self._observer = folder, signals, observer
        self.workers: dict[int, WorkerProcess] = {}
        self.recoveries: list[Recovery] = []
        self._spares: list[WorkerProcess] = []
        self._started = self._attempt = 0
        self._board = Board(folder / "board", workers)
        self._wish = False

    @property
    def step(self) -> int:
        """The last step that any worker has done in this attempt; 0 before the first."""
        return max(place.step for place in self._board.read_all())

    @property
    def attempt(self) -> int:
        """Counted from 1."""
        return self._attempt

    @property
    def stepping(self) -> bool:
        """Have all workers done a step in this attempt, and is the run not at its end?"""
        return all(
            place.attempt == self._attempt and place.first_step_ns and place.phase != Phase.ENDING
            for place in self._board.read_all()
        )

    @property
    def spares_ready(self) -> bool:
        """Are all spares that are wanted there and prepared?"""
        for spare in self._spares:
            spare.listen()
        return sum(spare.ready for spare in self._spares) >= self._spares_wanted

    def stop(self) -> None:
        """As a signal would: let the workers save and leave."""
        self._wish = True

    def run(self, spec: TrialSpec, leave_by_s: float, before: Loss | None) -> "Outcome":
        """One attempt, on kept processes, spares and new ones, in this order.

        `leave_by_s`: how long after a wish to stop the workers may still be there. `before`: the loss that this attempt
        is to overcome; `recovered` is told after its first step.
        """
        self._attempt += 1
        for rank in range(self.count):
            if rank not in self.workers:
                self.workers[rank] = self._spares.pop(0) if self._spares else self._start()
            # What an earlier attempt has left there would be taken for this one's.
            self._board.write(rank, Place(self._attempt, Phase.STARTING, -1, 0, 0, 0))
        port = free_port() if self.count > 1 else 0
        for rank, worker in self.workers.items():
            worker.answers.clear()
            worker.order(self._order(spec, rank, port))
        return _Attempt(self, spec, leave_by_s, before).watch()

    def keep_only(self, ranks: set[int]) -> None:
        """End the other processes."""
        for rank in set(self.workers) - ranks:
            self.workers.pop(rank).end()

    def finish(self) -> str:
        """Let all workers end by themselves; what worker 0 has said to stderr: warnings, of trackers for example."""
        while self._spares:
            self._spares.pop().end()
        for worker in self.workers.values():
            worker.dismiss()
        for worker in self.workers.values():
            worker.wait(_TRACKERS_S)
        said = self.workers[0].said() if 0 in self.workers else ""
        self.workers.clear()
        return said

    def close(self) -> None:
        """End every process."""
        for worker in (*self.workers.values(), *self._spares):
            worker.end()
        self.workers.clear()
        self._spares.clear()
        self._board.close()

    def _start(self) -> WorkerProcess:
        self._started += 1
        return WorkerProcess(self._threads, self._folder / f"worker-{self._started}.txt")

    def _order(self, spec: TrialSpec, rank: int = 0, port: int = 0, *, only_prepare: bool = False) -> Order:
        return Order(
            spec=spec, threads=self._threads, workers=self.count, rank=rank, port=port, attempt=self._attempt,
            board=str(self._board.path), exchange_s=_EXCHANGE_S, only_prepare=only_prepare,
        )  # fmt: skip

    def keep_spares(self, spec: TrialSpec) -> None:
        """Have as many spares as are wanted; called when the workers are at work, so as not to slow their start."""
        self._spares = [spare for spare in self._spares if spare.status is None]
        while len(self._spares) < self._spares_wanted:
            spare = self._start()
            spare.order(self._order(spec, only_prepare=True))
            self._spares.append(spare)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended, each worker by its rank.

    answers: of those that have answered. statuses: of those that ended without. hung: those that were ended for that.
    late: were they ended because they had not left in time?
    """

    answers: dict[int, Answer]
    statuses: dict[int, int]
    hung: list[int]
    late: bool
    asked: bool
    step: int
    noticed_ns: int

    def loss(self, workers: int, timeout_s: float, said: Callable[[int], str]) -> Loss | None:
        """What it failed of: a lost worker, else the first failure that is no echo of another's; None without any.

        `said`: the last words of the worker of this rank.
        """
        if self.hung:
            one = len(self.hung) == 1
            who = f"Worker {self.hung[0]} of {workers}" if one else "The workers"
            cause = f"{who} hung: no step for {timeout_s:g} s"
            return Loss(cause, "hung", self.hung[0] if one else None, self.step, self.noticed_ns)
        failed = {rank: answer for rank, answer in self.answers.items() if answer.how == "failed"}
        # A worker that fails in an exchange may bring others down: what a signal has ended comes first.
        for rank, status in sorted(self.statuses.items(), key=lambda item: (item[1] >= 0, item[0])):
            killed = status < 0
            how = f"was ended by {signal.Signals(-status).name}" if killed else f"ended with status {status}"
            hint = " (is there enough memory?)" if status == -signal.SIGKILL else ""
            cause = f"Worker {rank} of {workers} {how}{hint}:\n{said(rank)}"
            return Loss(cause, how, rank, self.step, self.noticed_ns)
        for rank, answer in sorted(failed.items(), key=lambda item: (item[1].link, item[0])):
            cause = f"Worker {rank} of {workers} failed:\n{answer.text.strip()}"
            last = answer.text.strip().splitlines()[-1] if answer.text.strip() else ""
            kind = answer.kind if answer.link else last
            return Loss(cause, kind, rank, self.step, self.noticed_ns)
        return None


class _Attempt:
    """Watches one attempt to its end."""

    def __init__(self, supervisor: Supervisor, spec: TrialSpec, leave_by_s: float, before: Loss | None) -> None:
        self._supervisor, self._spec, self._before = supervisor, spec, before
        self._board, self._observer, self._signals = supervisor._board, supervisor._observer, supervisor._signals
        self._workers = dict(supervisor.workers)
        self._watchdog = Watchdog(spec.experiment.resources.hang_timeout_s)
        self._leave_by_s = leave_by_s
        self._statuses: dict[int, int] = {}
        self._hung: list[int] = []
        self._deadline: float | None = None
        self._leave_by: float | None = None
        self._late = self._asked = self._spared = False
        self._noticed_ns = 0

    def watch(self) -> Outcome:
        """Until every worker has answered or ended, or was given up."""
        with selectors.DefaultSelector() as selector:
            for worker in self._workers.values():
                worker.watch(selector)
            while waiting := self._waiting():
                selector.select(min(_TICK_S, self._watchdog.interval_s))
                self._collect(selector)
                self._pass_on_stop(waiting)
                self._look_after_hangs()
                self._look_at_progress()
                if self._over():
                    break
        return self._outcome()

    def _waiting(self) -> list[int]:
        return [
            rank for rank, worker in self._workers.items() if not worker.answers and rank not in self._statuses
        ]  # fmt: skip

    def _collect(self, selector: selectors.BaseSelector) -> None:
        for rank, worker in self._workers.items():
            if rank in self._statuses:
                continue
            status = worker.status
            worker.listen()
            if status is not None:
                worker.unwatch(selector)
                if not worker.answers:
                    self._statuses[rank] = status
            told = bool(worker.answers) and worker.answers[0].how in ("told", "failed")
            if told and worker.answers[0].is_cause:
                # The others wait for it in an exchange, until its connections break.
                worker.kill()
            if (told or rank in self._statuses) and self._deadline is None:
                self._noticed_ns = self._noticed_ns or time.monotonic_ns()
                understood = told and worker.answers[0].how == "told"
                self._deadline = time.monotonic() + (_ALIKE_S if understood else _OUT_S)

    def _pass_on_stop(self, waiting: list[int]) -> None:
        if (self._signals.asked() or self._supervisor._wish) and not self._asked:
            self._asked = True
            self._leave_by = time.monotonic() + self._leave_by_s
            for rank in waiting:
                self._workers[rank].terminate()

    def _look_after_hangs(self) -> None:
        if self._deadline is not None or self._hung or not self._watchdog.due():
            return
        ranks = sorted(self._workers)
        hung = self._watchdog.look(self._board.read_all(), [self._workers[rank] for rank in ranks])
        if hung:
            self._hung, self._noticed_ns = hung, time.monotonic_ns()
            self._deadline = time.monotonic() + _OUT_S
            for rank in hung:
                self._workers[rank].kill()

    def _look_at_progress(self) -> None:
        if not self._spared and self._deadline is None and self._supervisor.stepping:
            self._spared = True
            self._tell_recovery()
            if not self._asked:
                self._supervisor.keep_spares(self._spec)
        self._observer.look(self._supervisor)

    def _tell_recovery(self) -> None:
        if self._before is not None:
            places = self._board.read_all()
            recovery = Recovery(self._before, places[0].origin, max(place.first_step_ns for place in places))
            self._supervisor.recoveries.append(recovery)
            self._observer.recovered(recovery)

    def _over(self) -> bool:
        now = time.monotonic()
        if self._leave_by is not None and now > self._leave_by:
            self._late = True
            return True
        return self._deadline is not None and now > self._deadline

    def _outcome(self) -> Outcome:
        answers = {rank: worker.answers[0] for rank, worker in self._workers.items() if worker.answers}
        steps = [place.step for place in self._board.read_all() if place.attempt == self._supervisor.attempt]
        return Outcome(
            answers, dict(self._statuses), list(self._hung), self._late, self._asked, max(steps, default=0),
            self._noticed_ns or time.monotonic_ns(),
        )  # fmt: skip
