"""Goes on from a checkpoint: a run's own newest one, or that of the run that population-based training copies."""

import logging
from dataclasses import dataclass, field
from typing import Any

from tuneyard.trainers.checkpoints.checkpoints import CheckpointInfo, Checkpoints
from tuneyard.trainers.checkpoints.fencing import Onlooker
from tuneyard.trainers.config.checks import check_resumed
from tuneyard.trainers.errors import CheckpointError, MissingKeyError
from tuneyard.trainers.loop import Trainer
from tuneyard.trainers.record import RunRecord, read_run
from tuneyard.trainers.session import LoadedData
from tuneyard.trainers.spec import TrialSpec
from tuneyard.trainers.stores.store import Store

log = logging.getLogger(__name__)

_TRIES = 3
"""The run that is copied goes on meanwhile, and may prune what worker 0 has just chosen."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a run stands before it trains: at its beginning, or at a checkpoint.

    Attributes:
        place: the checkpoint's step and epoch, if it is the run's own.
        history: the metrics of the epochs before it.
        cloned_from: runs that the state was copied from, oldest first.
        base: the checkpoint's attempt and step, if it is the run's own.
    """

    place: tuple[int, int] = (-1, -1)
    history: list[dict[str, float]] = field(default_factory=list)
    cloned_from: list[str] = field(default_factory=list)
    base: tuple[int, int] | None = None


def go_on(spec: TrialSpec, trainer: Trainer, checkpoints: Checkpoints, store: Store, data: LoadedData) -> Origin:
    """Bring the trainer to where the spec wants it to begin. All workers must call it.

    A clone reads the other run's checkpoint and copies nothing of it: only its own later saves are its own. From the
    first of them on, what the run had saved before it became a clone does not count any more. Raises CheckpointError
    where the checkpoint does not fit, or where the run to be cloned has none.
    """
    if spec.clone_of is None and not spec.resume:
        return Origin()
    source = spec if spec.clone_of is None else spec.model_copy(update={"run_id": spec.clone_of})
    found = _load_alike(_of(store, source) if spec.clone_of else checkpoints, trainer)
    if found is None:
        if spec.clone_of is None:
            return Origin()
        raise CheckpointError(
            f"{spec.run_id} is to begin from run {spec.clone_of}, which has no checkpoint under {store.uri}/"
            f"{source.prefix}. Let it train an epoch first, or see that the store is the same."
        )
    info, state = found
    _check(spec, source, read_run(store, source.prefix), data)
    _restore(trainer, state, info)
    log.info("%s goes on from step %d (epoch %d) of %s", spec.run_id, info.step, info.epoch, source.run_id)
    cloned_from: list[str] = state["progress"].get("cloned_from", [])
    if spec.clone_of is None:
        return Origin((info.step, info.epoch), state["history"], cloned_from, (info.attempt, info.step))
    own = _record_of_before(store, spec)
    return Origin((-1, -1), state["history"], [*(own.cloned_from if own else []), spec.clone_of])


def _of(store: Store, spec: TrialSpec) -> Checkpoints:
    return Checkpoints(store, spec.prefix, spec.blob_prefix, fence=Onlooker(store, spec.prefix))


def _load_alike(checkpoints: Checkpoints, trainer: Trainer) -> tuple[CheckpointInfo, dict[str, Any]] | None:
    """The newest checkpoint as worker 0 finds it, on every worker."""
    engine = trainer.engine
    if engine.world_size == 1:
        return checkpoints.load()
    error: CheckpointError | None = None
    for _ in range(_TRIES):
        found = checkpoints.load() if engine.is_main else None
        step: int | None = engine.broadcast(found[0].step if found else None)
        if step is None:
            return None
        try:
            found = found or checkpoints.load(step)
        except CheckpointError as fault:
            error = fault
        if not engine.any_worker(found is None):
            return found
    raise error or CheckpointError("another worker could not read the checkpoint that worker 0 has read")


def _check(spec: TrialSpec, source: TrialSpec, before: RunRecord, data: LoadedData) -> None:
    check_resumed(spec.experiment, before.experiment, new_values=spec.new_values or spec.clone_of is not None)
    if before.data and before.data.fingerprint != data.fingerprint:
        raise CheckpointError(
            f"{spec.experiment.data.source} has changed since run {source.run_id} began, and its samples would be "
            "mixed up. Restore the data, or leave --resume out to start a new run."
        )


def _restore(trainer: Trainer, state: dict[str, Any], info: CheckpointInfo) -> None:
    wanted = [_settings(group) for group in trainer.optimizer.param_groups]
    rates = list(trainer.schedule.base_lrs)
    try:
        trainer.restore(state)
    except (KeyError, RuntimeError, ValueError) as error:
        raise CheckpointError(
            f"{info.uri} does not fit this experiment ({error}). Was model or optimizer changed since? "
            "Start a new run, or resume with the experiment as it was."
        ) from error
    _apply(trainer, wanted, rates)


def _settings(group: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in group.items() if name != "params"}


def _apply(trainer: Trainer, wanted: list[dict[str, Any]], rates: list[Any]) -> None:
    """The experiment's learning rate, weight decay and the like, in place of those that the checkpoint has brought.

    They differ in a clone. In a plain resume they are the same, and what is set here is what was there.
    """
    for group, settings in zip(trainer.optimizer.param_groups, wanted, strict=True):
        group.update(settings)
    schedule = trainer.schedule
    schedule.base_lrs = rates
    if schedule.last_epoch > 0:
        # The step that brought the schedule to this place, once more: the rate (and onecycle's momentum) of this step.
        schedule.last_epoch -= 1
        schedule.step()
        schedule._step_count -= 1


def _record_of_before(store: Store, spec: TrialSpec) -> RunRecord | None:
    try:
        return read_run(store, spec.prefix)
    except MissingKeyError:
        return None
