"""One worker process of a run, as `processes.py` starts it: `python -m tuneyard.trainers.parallel.worker SPEC.json`."""

import signal
import sys
from pathlib import Path

from tuneyard.trainers.errors import InterruptedRunError, TuneyardError
from tuneyard.trainers.parallel import process_group
from tuneyard.trainers.progress import Shown, Silent
from tuneyard.trainers.reporting import complete_tracking
from tuneyard.trainers.run import train
from tuneyard.trainers.session import Session
from tuneyard.trainers.signals import SAVING, StopSignals
from tuneyard.trainers.spec import TrialSpec


def train_here(spec: TrialSpec, session: Session, *, announce_stop: bool = True) -> None:
    """Train `spec` as this process's worker, with the progress shown where the spec asks for it."""
    heading = f"{spec.experiment.name}: run {spec.run_id} -> {spec.store_uri}/{spec.prefix}"
    watcher = Shown(spec.experiment.train.epochs, heading) if spec.progress else Silent()
    with StopSignals(SAVING if announce_stop else "") as signals:
        try:
            train(spec, session, watcher, signals.asked)
        finally:
            watcher.close()
            for problem in session.close():
                print(problem, file=sys.stderr)  # noqa: T201 - a person reads this
            complete_tracking(session, session.store(spec), spec.prefix)


def main(spec_path: str, rank: int, threads: int, workers: int = 1, port: int = 0) -> int:
    """Train as worker `rank` of `workers`, which meet at `port` of this machine, where there are several.

    Exit status: 0 done, 2 a mistake that was told, 3 stopped by a signal after saving."""
    _die_with_parent()
    spec = TrialSpec.model_validate_json(Path(spec_path).read_text())
    if rank != 0:
        spec = spec.model_copy(update={"progress": False})
    try:
        cpu = spec.experiment.resources.gpus_per_worker == 0
        if workers > 1:
            process_group.join(
                rank=rank, world_size=workers, local_rank=rank, local_world_size=workers, address="127.0.0.1",
                port=port, backend=process_group.backend_here(workers, cpu=cpu),
            )  # fmt: skip
        train_here(spec, Session(threads=threads, cpu=cpu), announce_stop=False)
    except InterruptedRunError:
        return 3
    except TuneyardError as error:
        print(error, file=sys.stderr)  # noqa: T201 - a person reads this
        return 2
    return 0


def _die_with_parent() -> None:
    """Ask the kernel to kill this process when the one that started it is gone, killed perhaps.

    Otherwise this worker would go on saving into a run that somebody may be resuming. Linux alone can be asked.
    """
    if sys.platform == "linux":
        import ctypes

        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], *(int(number) for number in sys.argv[2:])))
