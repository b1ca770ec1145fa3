"""Leaving in time: what to say where a run was asked to stop and could not save before its time was over."""

import threading

from tuneyard.trainers.checkpoints.checkpoints import Checkpoints
from tuneyard.trainers.checkpoints.fencing import Onlooker
from tuneyard.trainers.errors import TuneyardError
from tuneyard.trainers.spec import TrialSpec
from tuneyard.trainers.stores.store import Store, open_store

LOOK_S = 5.0
"""Of the time to leave in: kept for a look at which checkpoint is durable."""


def saving_s(spec: TrialSpec) -> float:
    """How long after a wish to stop the run may be saving."""
    within_s = spec.experiment.resources.leave_within_s
    return max(within_s - LOOK_S, within_s / 2)


def last_words(spec: TrialSpec, why: str) -> str:
    """Why the run leaves without its last checkpoint, and which one it is to go on from."""
    return f"run {spec.run_id} was stopped and {why}. {_durable(spec)}"


def too_late(spec: TrialSpec) -> str:
    """The same, where the time was over."""
    return last_words(
        spec, f"did not save within resources.leave_within_s: {spec.experiment.resources.leave_within_s:g}"
    )


def store_of(spec: TrialSpec) -> Store:
    """The store of this run."""
    return open_store(spec.store_uri, spec.experiment.checkpoint.s3_options)


def checkpoints_of(spec: TrialSpec, store: Store) -> Checkpoints:
    """The run's checkpoints, for who only looks: those of attempts that were replaced do not count."""
    return Checkpoints(store, spec.prefix, spec.blob_prefix, fence=Onlooker(store, spec.prefix))


def _durable(spec: TrialSpec) -> str:
    """A sentence on the newest checkpoint that the store has. Takes LOOK_S at most, whatever the store does."""
    found = ["Its store did not say in time which checkpoint is durable; there is no less than before."]

    def look() -> None:
        try:
            infos = checkpoints_of(spec, store_of(spec)).infos()
        except TuneyardError as error:
            found[0] = f"Its store cannot be asked which checkpoint is durable: {error}"
            return
        newest = f"that of step {infos[-1].step} (epoch {infos[-1].epoch})" if infos else "none"
        found[0] = f"The newest durable checkpoint: {newest}."

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(LOOK_S)
    return found[0]
