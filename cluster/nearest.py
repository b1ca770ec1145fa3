"""The name that was probably meant."""

import difflib
from collections.abc import Iterable


def allowed_instead(given: str, allowed: Iterable[str]) -> str:
    """What an error says after a name that is not known: the nearest one where one is near, and all of them."""
    names = sorted(allowed)
    near = difflib.get_close_matches(given, names, n=1, cutoff=0.6)
    guess = f"Did you mean {near[0]!r}? " if near else ""
    return f"{guess}Allowed: {', '.join(names)}."
