"""Evaluates a finished run's best checkpoint on the test set, and writes the result into its record."""

from pathlib import Path

from tuneyard.trainers.build import build_trainer, test_metrics
from tuneyard.trainers.checkpoints.checkpoints import Checkpoints
from tuneyard.trainers.checkpoints.fencing import Onlooker
from tuneyard.trainers.engine import Engine
from tuneyard.trainers.errors import CheckpointError, DataError
from tuneyard.trainers.progress import Silent
from tuneyard.trainers.record import read_run, write_record
from tuneyard.trainers.session import Session
from tuneyard.trainers.spec import TrialSpec
from tuneyard.trainers.tracking.tracker import TrackedRun


def evaluate_on_test(spec: TrialSpec, session: Session) -> dict[str, float]:
    """The test metrics of the run's best checkpoint, kept in its record and sent to its Comet experiment.

    Raises DataError where the data has no test set, CheckpointError where the run has no checkpoint, or was taken up
    again meanwhile.
    """
    data = session.data(spec.experiment.data, Path(spec.project_dir))
    if data.test is None:
        raise DataError(f"{spec.experiment.data.source} has no test set.")
    store = session.store(spec)
    record = read_run(store, spec.prefix)
    fence = Onlooker(store, spec.prefix)
    checkpoints = Checkpoints(store, spec.prefix, spec.blob_prefix, mode=record.metric.mode, fence=fence)
    best = checkpoints.best()
    if best is None:
        raise CheckpointError(f"{store.uri}/{spec.prefix} has no checkpoint with a metric.")
    engine = Engine(spec.experiment.train, cpu=session.cpu, project_dir=Path(spec.project_dir))
    trainer = build_trainer(spec, session, data, engine, Silent(), lambda: False)
    try:
        metrics = test_metrics(trainer, data, checkpoints, best.step)
    finally:
        trainer.train.close()
        engine.close()
        checkpoints.close()
    newest = read_run(store, spec.prefix)
    if newest.attempt > record.attempt:
        raise CheckpointError(
            f"run {spec.run_id} was taken up again while it was evaluated, and its record is the new attempt's."
            " Evaluate it when that has ended."
        )
    write_record(store, spec.prefix, newest.model_copy(update={"test": metrics}))
    previous = TrackedRun.model_validate(record.tracking) if record.tracking else None
    session.tracker.begin(spec, previous)
    session.tracker.log_metrics(metrics, step=best.step, epoch=best.epoch)
    session.tracker.finish(record.status)
    return metrics
