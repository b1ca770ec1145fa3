"""From `tune.search` to a searcher."""

from pathlib import Path

from tuneyard.trainers.errors import ConfigError, choose_from
from tuneyard.trainers.experiment import TuneConfig
from tuneyard.trainers.names import load_object
from tuneyard.tune.plain_searchers import PointsFirst
from tuneyard.tune.searcher import Searcher

SEARCHERS = {
    "random": "tuneyard.tune.plain_searchers:RandomSearcher",
    "grid": "tuneyard.tune.plain_searchers:GridSearcher",
    "tpe": "tuneyard.tune.tpe:TpeSearcher",
}


def build_searcher(config: TuneConfig, project_dir: Path) -> Searcher:
    """The searcher that `tune.search` names, with `tune.points` before all else."""
    if config.search not in SEARCHERS:
        raise ConfigError(choose_from("tune.search", config.search, [*SEARCHERS, "task.py:MySearch"]))
    made: Searcher = load_object(SEARCHERS[config.search])(config)
    return made if config.search == "grid" or not config.points else PointsFirst(config, made)
