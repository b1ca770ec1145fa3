"""A worker process of a run, as its supervisor starts it: `python -m … .worker ANSWERS_FD PARENTS_PID`.

It imports everything first, then takes orders (`orders.py`) from its standard input until that ends. So a process that
is ready and waits is a warm spare, and one whose run lost another worker can go on with a new one.
"""

import os
import signal
import sys
import traceback
from contextlib import suppress
from pathlib import Path

from tuneyard.trainers.errors import InterruptedRunError, TuneyardError
from tuneyard.trainers.parallel import process_group
from tuneyard.trainers.parallel.board import Beating, Board
from tuneyard.trainers.parallel.leaving import saving_s, too_late
from tuneyard.trainers.parallel.orders import Answer, Order
from tuneyard.trainers.parallel.spare import rehearse
from tuneyard.trainers.progress import Shown, Silent
from tuneyard.trainers.reporting import complete_tracking
from tuneyard.trainers.run import train
from tuneyard.trainers.session import Session
from tuneyard.trainers.signals import SAVING, Deadline, StopSignals
from tuneyard.trainers.spec import TrialSpec


def train_here(spec: TrialSpec, session: Session) -> None:
    """Train `spec` in this process, alone, with the progress shown where the spec asks for it.

    After a signal the process ends in time, whatever the upload of the last checkpoint is at.
    """
    watcher = _watcher(spec)
    with StopSignals(SAVING, lambda: Deadline(saving_s(spec), lambda: too_late(spec))) as signals:
        try:
            train(spec, session, watcher, signals.asked)
        finally:
            watcher.close()
            _close(session, spec)


class Serving:
    """One worker process: what it keeps from order to order."""

    def __init__(self, signals: StopSignals) -> None:
        self._signals = signals
        self._session: Session | None = None
        self._trained: TrialSpec | None = None

    def obey(self, order: Order) -> Answer:
        """Do what is ordered."""
        if order.only_prepare:
            return self._prepare(order)
        try:
            self._train(order)
        except InterruptedRunError as error:
            return Answer(how="stopped", kind=type(error).__name__, text=str(error))
        except TuneyardError as error:
            return Answer(how="told", kind=type(error).__name__, text=str(error))
        except Exception as error:  # noqa: BLE001 - told to the supervisor, with its traceback
            text = "".join(traceback.format_exception(error))
            return Answer(how="failed", kind=type(error).__name__, text=text, link=process_group.is_broken_link(error))
        finally:
            # The next attempt has a group of its own. This one's may be in any state.
            with suppress(RuntimeError):
                process_group.leave()
        return Answer(how="done")

    def close(self) -> None:
        """Wait for the trackers, and note where they have put things."""
        if self._session is not None and self._trained is not None:
            _close(self._session, self._trained)

    def _prepare(self, order: Order) -> Answer:
        # What goes wrong here goes wrong with the workers too, who tell it.
        with suppress(Exception):
            rehearse(order.spec, self._session_of(order))
        return Answer(how="ready")

    def _train(self, order: Order) -> None:
        spec, cpu = order.spec, _on_cpu(order.spec)
        session = self._session_of(order)
        board = Board(Path(order.board), order.workers)
        shown = _watcher(spec if order.rank == 0 else spec.model_copy(update={"progress": False}))
        watcher = Beating(shown, board, order.rank, order.attempt, spec.experiment.train.epochs)
        if order.rank == 0:
            self._trained = spec
        try:
            if order.workers > 1:
                process_group.join(
                    rank=order.rank, world_size=order.workers, local_rank=order.rank,
                    local_world_size=order.workers, address="127.0.0.1", port=order.port,
                    backend=process_group.backend_here(order.workers, cpu=cpu), timeout_s=order.exchange_s,
                )  # fmt: skip
            train(spec, session, watcher, self._signals.asked)
        finally:
            shown.close()
            board.close()

    def _session_of(self, order: Order) -> Session:
        if self._session is None:
            self._session = Session(threads=order.threads, cpu=_on_cpu(order.spec))
        return self._session


def _watcher(spec: TrialSpec) -> Shown | Silent:
    heading = f"{spec.experiment.name}: run {spec.run_id} -> {spec.store_uri}/{spec.prefix}"
    return Shown(spec.experiment.train.epochs, heading) if spec.progress else Silent()


def _on_cpu(spec: TrialSpec) -> bool:
    return spec.experiment.resources.gpus_per_worker == 0


def _close(session: Session, spec: TrialSpec) -> None:
    for problem in session.close():
        print(problem, file=sys.stderr)  # noqa: T201 - a person reads this
    complete_tracking(session, session.store(spec), spec.prefix)


def _die_with_parent(parent: int) -> None:
    """Ask the kernel to kill this process when the one that started it is gone, killed perhaps.

    Otherwise this worker would go on saving into a run that somebody may be resuming. Linux alone can be asked.
    """
    if sys.platform == "linux":
        import ctypes

        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    # It may have gone during the imports, with its orders still in the pipe.
    if os.getppid() != parent:
        os._exit(1)


def main(answers_fd: int, parent: int) -> int:
    """Obey orders until there are no more; one line goes back for each run."""
    _die_with_parent(parent)
    with StopSignals("") as signals:
        serving = Serving(signals)
        for line in sys.stdin.buffer:
            os.write(answers_fd, serving.obey(Order.model_validate_json(line)).line())
        serving.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))
