"""Trains a run with worker processes on this machine: what a lost worker means, and when it is enough."""

import sys
import tempfile
from pathlib import Path

from tuneyard.trainers.checkpoints.fencing import held_by_another
from tuneyard.trainers.errors import InterruptedRunError, TuneyardError
from tuneyard.trainers.parallel.leaving import last_words, saving_s, store_of, too_late
from tuneyard.trainers.parallel.supervisor import Loss, Observer, Outcome, Recovery, Supervisor
from tuneyard.trainers.record import now, read_run, write_record
from tuneyard.trainers.signals import LateError, StopSignals
from tuneyard.trainers.spec import TrialSpec


class WorkerError(TuneyardError):
    """A worker process failed; the text carries its last words."""


class Telling:
    """The observer of a plain run: one line for each recovery."""

    def look(self, supervisor: Supervisor) -> None:
        """Nothing."""

    def lost(self, loss: Loss) -> None:
        """What happened; that it was overcome comes when it is true."""
        print(f"{loss.cause.splitlines()[0].rstrip(':')}; going on.", file=sys.stderr, flush=True)  # noqa: T201

    def recovered(self, recovery: Recovery) -> None:
        """Where the run goes on, and what the loss has cost."""
        print(recovery_line(recovery), file=sys.stderr, flush=True)  # noqa: T201 - a person reads this


def recovery_line(recovery: Recovery) -> str:
    """What was lost, where it goes on, how long it took."""
    where = f"the checkpoint of step {recovery.origin}" if recovery.origin else "the beginning: nothing was saved yet"
    again = f"{recovery.steps_again} step{'' if recovery.steps_again == 1 else 's'} again"
    return f"Lost after step {recovery.loss.step}; went on from {where} ({again}), {recovery.seconds:.1f} s later."


def train_in_processes(spec: TrialSpec, workers: int, threads: int, observer: Observer | None = None) -> None:
    """Train with `workers` processes of `threads` threads each, joined by torchrun's variables over loopback.

    A signal is passed on to all of them; they agree on a step, save and leave. A worker that is lost or hangs is
    replaced, and the run goes on from its newest checkpoint. Raises InterruptedRunError after a stop; WorkerError after
    a mistake that was told, after the same failure at the same step twice, and after more than
    `resources.max_restarts` of them.
    """
    observer = observer or Telling()
    with tempfile.TemporaryDirectory(prefix="tuneyard-") as folder, StopSignals() as signals:
        wanted = spec.experiment.resources.spare_workers
        spares = int(workers > 1) if wanted == "auto" else wanted
        supervisor = Supervisor(workers, threads, spares, Path(folder), signals, observer)
        try:
            _train(spec, supervisor, observer)
        finally:
            supervisor.close()


def _train(spec: TrialSpec, supervisor: Supervisor, observer: Observer) -> None:
    resources = spec.experiment.resources
    losses: list[Loss] = []
    while True:
        outcome = supervisor.run(spec, saving_s(spec), losses[-1] if losses else None)
        loss = outcome.loss(
            supervisor.count, resources.hang_timeout_s, lambda rank: supervisor.workers[rank].last_lines()
        )
        _refuse_late(outcome, loss, supervisor, spec)
        told = [answer for _, answer in sorted(outcome.answers.items()) if answer.how == "told"]
        if told:
            raise WorkerError(told[0].text)
        if loss is None:
            _end_well(outcome, supervisor, spec)
            return
        ended = _why_no_more(losses, loss, resources.max_restarts)
        losses.append(loss)
        if ended is not None:
            supervisor.keep_only(set())
            error = f"{loss.cause}{ended}"
            _record_failure(spec, error)
            raise WorkerError(error)
        observer.lost(loss)
        supervisor.keep_only({rank for rank, answer in outcome.answers.items() if not answer.is_cause})
        spec = spec.model_copy(update={"resume": True})


def _end_well(outcome: Outcome, supervisor: Supervisor, spec: TrialSpec) -> None:
    stopped = [answer for answer in outcome.answers.values() if answer.how == "stopped"]
    sys.stderr.write(supervisor.finish())
    if stopped:
        raise InterruptedRunError(f"run {spec.run_id} was stopped: {stopped[0].text}")


def _why_no_more(losses: list[Loss], loss: Loss, most: int) -> str | None:
    """What to add to the error where this loss is one too many; None where the run is to go on."""
    if any((before.kind, before.step) == (loss.kind, loss.step) for before in losses):
        return f"\nIt happened twice at the same place, after step {loss.step}, so trying once more would not help."
    if len(losses) >= most:
        return f"\nThat is more than resources.max_restarts: {most} allows." if most else ""
    return None


def _refuse_late(outcome: Outcome, loss: Loss | None, supervisor: Supervisor, spec: TrialSpec) -> None:
    """Raise where the run was asked to stop and did not come to save."""
    if not outcome.asked or (loss is None and not outcome.late):
        return
    supervisor.keep_only(set())
    raise LateError(too_late(spec) if outcome.late else last_words(spec, "lost a worker before it had saved"))


def _record_failure(spec: TrialSpec, error: str) -> None:
    """The processes that could have written it are gone. Not into the record of who has taken the run over since."""
    try:
        store = store_of(spec)
        if held_by_another(store, spec.prefix) is not None:
            return
        record = read_run(store, spec.prefix)
        failed = record.model_copy(update={"status": "failed", "error": error, "ended": now()})
        write_record(store, spec.prefix, failed)
    except TuneyardError as fault:
        print(f"The run's record could not be written: {fault}", file=sys.stderr)  # noqa: T201 - a person reads this
