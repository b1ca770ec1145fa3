"""The exceptions that tell a user what to do, and the search for the nearest valid name.

Every `TuneyardError` is somebody's mistake or a fault of the surroundings: the command line prints its text without a
traceback and exits 2. Any other exception is our own mistake and keeps its traceback.
"""

import difflib
from collections.abc import Iterable


class TuneyardError(Exception):
    """Base of all errors whose text is written for the user."""


class ConfigError(TuneyardError):
    """The experiment file or an override is wrong."""


class DataError(TuneyardError):
    """The data cannot be read, or is not what the experiment says."""


class ModelError(TuneyardError):
    """The model cannot be built, or its weights cannot be had."""


class StoreError(TuneyardError):
    """The checkpoint store cannot be reached, or refuses."""


class MissingKeyError(StoreError):
    """There is nothing at that key of the store."""


class DeleteRefusedError(StoreError):
    """These credentials may not delete there. Where they may write, a run does without: nothing is pruned."""


class CheckpointError(TuneyardError):
    """A checkpoint is missing, damaged, or does not fit."""


class FencedError(CheckpointError):
    """A newer attempt has taken this run over: what this process would still save does not count, and it stops."""


class DivergedError(TuneyardError):
    """The loss became NaN or infinite."""


class OutOfMemoryError(TuneyardError):
    """A worker holds more memory than the experiment allows it."""


class InterruptedRunError(TuneyardError):
    """The run was asked to stop by a signal; what it had was saved."""


def nearest(given: str, allowed: Iterable[str]) -> str | None:
    """The allowed name that is closest to `given`, or None when none is close."""
    names = list(allowed)
    folded = {name.lower(): name for name in names}
    found = difflib.get_close_matches(given.lower(), folded, n=1, cutoff=0.6)
    return folded[found[0]] if found else None


def choose_from(what: str, given: str, allowed: Iterable[str]) -> str:
    """The sentence for a name that is not among the allowed ones: what was given, the nearest name, and all of them."""
    names = sorted(allowed)
    near = nearest(given, names)
    guess = f" Did you mean {near!r}?" if near else ""
    return f"{what}: {given!r} is not known.{guess} Allowed: {', '.join(names)}."
