"""Sees to it that Ray places trials where there is room for them, and tells where there is none.

Ray's GCS books the resources of a placement group before it asks the nodes for them. Where a node's answer to that does
not come, as when a link breaks in that moment, the booking stays (Ray 2.60), and no trial is placed there any more. It
goes as soon as the node tells its resources anew, which a node does when they change.
"""

import logging
import time
from collections.abc import Callable, Collection
from typing import Protocol

LOOK_S = 5.0
STIR_S = 30.0
"""A group waits so long before the nodes are made to tell their resources anew; each next time twice as long."""
LONGEST_STIR_S = 600.0
TELL_S = 60.0

log = logging.getLogger(__name__)


class Place(Protocol):
    """Ray, as far as it is asked here."""

    def unplaced(self) -> Collection[str]:
        """The ids of this sweep's placement groups that have no resources yet."""
        ...

    def stir(self) -> None:
        """Make every node tell its resources anew."""
        ...

    def free(self) -> str:
        """How much is free of what there is, for a person to read."""
        ...


class Placing:
    """Follows the placement groups that wait.

    Args:
        needs: what a trial asks for, for a person to read.
        idle: does no trial run?
    """

    def __init__(self, needs: str, idle: Callable[[], bool], clock: Callable[[], float] = time.monotonic) -> None:
        self._needs, self._idle, self._clock = needs, idle, clock
        self._looked = float("-inf")
        self._since: dict[str, float] = {}
        self._oldest: float | None = None
        self._stir_at, self._pause_s = float("inf"), STIR_S
        self._told = False

    def look(self, place: Place) -> None:
        """Called often; looks every few seconds."""
        now = self._clock()
        if now - self._looked < LOOK_S:
            return
        self._looked = now
        self._since = {group: self._since.get(group, now) for group in place.unplaced()}
        since = min(self._since.values(), default=None)
        if since is None:
            return
        if since != self._oldest:
            self._oldest, self._told = since, False
            self._stir_at, self._pause_s = since + STIR_S, STIR_S
        if now >= self._stir_at:
            place.stir()
            self._pause_s = min(2 * self._pause_s, LONGEST_STIR_S)
            self._stir_at = now + self._pause_s
        if now - since >= TELL_S and self._idle() and not self._told:
            self._told = True
            log.warning(
                "No trial has begun for %.0f s: each asks for %s, and Ray has %s free. The sweep waits for room; "
                "`ray status` tells more.", now - since, self._needs, place.free(),
            )  # fmt: skip
