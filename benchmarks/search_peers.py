"""What search_quality.py compares with ours: each side as something that hands out epochs to train, one at a time."""

import math
from collections.abc import Mapping
from random import Random
from types import SimpleNamespace
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState
from ray.tune.schedulers import AsyncHyperBandScheduler
from recorded import Curve, Pool, Recorded

from tuneyard.trainers.config.search import Domain


class RandomSearch:
    """Every configuration with all its epochs, in a random order."""

    def __init__(self, recorded: Recorded, seed: int) -> None:
        self._order = Random(seed).sample(recorded.curves, len(recorded.curves))

    def begin(self) -> tuple[Any, Curve] | None:
        """The next configuration."""
        return (None, self._order.pop()) if self._order else None

    def epoch_ended(self, run: Any, epoch: int, value: float) -> bool:
        """Never stop."""
        return math.isfinite(value)

    def ended(self, run: Any, epoch: int, value: float) -> None:
        """Nothing is learnt."""


class RayAsha:
    """Ray Tune's own AsyncHyperBandScheduler with its defaults, on random configurations in the same order."""

    def __init__(self, recorded: Recorded, seed: int) -> None:
        self._order = Random(seed).sample(recorded.curves, len(recorded.curves))
        self._metric = recorded.metric
        self._scheduler = AsyncHyperBandScheduler(
            time_attr="epoch", metric=recorded.metric, mode="max", max_t=recorded.epochs, grace_period=1
        )
        self._number = 0

    def begin(self) -> tuple[Any, Curve] | None:
        """The next configuration; a new trial for the scheduler."""
        if not self._order:
            return None
        trial: Any = SimpleNamespace(trial_id=str(self._number))
        self._number += 1
        self._scheduler.on_trial_add(None, trial)  # type: ignore[arg-type]
        return trial, self._order.pop()

    def epoch_ended(self, run: Any, epoch: int, value: float) -> bool:
        """The scheduler's answer."""
        if not math.isfinite(value):
            return False
        result = {"epoch": epoch, self._metric: value}
        return self._scheduler.on_trial_result(None, run, result) == "CONTINUE"  # type: ignore[arg-type]

    def ended(self, run: Any, epoch: int, value: float) -> None:
        """As Tune does after each trial, whoever ended it."""
        if math.isfinite(value):
            self._scheduler.on_trial_complete(None, run, {"epoch": epoch, self._metric: value})  # type: ignore[arg-type]


class OptunaHyperband:
    """Optuna's TPESampler and HyperbandPruner with their defaults, in a study driven trial by trial."""

    def __init__(self, recorded: Recorded, seed: int) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._sampler = NearestRecorded(recorded, seed)
        # The brackets are dealt by a hash of the study's name and the trial's number.
        self._study = optuna.create_study(
            study_name=f"recorded-{seed}", direction="maximize", sampler=self._sampler,
            pruner=optuna.pruners.HyperbandPruner(),
        )  # fmt: skip

    def begin(self) -> tuple[Any, Curve] | None:
        """The sampler's next configuration, or rather the recorded one nearest to it."""
        if not len(self._sampler.pool):
            return None
        trial = self._study.ask()
        for name, distribution in self._sampler.distributions.items():
            trial._suggest(name, distribution)
        return trial, self._sampler.taken.pop(trial.number)

    def epoch_ended(self, run: Any, epoch: int, value: float) -> bool:
        """The pruner's answer."""
        run.report(value, epoch)
        return math.isfinite(value) and not run.should_prune()

    def ended(self, run: Any, epoch: int, value: float) -> None:
        """Tell the study; a pruned trial counts with its last value."""
        complete = epoch == self._sampler.epochs and math.isfinite(value)
        state = TrialState.COMPLETE if complete else TrialState.PRUNED if math.isfinite(value) else TrialState.FAIL
        self._study.tell(run, value if complete else None, state)


class NearestRecorded(BaseSampler):
    """Lets Optuna's sampler draw each value as it always does, and gives the trial the nearest recorded configuration.

    So the study holds what was tried, and not what was wished for.
    """

    def __init__(self, recorded: Recorded, seed: int) -> None:
        self._sampler = TPESampler(seed=seed)
        self.pool, self.epochs = Pool(recorded), recorded.epochs
        self.distributions = {key: _distribution(domain) for key, domain in recorded.space.items()}
        self.taken: dict[int, Curve] = {}

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """All keys, so that they are asked for at once."""
        return self.distributions

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: Mapping[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The recorded values nearest to the ones drawn."""
        wish = {
            name: self._sampler.sample_independent(study, trial, name, distribution)
            for name, distribution in search_space.items()
        }
        self.taken[trial.number] = self.pool.take(wish)
        return self.taken[trial.number].overrides

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Not asked for: every key was sampled above."""
        raise AssertionError(param_name)

    def after_trial(self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Any) -> None:
        """The sampler keeps account of its own."""
        self._sampler.after_trial(study, trial, state, values)


def _distribution(domain: Domain) -> BaseDistribution:
    if domain.kind == "choice":
        return CategoricalDistribution(domain.values)
    return FloatDistribution(domain.values[0], domain.values[1], log="log" in domain.kind)
