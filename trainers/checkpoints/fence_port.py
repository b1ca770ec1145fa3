"""What keeps two attempts of one run apart: the port, as checkpoints see it."""

from typing import Protocol


class Fence(Protocol):
    """The fencing number of one attempt at a run, and what it knows of the others.

    Every attempt at a run has a number above those before it. Numbers order attempts; clocks do not.
    """

    @property
    def attempt(self) -> int:
        """This attempt's number, from 1; a reader's is 0."""
        ...

    def check(self) -> None:
        """Raise `FencedError` where a newer attempt has begun."""
        ...

    def counts(self, attempt: int, step: int) -> bool:
        """Does a checkpoint of that attempt and step count? Not where the attempt's replacement began further back."""
        ...
