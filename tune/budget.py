"""Where a sweep ends, whatever is left to try: so many hours, GPU-hours, or so much money.

A leg is begun only where what is left will cover it, by the pace of the epochs so far; so a sweep ends with its runs
saved a little below the limit, and not in the middle of epochs that nobody will use.
"""

import time
from bisect import insort
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tuneyard.trainers.config.search import BudgetConfig
from tuneyard.trainers.config.training import Prices
from tuneyard.trainers.record import Recorded

SECONDS_PER_HOUR = 3600.0


class Spent(Recorded):
    """What a sweep has used so far, over all its resumes.

    `hours` are of the wall clock, `gpu_hours` and `money` of the time that legs held their resources.
    """

    hours: float = 0.0
    gpu_hours: float = 0.0
    money: float = 0.0


@dataclass(slots=True)
class _Leg:
    began: float
    last_event: float
    epochs_left: int
    trained_s: float = 0.0
    epochs_done: int = 0


class Budget:
    """Counts what the legs of a sweep use, and says whether one more may begin. Without limits it only counts.

    A leg is taken to hold its resources from `leg_began` to `leg_ended`. The wall clock runs from the making of this.

    Args:
        cpus: cores that one run holds, all its workers together.
        gpus: GPUs that one run holds, all its workers together; may be a fraction.
        prices: a run costs its GPUs times `gpu_hour` or, where that is nothing, its cores times `cpu_hour`.
        spent: what was used before a resume.
        clock: seconds, from any beginning.
    """

    def __init__(
        self, config: BudgetConfig, *, cpus: float, gpus: float, prices: Prices, spent: Spent | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._config, self._currency, self._clock = config, prices.currency, clock
        self._limited = config != BudgetConfig()
        self._gpus = gpus
        self._price = price_per_hour(prices, cpus=cpus, gpus=gpus)
        self._before = spent or Spent()
        self._began = clock()
        self._legs: dict[str, _Leg] = {}
        self._held_s = 0.0  # by legs that have ended
        self._epoch_times: list[float] = []  # ascending, of all runs
        self._setup_times: list[float] = []  # ascending: what a leg holds its resources for beside its epochs
        self._paces: dict[str, tuple[int, float]] = {}  # run -> its epochs, and their seconds together
        self._refused: str | None = None

    def leg_began(self, run_id: str, epochs: int) -> None:
        """The run holds its resources from now on, for so many epochs."""
        self.leg_ended(run_id)  # the leg before, where its process was lost without a word
        now = self._clock()
        self._legs[run_id] = _Leg(began=now, last_event=now, epochs_left=epochs)

    def epoch_ended(self, run_id: str, seconds: float) -> None:
        """An epoch of the run took so long, with its validation and all else that comes back every epoch.

        A run without a leg, such as one of before a resume, only adds to what is known of the pace.
        """
        insort(self._epoch_times, seconds)
        count, total = self._paces.get(run_id, (0, 0.0))
        self._paces[run_id] = (count + 1, total + seconds)
        leg = self._legs.get(run_id)
        if leg is not None:
            leg.last_event = self._clock()
            leg.epochs_left = max(leg.epochs_left - 1, 0)
            leg.epochs_done += 1
            leg.trained_s += seconds

    def leg_ended(self, run_id: str) -> None:
        """The run has let its resources go, however its leg ended; nothing where it has none."""
        leg = self._legs.pop(run_id, None)
        if leg is None:
            return
        held = self._clock() - leg.began
        self._held_s += held
        if leg.epochs_done:
            insort(self._setup_times, max(held - leg.trained_s, 0.0))

    def allows(self, epochs: int) -> bool:
        """May a leg of so many epochs begin now, beside those that are running?

        True as long as no epoch has ended anywhere, unless a limit is reached already.
        """
        self._refused = self._reached() or self._too_little_left(epochs)
        return self._refused is None

    def exhausted(self) -> bool:
        """Is a limit reached? Then running legs are to stop after their epoch."""
        return self._reached() is not None

    def spent(self) -> Spent:
        """What was used until now, what running legs hold included."""
        now = self._clock()
        held_hours = (self._held_s + sum(now - leg.began for leg in self._legs.values())) / SECONDS_PER_HOUR
        return Spent(
            hours=self._before.hours + (now - self._began) / SECONDS_PER_HOUR,
            gpu_hours=self._before.gpu_hours + held_hours * self._gpus,
            money=self._before.money + held_hours * self._price,
        )

    def why(self) -> str | None:
        """Which limit ends the sweep, and how much of it was used; None where the last leg asked for was allowed."""
        return self._reached() or self._refused

    def never_reached(self) -> list[str]:
        """A sentence for each limit that these trials use nothing of, so that it will not end the sweep."""
        told = []
        if self._config.gpu_hours is not None and self._gpus == 0.0:
            told.append("tune.budget.gpu_hours limits nothing: the trials hold no GPU.")
        if self._config.money is not None and self._price == 0.0:
            told.append("tune.budget.money limits nothing: by resources.prices the trials cost nothing.")
        return told

    def _reached(self) -> str | None:
        for limit in self._limits() if self._limited else ():
            if limit.used >= limit.allowed:
                return f"The budget is used up: {limit.text}."
        return None

    def _too_little_left(self, epochs: int) -> str | None:
        if not self._limited:
            return None
        leg_hours = self._seconds_of(epochs) / SECONDS_PER_HOUR
        others_hours = sum(self._seconds_left(run_id) for run_id in self._legs) / SECONDS_PER_HOUR
        for limit in self._limits():
            # Legs side by side share the wall clock, and add up in everything else.
            needed = leg_hours if limit.per_hour is None else (leg_hours + others_hours) * limit.per_hour
            if limit.used + needed > limit.allowed:
                return (
                    f"The budget does not cover another {_counted(epochs)}: {limit.text}, and it takes about "
                    f"{_amount(leg_hours * (1.0 if limit.per_hour is None else limit.per_hour))} more."
                )
        return None

    def _limits(self) -> Iterator["_Limit"]:
        config, spent = self._config, self.spent()
        if config.hours is not None:
            yield _Limit("tune.budget.hours", "hours", spent.hours, config.hours, None)
        if config.gpu_hours is not None:
            yield _Limit("tune.budget.gpu_hours", "GPU-hours", spent.gpu_hours, config.gpu_hours, self._gpus)
        if config.money is not None:
            yield _Limit("tune.budget.money", self._currency, spent.money, config.money, self._price)

    def _seconds_of(self, epochs: int) -> float:
        """What a new leg will take. Its configuration may be slower than most: the upper quartile of all epochs.

        Of the time beside the epochs the median, since the first legs start processes that later ones find running.
        """
        return _quantile(self._setup_times, 0.5) + epochs * _quantile(self._epoch_times, 0.75)

    def _seconds_left(self, run_id: str) -> float:
        """What a running leg will still take, at its own pace or, before its first epoch's end, as a new one."""
        leg = self._legs[run_id]
        count, total = self._paces.get(run_id, (0, 0.0))
        pace = total / count if count else _quantile(self._epoch_times, 0.75)
        setup = 0.0 if leg.epochs_done else _quantile(self._setup_times, 0.5)
        # Of a running epoch that takes longer than expected nothing is left, but those after it are still to come.
        to_come = setup + leg.epochs_left * pace - (self._clock() - leg.last_event)
        return max(to_come, (leg.epochs_left - 1) * pace, 0.0)


@dataclass(frozen=True, slots=True)
class _Limit:
    key: str
    unit: str
    used: float
    allowed: float
    per_hour: float | None
    """What an hour of one run uses of it; None: the wall clock."""

    @property
    def text(self) -> str:
        return f"{_amount(self.used)} of {_amount(self.allowed)} {self.unit} ({self.key}) are spent"


def price_per_hour(prices: Prices, *, cpus: float, gpus: float) -> float:
    """What one run costs for an hour: its GPUs or, where they cost nothing, its cores."""
    return gpus * prices.gpu_hour or cpus * prices.cpu_hour


def _quantile(ascending: list[float], share: float) -> float:
    """The value below which this share lies; 0 of none."""
    return ascending[min(int(share * len(ascending)), len(ascending) - 1)] if ascending else 0.0


def _amount(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def _counted(epochs: int) -> str:
    return "epoch" if epochs == 1 else f"{epochs} epochs"
