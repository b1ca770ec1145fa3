"""From `tune.search` to a searcher."""

from pathlib import Path

from tuneyard.trainers.config.search import TuneConfig
from tuneyard.trainers.config.sweep_checks import check_search
from tuneyard.trainers.names import is_user_reference, load_object
from tuneyard.tune.search.plain_searchers import PointsFirst
from tuneyard.tune.search.searcher import Searcher
from tuneyard.tune.search.user_searcher import UserSearcher

SEARCHERS = {
    "random": "tuneyard.tune.search.plain_searchers:RandomSearcher",
    "grid": "tuneyard.tune.search.plain_searchers:GridSearcher",
    "tpe": "tuneyard.tune.search.tpe:TpeSearcher",
    "gp": "tuneyard.tune.search.gp:GpSearcher",
    "cmaes": "tuneyard.tune.search.cma_es:CmaEsSearcher",
}


def build_searcher(config: TuneConfig, project_dir: Path) -> Searcher:
    """The searcher that `tune.search` names, with `tune.points` before all else.

    project_dir: where `task.py:MySearch` is looked for.

    Raises ConfigError where there is no such searcher, or it cannot search this space.
    """
    check_search(config)
    if is_user_reference(config.search):
        made: Searcher = UserSearcher(config, project_dir)
    else:
        made = load_object(SEARCHERS[config.search])(config)
    return made if config.search == "grid" or not config.points else PointsFirst(config, made)
