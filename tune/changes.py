"""What may differ between a sweep as it began and the experiment that it goes on with."""

from collections.abc import Iterator
from typing import Any

from tuneyard.trainers.config.experiment import Experiment
from tuneyard.trainers.errors import ConfigError
from tuneyard.trainers.record import SweepRecord

ON_RESUME = (
    "checkpoint", "tracking", "tune.trials", "tune.concurrent", "tune.budget", "tune.max_failures", "tune.confirm",
    "data.cache_dir", "data.cache_gb", "data.download", "data.s3", "resources.prices", "resources.memory_per_worker_gb",
    "resources.spare_workers", "resources.max_restarts", "resources.hang_timeout_s", "resources.leave_within_s",
)  # fmt: skip
ON_GROWING = (*ON_RESUME, "tune")


def refuse_changes(before: SweepRecord, experiment: Experiment, *, grows: bool) -> None:
    """Raise ConfigError where the experiment is not the sweep's own, but for what is free to change.

    A resumed sweep keeps its search; one that grows may have another space, metric, searcher or scheduler, but trains
    its trials as before, or they could not be compared.
    """
    free = ON_GROWING if grows else ON_RESUME
    for key, old, new in differences(before.experiment, experiment.model_dump(mode="json")):
        if not any(f"{key}.".startswith(f"{allowed}.") for allowed in free):
            how = (
                "Grow it with all but the tune section as it was"
                if grows
                else "Resume with the experiment as it was (tune.trials may grow), grow it with --grow N"
            )
            raise ConfigError(
                f"{key} was {old!r} when sweep {before.sweep_id} began, and is {new!r}. {how}, or start a new sweep."
            )


def differences(old: Any, new: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Key path, old and new value of each leaf that differs. A key that is missing on one side counts as None."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            yield from differences(old.get(key), new.get(key), f"{path}.{key}" if path else key)
    elif old != new:
        yield path, old, new
