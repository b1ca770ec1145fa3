"""How many epochs of training a sweep spends until a trial comes within 1 % of the best: ours, Ray's and Optuna's.

The learning curves were recorded once (curves/fashion_mnist.yaml) and are played back, so that thousands of epochs pass
in a second. Two workers train at a time, and an epoch takes as long for one configuration as for another. A searcher's
wish is answered by the nearest configuration not tried yet, and it is told which one that was. Every side is run with
many seeds. One that ends without having come there is charged with all epochs of all configurations.

Ratios are to the median of random search, not seed by seed: a seed of ours has nothing in common with one of random's.
"""

import argparse
import heapq
import itertools
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from measuring import Series, Target, report, require
from recorded import Curve, Pool, Recorded

from tuneyard.trainers.config.data import DataConfig
from tuneyard.trainers.config.experiment import Experiment
from tuneyard.trainers.config.search import BudgetConfig, TuneConfig
from tuneyard.trainers.config.training import Prices, TrainConfig
from tuneyard.tune.budget import Budget
from tuneyard.tune.desk import Desk, Leg
from tuneyard.tune.schedule.build_scheduler import build_scheduler
from tuneyard.tune.search.build_searcher import build_searcher
from tuneyard.tune.search.searcher import Searcher, Tried

CLOSE = 0.99
OURS, RANDOM, RAY, OPTUNA = "tuneyard", "random search", "Ray's ASHA", "Optuna's Hyperband"


class Peer(Protocol):
    """A side that begins trials and may end them early."""

    def begin(self) -> tuple[Any, Curve] | None:
        """A new trial with its curve; None when no configuration is left."""
        ...

    def epoch_ended(self, run: Any, epoch: int, value: float) -> bool:
        """May it train on?"""
        ...

    def ended(self, run: Any, epoch: int, value: float) -> None:
        """It has ended, with its last epoch and value."""
        ...


class NearestSearcher:
    """A searcher whose wishes are answered by recorded configurations."""

    def __init__(self, searcher: Searcher, recorded: Recorded) -> None:
        self._searcher, self._pool = searcher, Pool(recorded)
        self.curves: list[Curve] = []

    def ask(self, trials: Sequence[Tried]) -> dict[str, Any] | None:
        """The nearest configuration's values."""
        wish = self._searcher.ask(trials) if len(self._pool) else None
        if wish is None:
            return None
        self.curves.append(self._pool.take(wish))
        return dict(self.curves[-1].overrides)


class Ours:
    """Our desk, with its searcher and scheduler."""

    def __init__(self, recorded: Recorded, seed: int, search: str = "tpe", scheduler: str = "asha") -> None:
        config = TuneConfig.model_validate(
            {
                "metric": recorded.metric, "search": search, "scheduler": scheduler, "seed": seed,
                "trials": len(recorded.curves), "space": recorded.space,
            }
        )  # fmt: skip
        experiment = Experiment(
            name="recorded", data=DataConfig(source="digits"), train=TrainConfig(epochs=recorded.epochs), tune=config
        )
        self._metric, self._epochs = recorded.metric, recorded.epochs
        self._searcher = NearestSearcher(build_searcher(config, Path()), recorded)
        self.now = 0.0
        self._desk = Desk(
            experiment, config, searcher=self._searcher, scheduler=build_scheduler(config, recorded.epochs),
            budget=Budget(BudgetConfig(), cpus=1, gpus=0, prices=Prices(), clock=lambda: self.now),
            trials=config.trials, clock=lambda: self.now,
        )  # fmt: skip

    def next_leg(self) -> tuple[Leg, Curve, int] | None:
        """What to train, its curve, and the epoch that it stands at."""
        leg = self._desk.next_leg()
        if leg is None:
            return None
        return leg, self._searcher.curves[int(leg.trial_id) - 1], self._desk.run(leg.run_id).epoch

    def epoch_ended(self, leg: Leg, epoch: int, value: float) -> bool:
        """Tell the desk of an epoch, and of the leg's end; does the leg go on?"""
        goes_on = self._desk.epoch_ended(leg.run_id, {"epoch": epoch, self._metric: value})
        if epoch == self._epochs:
            self._desk.leg_ended(leg.run_id, "finished")
        elif not goes_on:
            self._desk.leg_ended(leg.run_id, "stopped")
        elif epoch == leg.until:
            self._desk.leg_ended(leg.run_id, "paused")
        else:
            return True
        return False


class AsLegs:
    """A peer, which never pauses, in the form of ours."""

    def __init__(self, peer: Peer, epochs: int) -> None:
        self._peer, self._epochs = peer, epochs
        self.now = 0.0

    def next_leg(self) -> tuple[Any, Curve, int] | None:
        """A new trial, from its beginning."""
        begun = self._peer.begin()
        return (*begun, 0) if begun else None

    def epoch_ended(self, run: Any, epoch: int, value: float) -> bool:
        """Tell the peer of an epoch, and of the trial's end; does it go on?"""
        if self._peer.epoch_ended(run, epoch, value) and epoch < self._epochs:
            return True
        self._peer.ended(run, epoch, value)
        return False


def epochs_until_close(side: Ours | AsLegs, recorded: Recorded, workers: int, close: float = CLOSE) -> float:
    """Play the side until a trial comes to this share of the best recorded value; the epochs that all trials spent."""
    wanted, spent = recorded.best * close, 0
    turn = itertools.count()
    training: list[tuple[float, int, Any, Curve, int]] = []  # when its next epoch ends, ..., that epoch
    while True:
        while len(training) < workers and (leg := side.next_leg()) is not None:
            what, curve, epoch = leg
            heapq.heappush(training, (side.now + 1.0, next(turn), what, curve, epoch + 1))
        if not training:
            return float(recorded.epochs * len(recorded.curves))
        side.now, _, what, curve, epoch = heapq.heappop(training)
        spent += 1
        value = curve.at(epoch)
        if value >= wanted:
            return float(spent)
        if side.epoch_ended(what, epoch, value):
            heapq.heappush(training, (side.now + 1.0, next(turn), what, curve, epoch + 1))


def makers() -> dict[str, Callable[[Recorded, int], Ours | AsLegs]]:
    """Each side, made from the curves and a seed."""
    from search_peers import OptunaHyperband, RandomSearch, RayAsha

    return {
        OURS: Ours,
        f"{OURS}, random asha": lambda recorded, seed: Ours(recorded, seed, "random", "asha"),
        f"{OURS}, tpe none": lambda recorded, seed: Ours(recorded, seed, "tpe", "none"),
        f"{OURS}, tpe hyperband": lambda recorded, seed: Ours(recorded, seed, "tpe", "hyperband"),
        f"{OURS}, tpe median": lambda recorded, seed: Ours(recorded, seed, "tpe", "median"),
        RANDOM: lambda recorded, seed: AsLegs(RandomSearch(recorded, seed), recorded.epochs),
        RAY: lambda recorded, seed: AsLegs(RayAsha(recorded, seed), recorded.epochs),
        OPTUNA: lambda recorded, seed: AsLegs(OptunaHyperband(recorded, seed), recorded.epochs),
    }


def main() -> int:
    """Play and report; returns the exit status."""
    arguments = parse_arguments()
    require("optuna", "ray")
    recorded = Recorded.load(arguments.curves)
    all_sides = makers()
    chosen = [OURS, RANDOM, RAY, OPTUNA] if arguments.sides is None else arguments.sides
    figures = {}
    for name in chosen:
        spent = [
            epochs_until_close(all_sides[name](recorded, seed), recorded, arguments.workers, arguments.close)
            for seed in range(arguments.seeds)
        ]
        figures[name] = Series(tuple(spent), "epochs")
    everything = float(recorded.epochs * len(recorded.curves))
    wanted = arguments.close * recorded.best
    close, total = sum(max(curve.values, default=0.0) >= wanted for curve in recorded.curves), len(recorded.curves)
    notes = [f"{total} curves of {recorded.epochs} epochs, best {recorded.best:.4f}; {close} reach {wanted:.4f}"]
    for name, series in figures.items():
        low, _, high = statistics.quantiles(series.values, n=4)
        missed = sum(value == everything for value in series.values)
        notes.append(f"{name}: half of the seeds between {low:.0f} and {high:.0f} epochs; {missed} never came there")
    against = {
        f"{name} / {RANDOM}": Series(tuple(value / figures[RANDOM].median for value in series.values), "ratio")
        for name, series in figures.items()
        if name != RANDOM and RANDOM in figures
    }
    targets = [Target(f"{OURS} / {RANDOM}", "at most", 1 / 5)]
    return report("search_quality", figures, against, [one for one in targets if one.of in against], notes)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=40, help="runs of each side")
    parser.add_argument("--workers", type=int, default=2, help="trials that train at a time")
    parser.add_argument("--close", type=float, default=CLOSE, help="the share of the best value that is close enough")
    parser.add_argument("--curves", type=Path, default=Path(__file__).parent / "curves/fashion_mnist.json.gz")
    parser.add_argument("--sides", nargs="+", choices=list(makers()), help="only these")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
