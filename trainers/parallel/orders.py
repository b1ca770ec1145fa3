"""What a run's parent and its worker processes tell each other: lines of JSON through pipes."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from tuneyard.trainers.spec import TrialSpec


class Message(BaseModel):
    """Plain data, sent as one line."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def line(self) -> bytes:
        """As it goes through the pipe."""
        return self.model_dump_json().encode() + b"\n"


class Order(Message):
    """Train the spec as worker `rank` of `workers`, which meet at `port` of this machine where they are several.

    With `only_prepare`: do what can be done ahead, and wait for another order. `board`: the progress board's file.
    `exchange_s`: how long one worker may wait for another.
    """

    spec: TrialSpec
    threads: int
    workers: int
    rank: int = 0
    port: int = 0
    attempt: int = 0
    board: str = ""
    exchange_s: float = 600.0
    only_prepare: bool = False


class Answer(Message):
    """How it went: ready (prepared); done; stopped by a signal, saved; told (a mistake that is understood); failed.

    kind: the exception's class. text: what to tell, with its traceback where it failed.
    link: the link to another worker broke, so that the cause is to be found there; this process can go on.
    """

    how: Literal["ready", "done", "stopped", "told", "failed"]
    kind: str = ""
    text: str = ""
    link: bool = False

    @property
    def is_cause(self) -> bool:
        """Did it fail by itself, so that it may be in any state? Who only lost its link is as good as before."""
        return self.how == "failed" and not self.link
