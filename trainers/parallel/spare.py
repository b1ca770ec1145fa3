"""What a warm spare does ahead, so that nothing but the work itself is left when a worker's place falls to it."""

from contextlib import suppress
from pathlib import Path

from tuneyard.trainers.build import build_trainer
from tuneyard.trainers.engine import Engine
from tuneyard.trainers.errors import InterruptedRunError
from tuneyard.trainers.parallel import process_group
from tuneyard.trainers.progress import Silent
from tuneyard.trainers.session import Session
from tuneyard.trainers.spec import TrialSpec


def rehearse(spec: TrialSpec, session: Session) -> None:
    """Load the data, build the run's parts in a group of this process alone, and on a CPU do a step. Saves nothing.

    Most of the seconds that this takes are imports that come late: of torch's compiler, for a wrapped model. It stays
    off the GPU, whose memory is the workers'. Raises what a run would.
    """
    data = session.data(spec.experiment.data, Path(spec.project_dir))
    process_group.join_alone("gloo")
    try:
        engine = Engine(spec.experiment.train, cpu=True, project_dir=Path(spec.project_dir))
        try:
            trainer = build_trainer(spec, session, data, engine, Silent(), lambda: True)
            if session.cpu:
                with suppress(InterruptedRunError):
                    next(trainer.epochs())
            trainer.train.close()
        finally:
            engine.close()
    finally:
        process_group.leave()
