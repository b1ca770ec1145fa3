"""Claims: numbers in a store that processes take, each above all before, so that the latest holder is known to all.

    {prefix}{number:06d}.json            who holds it; created once, never replaced
    {prefix}{number:06d}-{mark}.json     what its holder says later

Numbers order holders; clocks do not. That of two takers one wins is the store's conditional `create`.
"""

import os
import platform
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from tuneyard.trainers.errors import MissingKeyError, StoreError
from tuneyard.trainers.record import Recorded, now
from tuneyard.trainers.stores.store import Store

_NAME = re.compile(r"(\d{6,})(?:-([a-z]+))?\.json")
_TRIES = 100


class Holder(Recorded):
    """The process that holds a claim.

    Attributes:
        machine: one boot of one system and one numbering of processes; empty where the system does not tell.
        began: the process's start in clock ticks after the boot: with it a number that was given anew is not mistaken.
        since: for people; nothing is decided by it.
        token: tells this claim from all others.
    """

    host: str
    machine: str
    pid: int
    began: int
    since: str
    token: str

    @property
    def name(self) -> str:
        """For messages."""
        return f"process {self.pid} on {self.host} (since {self.since})"

    def state(self) -> Literal["gone", "lives", "elsewhere"]:
        """As far as it can be known here: "elsewhere" is any machine but this one, or one that does not tell."""
        if not self.machine or self.machine != _machine():
            return "elsewhere"
        return "lives" if _began(self.pid) == self.began else "gone"

    @property
    def is_this_process(self) -> bool:
        """Was it this very process that took the claim?"""
        return self.pid == os.getpid() and self.state() == "lives"


class Claims:
    """The claims under `prefix` of `store`; the prefix ends with a slash."""

    def __init__(self, store: Store, prefix: str) -> None:
        self._store, self._prefix = store, prefix

    def look(self) -> dict[int, set[str]]:
        """Every number that is held, and the marks it has."""
        found: dict[int, set[str]] = {}
        for key in self._store.keys(self._prefix):
            match = _NAME.fullmatch(key.removeprefix(self._prefix))
            if match:
                marks = found.setdefault(int(match[1]), set())
                marks |= {match[2]} if match[2] else set()
        return found

    def take(self, seen: Mapping[int, set[str]]) -> int:
        """Hold a number above all that were `seen`; StoreError where the store refuses every one."""
        first = max(seen, default=0) + 1
        for number in range(first, first + _TRIES):
            if self.try_to_take(number):
                return number
        raise StoreError(
            f"{self._store.uri}/{self._prefix}: the store refuses to create a claim here, as if all were there already."
            " See that it keeps what it is given, and try again."
        )

    def try_to_take(self, number: int) -> bool:
        """Hold this number; False where somebody else does."""
        mine = _this_process().model_dump_json().encode()
        if self._store.create(self.key(number), mine):
            return True
        try:
            # Over a network it may have been our own first try, whose answer was lost.
            return self._store.get(self.key(number)) == mine
        except MissingKeyError:
            return False

    def holder(self, number: int) -> Holder | None:
        """Who holds this number; None where that is gone, or cannot be read."""
        try:
            return Holder.model_validate_json(self._store.get(self.key(number)))
        except (MissingKeyError, ValidationError):
            return None

    def mark(self, number: int, mark: str, content: bytes = b"{}") -> None:
        """Say something about a number that this process holds."""
        self._store.put(self.key(number, mark), content)

    def read_mark(self, number: int, mark: str) -> bytes:
        """What was said; MissingKeyError where nothing was."""
        return self._store.get(self.key(number, mark))

    def drop(self, number: int, marks: set[str]) -> None:
        """Forget a number and its marks. Never the highest: the next one to come would get it again."""
        for mark in marks:
            self._store.delete(self.key(number, mark))
        self._store.delete(self.key(number))

    def key(self, number: int, mark: str = "") -> str:
        """Where a claim, or a mark of it, lies in the store."""
        return f"{self._prefix}{number:06d}{'-' if mark else ''}{mark}.json"


def _this_process() -> Holder:
    return Holder(
        host=platform.node() or "an unnamed host", machine=_machine(), pid=os.getpid(), began=_began(os.getpid()),
        since=now(), token=secrets.token_hex(16),
    )  # fmt: skip


def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        # Containers of one machine share its boot, and have each their own processes 1, 2, 3.
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _began(pid: int) -> int:
    """The process's start in clock ticks after the boot; -1 where there is none, or only what a dead one left."""
    try:
        # The second field is the program's name in parentheses, which may hold anything.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return -1
    return -1 if fields[0] in "ZX" else int(fields[19])
