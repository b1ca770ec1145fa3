"""A searcher of the user's own, from their task.py."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tuneyard.trainers.config.domains import point_problems
from tuneyard.trainers.config.search import TuneConfig
from tuneyard.trainers.errors import ConfigError, TuneyardError
from tuneyard.trainers.names import load_user_object
from tuneyard.tune.search.searcher import Tried


class UserSearcher:
    """Makes `MySearch(config)` and looks at what it answers before a trial is made of it."""

    def __init__(self, config: TuneConfig, project_dir: Path) -> None:
        self._name, self._space = config.search, config.space
        made = load_user_object(project_dir, config.search)
        try:
            self._own = made(config)
        except TuneyardError:
            raise
        except Exception as error:
            # The user's own code may raise anything; its text is what helps.
            raise ConfigError(
                f"tune.search: {self._name} cannot be made from the `tune` section: {type(error).__name__}: {error}"
            ) from error
        if not callable(getattr(self._own, "ask", None)):
            raise ConfigError(f"tune.search: {self._name} has no method `ask(self, trials)`; give it one.")

    def ask(self, trials: Sequence[Tried]) -> dict[str, Any] | None:
        """Their answer; ConfigError where it is not a point of the space, or their code fails."""
        try:
            point = self._own.ask(trials)
        except TuneyardError:
            raise
        except Exception as error:
            raise ConfigError(f"tune.search: {self._name} failed: {type(error).__name__}: {error}") from error
        if point is None:
            return None
        if not isinstance(point, dict):
            raise ConfigError(
                f"tune.search: {self._name} asked for {point!r}; allowed: a dict of values for the keys of tune.space, "
                "or None when there is nothing left to try."
            )
        problems = point_problems(self._space, point, whole=True)
        if problems:
            raise ConfigError(
                f"tune.search: {self._name} asked for {point!r}:\n" + "\n".join(f"  {problem}" for problem in problems)
            )
        return point
