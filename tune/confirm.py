"""The best trials once more, over seeds: is the winner better than the others, or luckier?

Imports neither Ray nor NumPy: `tuneyard compare` reads a confirmation too, and answers at once.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from tuneyard.trainers.errors import ConfigError
from tuneyard.trainers.record import Recorded

LEVEL = 0.05
"""A lead counts where chance alone would make one as large in fewer than this share of confirmations."""

Mode = Literal["min", "max"]


class ConfirmedTrial(Recorded):
    """One trial over the seeds.

    Attributes:
        values: seed -> the metric of the best epoch; None for a run that failed or ended without a finite value.
        mean: over the finite values; None where there is none.
        std: their sample standard deviation (n - 1); None below two.
    """

    trial_id: str
    values: dict[int, float | None]
    mean: float | None
    std: float | None


class Verdict(Recorded):
    """What the seeds say.

    Attributes:
        winner: the trial with the best mean; None where no trial has a finite value.
        ranking: trial ids, best mean first; those with fewer than two finite values are last.
        separable: is the winner's lead over each of the others more than the noise of the seeds?
        p_value: the largest of the comparisons' p-values after Holm's correction; None where one cannot be made.
        sentence: all that in words, for the user.
    """

    winner: str | None
    ranking: list[str]
    separable: bool
    p_value: float | None
    sentence: str


class Confirmation(Recorded):
    """Kept in the sweep's record. `trials` is in the order of the verdict's ranking."""

    metric: str
    mode: Mode
    seeds: list[int]
    trials: list[ConfirmedTrial] = Field(default_factory=list)
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class _Sample:
    """A trial's finite values, and how many seeds it was given."""

    trial_id: str
    values: tuple[float, ...]
    seeds: int

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)

    @property
    def shown(self) -> str:
        """`0.9312 ± 0.0021`."""
        if len(self.values) < 2:
            return f"{_number(self.mean)} from one seed"
        return f"{_number(self.mean)} ± {_number(statistics.stdev(self.values))}"


def confirm(metric: str, mode: Mode, trials: Mapping[str, Mapping[int, float | None]]) -> Confirmation:
    """The confirmation of these trials: trial id -> seed -> value, None or NaN where the run of that seed failed."""
    seeds = sorted({seed for values in trials.values() for seed in values})
    verdict = judge({trial: [_or_nan(values.get(seed)) for seed in seeds] for trial, values in trials.items()}, mode)
    confirmed = [_confirmed(trial, trials[trial], seeds) for trial in verdict.ranking]
    return Confirmation(metric=metric, mode=mode, seeds=seeds, trials=confirmed, verdict=verdict)


def judge(values: Mapping[str, Sequence[float]], mode: Mode) -> Verdict:
    """Who wins, and whether that is more than noise. values: trial id -> one value for each seed; NaN: the run failed.

    The best mean is compared with each other mean by Welch's t-test, two-sided, as Colas, Sigaud and Oudeyer advise
    for runs over seeds (arXiv 1806.08295); the p-values of the several comparisons are corrected by Holm's step-down
    method (1979). The seeds are not paired: two configurations under one seed share at most the order of the samples,
    and after some steps nothing of the seed's luck. Where they do share some, Welch's test errs on the side of saying
    "not separable"; a failed seed costs it one value and not a pair.

    Raises ConfigError where no trial is given, or a mode other than min and max.
    """
    if not values:
        raise ConfigError("There is no trial to confirm: give at least one, with a value for each seed.")
    if mode not in ("min", "max"):
        raise ConfigError(f"mode: {mode!r} is not known. Allowed: min, max.")
    samples = [_Sample(trial, _finite(given), len(given)) for trial, given in values.items()]
    ranked = sorted(samples, key=lambda sample: _rank(sample, mode))
    ranking = [sample.trial_id for sample in ranked]
    if not ranked[0].values:
        sentence = f"No run of {_names(ranking)} has a finite value: there is nothing to confirm."
        return Verdict(winner=None, ranking=ranking, separable=False, p_value=None, sentence=sentence)
    best, others = ranked[0], ranked[1:]
    # A trial that failed under every seed has lost already, and leaves nothing to compare.
    rivals = [other for other in others if other.values]
    testable = [other for other in rivals if len(best.values) > 1 and len(other.values) > 1]
    adjusted = holm([welch_p_value(best.values, other.values) for other in testable])
    p_values = {other.trial_id: p for other, p in zip(testable, adjusted, strict=True)}
    complete = bool(rivals) and len(testable) == len(rivals)
    return Verdict(
        winner=best.trial_id,
        ranking=ranking,
        separable=complete and all(p < LEVEL for p in adjusted),
        p_value=max(adjusted) if complete else None,
        sentence=_sentence(best, others, p_values),
    )


def welch_p_value(one: Sequence[float], other: Sequence[float]) -> float:
    """Two-sided p-value of Welch's t-test (1947) that two samples, each of two or more finite values, share a mean.

    Where neither sample varies at all there is no noise to be lost in: 0 for different means, 1 for the same.
    """
    from scipy.special import stdtr  # NumPy with it, which `compare` does without

    shares = [statistics.variance(sample) / len(sample) for sample in (one, other)]
    lead = abs(statistics.fmean(one) - statistics.fmean(other))
    spread = sum(shares)
    if spread == 0.0:
        return 1.0 if lead == 0.0 else 0.0
    degrees = [share / spread for share in shares]
    freedom = 1.0 / sum(part**2 / (len(s) - 1) for part, s in zip(degrees, (one, other), strict=True))
    return float(2.0 * stdtr(freedom, -lead / math.sqrt(spread)))


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values corrected for being several (Holm 1979), in the order given."""
    adjusted = [1.0] * len(p_values)
    highest = 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        highest = max(highest, min(1.0, p_values[index] * (len(p_values) - place)))
        adjusted[index] = highest
    return adjusted


def _confirmed(trial: str, values: Mapping[int, float | None], seeds: Sequence[int]) -> ConfirmedTrial:
    kept = {seed: _or_none(values.get(seed)) for seed in seeds}
    finite = [value for value in kept.values() if value is not None]
    return ConfirmedTrial(
        trial_id=trial,
        values=kept,
        mean=statistics.fmean(finite) if finite else None,
        std=statistics.stdev(finite) if len(finite) > 1 else None,
    )


def _rank(sample: _Sample, mode: Mode) -> tuple[int, float]:
    """Low is good. One lucky seed must not beat five: what has no spread stands behind what has one."""
    if not sample.values:
        return 2, 0.0
    return int(len(sample.values) < 2), -sample.mean if mode == "max" else sample.mean


def _sentence(best: _Sample, others: Sequence[_Sample], p_values: Mapping[str, float]) -> str:
    """The winner, what it cannot be told from, what it is ahead of, and what could not be compared."""
    level = [other for other in others if p_values.get(other.trial_id, 0.0) >= LEVEL]
    behind = [other for other in others if p_values.get(other.trial_id, 1.0) < LEVEL]
    untold = [other for other in others if other.values and other.trial_id not in p_values]
    seeds = f"{best.seeds} seed{'' if best.seeds == 1 else 's'}"
    if level:
        alike = [best, *level]
        shown = _names([sample.shown for sample in alike])
        names = _names([sample.trial_id for sample in alike])
        text = f"{names} cannot be told apart by {seeds} ({shown}, {_p([p_values[s.trial_id] for s in level])})"
        text += f"; {_behind(behind, p_values)}" if behind else ""
    elif behind:
        text = f"{best.trial_id} ({best.shown}) is ahead by more than the noise of {seeds}: {_behind(behind, p_values)}"
    else:
        text = f"{best.trial_id} came to {best.shown}" + (f" over {seeds}" if len(best.values) > 1 else "")
    if untold:
        names = _names([sample.trial_id for sample in untold])
        text += f"; too few runs with a finite value to compare {best.trial_id} with {names}"
    failed = [sample for sample in (best, *others) if len(sample.values) < sample.seeds]
    for sample in failed:
        text += f"; {sample.trial_id} has no value for {sample.seeds - len(sample.values)} of {sample.seeds} seeds"
    return text + "."


def _behind(samples: Sequence[_Sample], p_values: Mapping[str, float]) -> str:
    told = [f"{sample.trial_id} ({sample.shown}, {_p([p_values[sample.trial_id]])})" for sample in samples]
    return f"{_names(told)} {'is' if len(told) == 1 else 'are'} behind"


def _p(p_values: Sequence[float]) -> str:
    low, high = min(p_values), max(p_values)
    shown = [f"{p:.2f}" if p >= 0.095 else f"{max(p, 0.001):.2g}" for p in (low, high)]
    if low == high or shown[0] == shown[1]:
        return f"p {'=' if low >= 0.001 else '<'} {shown[0]}"
    return f"p from {shown[0]} to {shown[1]}"


def _number(value: float) -> str:
    return f"{value:.4f}" if value == 0 or 0.001 <= abs(value) < 1000 else f"{value:.3g}"


def _names(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _finite(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(value for value in values if math.isfinite(value))


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def _or_none(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
