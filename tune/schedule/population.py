"""Population-based training (Jaderberg et al., arXiv 1711.09846): the worst copy the best, and explore from there.

Knows nothing of Ray. All runs of the sweep are the population. They need not train side by side: a member pauses every
`perturb_epochs`, and the one that has trained least goes on first.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Protocol

from tuneyard.trainers.config.search import TuneConfig
from tuneyard.tune.schedule.scheduler import NextLeg

ENOUGH = 4
"""Members with values from which on the worst are replaced; in a small population half of it is enough."""


class Explorer(Protocol):
    """Says which values to go on with after a copy."""

    def learn(self, epoch: int, values: Mapping[str, Any], gain: float) -> None:
        """A leg that began at `epoch` with these values made the metric better by `gain` (worse: below zero)."""
        ...

    def explore(
        self, values: Mapping[str, Any], epoch: int, training: Sequence[tuple[int, Mapping[str, Any]]], draws: Random
    ) -> dict[str, Any]:
        """The values of every active key, for a leg that begins at `epoch`, from those of the copied member.

        training: the legs whose gain is not known yet: where they began and their values.
        """
        ...


@dataclass(slots=True)
class _Member:
    order: int
    values: dict[str, Any]
    latest: tuple[int, float] = (0, math.nan)  # epoch and value, greater is better
    leg_began: tuple[int, float] | None = None  # the same, of the weights that its newest leg began with
    score: float | None = None  # its own value where it last paused
    copies: bool = False  # its weights are another's, and its own newest checkpoint is of before
    waits: bool = False
    gone: bool = False


class Population:
    """The schedulers `pbt` and `pb2`, which differ in how they explore.

    Members are compared by their values where they last paused, as soon as they are to go on: nobody waits for a
    slower one. Random draws depend on the sweep's seed, the run and its epoch alone.
    """

    def __init__(self, config: TuneConfig, epochs: int, explorer: Explorer) -> None:
        self._config, self._epochs, self._explorer = config, epochs, explorer
        self._sign = 1.0 if config.mode == "max" else -1.0
        self._size = config.trials
        self._members: dict[str, _Member] = {}

    def began(self, run_id: str, overrides: Mapping[str, Any]) -> None:
        """A new member; a known one goes on with these values."""
        values = {key: value for key, value in overrides.items() if key in self._config.space}
        member = self._members.setdefault(run_id, _Member(len(self._members), values))
        member.values = values

    def leg_end(self, run_id: str, epoch: int) -> int | None:
        """The next multiple of `perturb_epochs`; after a copy counted from where the copied member stood."""
        member, every = self._members.get(run_id), self._config.perturb_epochs
        if member and member.copies:
            epoch = max(epoch, member.latest[0])
        end = (epoch // every + 1) * every
        return end if end < self._epochs else None

    def goes_on(self, run_id: str, epoch: int, value: float) -> bool:
        """Note the value; only one that is not finite ends a member."""
        member = self._members[run_id]
        if not member.copies and self._pauses_at(member.latest[0]):
            # A sweep taken up again tells the epochs of before, but not the pauses between them.
            self._saved(member)
        member.waits = False
        if not math.isfinite(value):
            return False
        member.latest = (epoch, self._sign * value)
        if self._pauses_at(epoch) and member.leg_began is not None:
            began, before = member.leg_began
            self._explorer.learn(began, member.values, member.latest[1] - before)
        return True

    def paused(self, run_id: str, epoch: int) -> None:
        """It waits, and its checkpoint may be copied."""
        member = self._members[run_id]
        self._saved(member)
        member.waits = True

    def next_leg(self, *, exhausted: bool) -> NextLeg | None:
        """Who waits at the earliest epoch, once the whole population has begun."""
        if exhausted:  # it will not become larger
            self._size = min(self._size, len(self._members))
        if len(self._members) < self._size:
            return None
        waiting = [(member.latest[0], member.order, run_id) for run_id, member in self._members.items() if member.waits]
        if not waiting:
            return None
        run_id = min(waiting)[2]
        self._members[run_id].waits = False
        return self._copy(run_id) or NextLeg(run_id)

    def gone(self, run_id: str) -> None:
        """Nobody copies it any more; the others are still compared with it."""
        member = self._members[run_id]
        member.waits, member.gone = False, True

    def _pauses_at(self, epoch: int) -> bool:
        return epoch > 0 and epoch % self._config.perturb_epochs == 0

    def _saved(self, member: _Member) -> None:
        member.leg_began, member.score, member.copies = member.latest, member.latest[1], False

    def _copy(self, run_id: str) -> NextLeg | None:
        """Exploit and explore, where the member is at the bottom; None where it goes on by itself."""
        member = self._members[run_id]
        draws = Random(f"{self._config.seed}/{run_id}/{member.latest[0]}")
        sources = self._sources(run_id)
        if not sources:
            return None
        source_id = draws.choice(sources)
        source = self._members[source_id]
        assert source.leg_began is not None
        began = source.leg_began
        training = [
            (other.leg_began[0], other.values)
            for other in self._members.values()
            if other.leg_began and not other.waits and not other.gone and other is not member
        ]
        changes = self._explorer.explore(source.values, began[0], training, draws)
        member.values, member.latest, member.leg_began, member.copies = changes, began, began, True
        return NextLeg(run_id, clone_of=source_id, changes=dict(changes))

    def _sources(self, run_id: str) -> list[str]:
        """Members at the top that the one at the bottom may go on from; none where it is not at the bottom."""
        scores = {other: member.score for other, member in self._members.items() if member.score is not None}
        ranked = sorted(scores, key=lambda other: (-scores[other], self._members[other].order))
        if len(ranked) < max(2, min(ENOUGH, math.ceil(self._size / 2))):
            return []
        count = max(1, int(len(ranked) * self._config.quantile))
        if run_id not in ranked[-count:]:
            return []
        return [other for other in ranked[:count] if scores[other] > scores[run_id] and self._may_copy(run_id, other)]

    def _may_copy(self, run_id: str, source_id: str) -> bool:
        """Is there a checkpoint of the other one's own, and none that would take the member back in time?"""
        source = self._members[source_id]
        if source.gone or source.copies or source.leg_began is None:
            return False
        return source.leg_began[0] >= self._members[run_id].latest[0]
