"""What a sweep wants of a scheduler: how far each run may train, and which paused one goes on.

A run trains in legs. Where a leg ends below the run's last epoch the run is saved and paused; its cores go to another
run, and it may be taken up again later, on any machine. Nothing here knows of Ray.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class NextLeg:
    """A paused run that should go on now.

    Attributes:
        clone_of: population-based training: go on from that run's newest checkpoint instead of its own.
        changes: and with these values from now on, in place of those it was begun with.
    """

    run_id: str
    clone_of: str | None = None
    changes: dict[str, Any] = field(default_factory=dict)


class Scheduler(Protocol):
    """Told of every epoch, in the order in which they come in; never asked twice about the same one."""

    def leg_end(self, run_id: str, epoch: int) -> int | None:
        """The epoch at which a run that stands at `epoch` (0: a new one) is to pause; None: not before its end."""
        ...

    def goes_on(self, run_id: str, epoch: int, value: float) -> bool:
        """After each epoch, with the metric: may it train on? False ends it for good. A value may be NaN."""
        ...

    def paused(self, run_id: str, epoch: int) -> None:
        """The run is saved and waits, after this epoch (about which `goes_on` was asked before, and said yes)."""
        ...

    def next_leg(self, *, exhausted: bool) -> NextLeg | None:
        """A paused run that should go on now, which is not paused any more; None where none should (yet).

        exhausted: no new trial will come and nothing is running, so what waits for company waits in vain.
        """
        ...

    def began(self, run_id: str, overrides: Mapping[str, Any]) -> None:
        """A run begins, with these values."""
        ...

    def gone(self, run_id: str) -> None:
        """The run has completed, failed, or was ended: it is not to be taken up again. Its values stay known."""
        ...
