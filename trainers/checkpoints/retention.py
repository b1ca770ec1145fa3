"""Which checkpoints stay: the last, the best, and the young."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from tuneyard.trainers.checkpoints.files import Found, newest_of_each_step
from tuneyard.trainers.errors import CheckpointError


@dataclass(frozen=True, slots=True)
class Retention:
    """A checkpoint stays if it is among the `keep_last` newest by step, or the `keep_best` whose metric is best, or was
    saved less than `keep_hours` before the newest one.

    `mode` says which metric is better; of equal ones the newer. Age is the difference of two times of saving, both in
    their manifests: the time of day of whoever prunes does not matter, and age alone never drops the last and the best.
    """

    keep_last: int = 2
    keep_best: int = 1
    keep_hours: float | None = None
    mode: Literal["min", "max"] = "max"

    def __post_init__(self) -> None:
        if self.keep_last < 1 or self.keep_best < 0 or (self.keep_hours is not None and self.keep_hours < 0):
            raise CheckpointError(
                f"checkpoints: keep_last is {self.keep_last}, keep_best {self.keep_best} and keep_hours"
                f" {self.keep_hours}. Allowed: from 1, from 0 and from 0 on."
            )

    def ranked(self, found: list[Found]) -> list[Found]:
        """Those that have a score, the best first, of equal ones the newer first."""
        sign = 1.0 if self.mode == "max" else -1.0
        scored = [(score * sign, entry) for entry in found if (score := entry[1].score) is not None]
        scored.sort(key=lambda pair: (pair[0], pair[1][0]), reverse=True)
        return [entry for _, entry in scored]

    def kept(self, found: list[Found], damaged: Collection[str]) -> set[str]:
        """The keys of the manifests that stay, of those `found`, which are sorted by place.

        `damaged` ones neither stay by this nor push a whole one out.
        """
        whole = [entry for entry in newest_of_each_step(found) if entry[0].key not in damaged]
        kept = whole[-self.keep_last :] + self.ranked(whole)[: self.keep_best] + self._young(whole)
        return {place.key for place, _ in kept}

    def _young(self, found: list[Found]) -> list[Found]:
        if self.keep_hours is None or not found:
            return []
        newest = datetime.fromisoformat(found[-1][1].saved_at)
        limit_s = self.keep_hours * 3600.0
        return [
            entry for entry in found if (newest - datetime.fromisoformat(entry[1].saved_at)).total_seconds() <= limit_s
        ]
