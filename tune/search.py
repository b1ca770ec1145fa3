"""Who says what to try next: random, grid and TPE, behind Ray Tune's Searcher."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import optuna
from optuna.trial import TrialState
from ray.tune.search import Searcher

from tuneyard.trainers.experiment import TuneConfig
from tuneyard.trainers.record import Metric
from tuneyard.tune.space import distributions, from_overrides, grid, to_overrides


@dataclass(frozen=True, slots=True)
class Finished:
    """An earlier trial that the searcher learns from: its overrides, and the metric after each of its epochs."""

    overrides: dict[str, Any]
    values: list[float] = field(default_factory=list)
    stopped_early: bool = False


class Strategy(Protocol):
    """What to try next, without a word of Ray."""

    def ask(self) -> tuple[int, dict[str, Any]] | None:
        """A number for `tell`, and the overrides to try; None when there is nothing left."""
        ...

    def report(self, number: int, epoch: int, value: float) -> None:
        """A trial's best value after an epoch."""
        ...

    def tell(self, number: int, state: TrialState, value: float | None) -> None:
        """How a trial ended."""
        ...

    def learn(self, earlier: Sequence[Finished]) -> None:
        """Trials of before; those outside the space are passed over."""
        ...


class OptunaStrategy:
    """TPE (Bergstra et al., NeurIPS 2011; multivariate, with the pending trials counted as poor) or random sampling."""

    def __init__(self, config: TuneConfig, drawn: int = 0) -> None:
        """`drawn`: points of before the sweep was cut short, which the same seed would draw again."""
        self._space = config.space
        self._distributions = distributions(config.space)
        # Optuna tells of every finished trial on stderr; our own table does that.
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._study = optuna.create_study(
            direction="maximize" if config.mode == "max" else "minimize", sampler=_sampler(config)
        )
        self._open: dict[int, optuna.Trial] = {}
        for _ in range(drawn):
            self.tell(self.ask()[0], TrialState.FAIL, None)

    def ask(self) -> tuple[int, dict[str, Any]]:
        """The sampler's next point."""
        trial = self._study.ask(self._distributions)
        self._open[trial.number] = trial
        return trial.number, to_overrides(self._space, trial.params)

    def report(self, number: int, epoch: int, value: float) -> None:
        """Keep the value: TPE ranks a stopped trial by its last one."""
        self._open[number].report(value, epoch)

    def tell(self, number: int, state: TrialState, value: float | None) -> None:
        """Close the trial."""
        trial = self._open.pop(number)
        self._study.tell(trial, value if state is TrialState.COMPLETE else None, state)

    def learn(self, earlier: Sequence[Finished]) -> None:
        """Add trials that were not asked for here."""
        for finished in earlier:
            sampled = from_overrides(self._space, finished.overrides)
            if sampled is None or not finished.values:
                continue
            best = _running_best(
                finished.values, maximize=self._study.direction is optuna.study.StudyDirection.MAXIMIZE
            )
            self._study.add_trial(
                optuna.trial.create_trial(
                    state=TrialState.PRUNED if finished.stopped_early else TrialState.COMPLETE,
                    params=sampled, distributions=self._distributions,
                    value=None if finished.stopped_early else best[-1],
                    intermediate_values=dict(enumerate(best, start=1)),
                )
            )  # fmt: skip


class GridStrategy:
    """Every point of the grid once, in order."""

    def __init__(self, config: TuneConfig) -> None:
        self._left = grid(config.space)[: config.trials]
        self._asked = 0

    def ask(self) -> tuple[int, dict[str, Any]] | None:
        """The next point."""
        if not self._left:
            return None
        self._asked += 1
        return self._asked - 1, self._left.pop(0)

    def report(self, number: int, epoch: int, value: float) -> None:
        """A grid does not learn."""

    def tell(self, number: int, state: TrialState, value: float | None) -> None:
        """A grid does not learn."""

    def learn(self, earlier: Sequence[Finished]) -> None:
        """Leave out the points that were tried."""
        for finished in earlier:
            if finished.overrides in self._left:
                self._left.remove(finished.overrides)


@dataclass(slots=True)
class _Asked:
    run_id: str
    number: int | None
    best: float | None = None


class SweepSearcher(Searcher):
    """Hands Ray the trials of a sweep: first those that are to go on, then new ones until there are `trials`.

    Args:
        specs: makes the config of a trial from its run id, its overrides, and whether it goes on.
        resumed: run ids and overrides of trials that were cut short.
        first_number: the number of the first new trial.
    """

    def __init__(
        self, config: TuneConfig, strategy: Strategy, specs: "SpecMaker", resumed: Sequence[tuple[str, dict[str, Any]]],
        first_number: int, new_trials: int,
    ) -> None:  # fmt: skip
        super().__init__(metric=config.metric, mode=config.mode)
        self._metric_order = Metric(name=config.metric, mode=config.mode)
        self._strategy, self._specs = strategy, specs
        self._resumed = list(resumed)
        self._next_number, self._left = first_number, new_trials
        self._asked: dict[str, _Asked] = {}

    def stop(self) -> None:
        """Hand out no more trials."""
        self._resumed, self._left = [], 0

    # Ray's annotation leaves out FINISHED, which its own documentation asks for.
    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        """The config of Ray's trial `trial_id`; FINISHED when the sweep has all its trials."""
        if self._resumed:
            run_id, overrides = self._resumed.pop(0)
            self._asked[trial_id] = _Asked(run_id, None)
            return self._specs(run_id, overrides, True)
        asked = self._strategy.ask() if self._left > 0 else None
        if asked is None:
            return Searcher.FINISHED
        self._left -= 1
        number, overrides = asked
        run_id = f"{self._next_number:04d}"
        self._next_number += 1
        self._asked[trial_id] = _Asked(run_id, number)
        return self._specs(run_id, overrides, False)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Tell the strategy the best value so far."""
        asked = self._asked[trial_id]
        value = result.get(self._metric_order.name)
        if value is None:
            return
        if self._metric_order.better(value, asked.best):
            asked.best = value
        if asked.number is not None and asked.best is not None:
            self._strategy.report(asked.number, int(result["epoch"]), asked.best)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tell the strategy how the trial ended."""
        if result and not error:
            self.on_trial_result(trial_id, result)
        asked = self._asked.pop(trial_id)
        if asked.number is None:
            return
        if error or asked.best is None or not result or "failed" in result or "interrupted" in result:
            self._strategy.tell(asked.number, TrialState.FAIL, None)
        elif result and result.get("finished"):
            self._strategy.tell(asked.number, TrialState.COMPLETE, asked.best)
        else:
            self._strategy.tell(asked.number, TrialState.PRUNED, None)

    def __reduce__(self) -> tuple[Any, ...]:
        """Ray pickles searchers with an experiment state that nothing of ours reads back; see `save`."""
        return (object, ())

    def save(self, checkpoint_path: str) -> None:
        """Nothing: what a resumed sweep learns from lies in the store, as the trials' own records."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing; see `save`."""


class SpecMaker(Protocol):
    """Makes Ray's config of a trial."""

    def __call__(self, run_id: str, overrides: dict[str, Any], resume: bool, /) -> dict[str, Any]: ...


def build_strategy(config: TuneConfig, drawn: int = 0) -> Strategy:
    """The strategy that `tune.search` names, for a sweep that has drawn so many points before it was cut short."""
    return GridStrategy(config) if config.search == "grid" else OptunaStrategy(config, drawn)


def _sampler(config: TuneConfig) -> optuna.samplers.BaseSampler:
    if config.search == "random":
        return optuna.samplers.RandomSampler(seed=config.seed)
    # A model of a handful of points misleads: a quarter of the sweep, at most ten trials, is drawn at random first.
    start = max(2, min(10, config.trials // 4))
    return optuna.samplers.TPESampler(seed=config.seed, n_startup_trials=start, multivariate=True, constant_liar=True)


def _running_best(values: Sequence[float], *, maximize: bool) -> list[float]:
    best: list[float] = []
    for value in values:
        best.append((max if maximize else min)(value, best[-1]) if best else value)
    return best
