"""From `tune.scheduler` to the scheduler. Nothing here knows of Ray."""

from tuneyard.trainers.config.search import TuneConfig
from tuneyard.tune.schedule.halving import asha, hyperband
from tuneyard.tune.schedule.median import MedianStopping
from tuneyard.tune.schedule.pb2 import GaussianProcessExplorer
from tuneyard.tune.schedule.perturb import Perturbation
from tuneyard.tune.schedule.population import Population
from tuneyard.tune.schedule.scheduler import Scheduler
from tuneyard.tune.schedule.to_the_end import ToTheEnd


def build_scheduler(config: TuneConfig, epochs: int) -> Scheduler:
    """The scheduler that `config.scheduler` names, for runs of `epochs`, or of what the space has for train.epochs."""
    longest = config.space.get("train.epochs")
    if longest is not None:
        epochs = max(longest.values) if longest.kind == "choice" else longest.values[1]
    match config.scheduler:
        case "asha":
            return asha(config, epochs)
        case "hyperband":
            return hyperband(config, epochs)
        case "median":
            return MedianStopping(config)
        case "pbt":
            return Population(config, epochs, Perturbation(config.space))
        case "pb2":
            return Population(config, epochs, GaussianProcessExplorer(config))
        case "none":
            return ToTheEnd()
