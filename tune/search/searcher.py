"""What a sweep wants of a searcher: the next values to try, given all that was tried."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

TriedStatus = Literal["running", "paused", "stopped", "completed", "failed"]


@dataclass(frozen=True, slots=True)
class Tried:
    """One trial so far, of this sweep or of an earlier one.

    Attributes:
        overrides: key path -> value, as it was sampled.
        values: the metric after each epoch, the first epoch first; of several folds their mean.
        status: "paused" may still go on, "stopped" was given up by the scheduler, "failed" has no result.
        objectives: the metric and each further objective in the experiment's order, once there is a result; empty
            where the sweep has one objective.
    """

    overrides: dict[str, Any]
    values: tuple[float, ...] = ()
    status: TriedStatus = "running"
    objectives: tuple[float, ...] = ()


class Searcher(Protocol):
    """Says what to try next. A user's own is a class in task.py with this method, made as `MySearch(config)`."""

    def ask(self, trials: Sequence[Tried]) -> dict[str, Any] | None:
        """Values for the keys of the space; None when there is nothing left to try.

        trials: everything tried so far, oldest first; from call to call it only grows at its end, and a trial's values
        and status may change in place. What is asked must depend on `trials` and the sweep's seed alone, so that a
        resumed sweep goes on as if nothing had happened.
        """
        ...
