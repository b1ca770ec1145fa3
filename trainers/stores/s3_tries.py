"""How long a request to S3 is tried: exponential waits with full jitter, and one deadline for all tries.

Full jitter: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
"""

import random
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from tuneyard.trainers.errors import StoreError
from tuneyard.trainers.stores.s3_client import S3Clients
from tuneyard.trainers.stores.s3_faults import FAULTS, Kind, Place, explain, gave_up, kind_of

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

T = TypeVar("T")

_FIRST_WAIT_S = 0.1
_LONGEST_WAIT_S = 10.0


class S3Tries:
    """Runs requests against one store until they succeed, are refused, or `deadline_s` has passed.

    The deadline is looked at between tries: one that moves, however slowly, is never cut off.
    """

    def __init__(self, clients: S3Clients, place: Place, told: Callable[[str], None] | None = None) -> None:
        """`told` hears why a request is tried again, before each wait."""
        self._clients = clients
        self.place = place
        self._told = told
        self._worked = False

    def run(
        self,
        request: "Callable[[S3Client], T]",
        verb: str,
        key: str,
        *,
        most: int | None = None,
        deadline_s: float | None = None,
        stop: threading.Event | None = None,
    ) -> T:
        """What `request` returns, which is called anew for each try: at most `most`, and none once `stop` is set.

        `verb` and `key` are for the text of the `StoreError`.
        """
        begun, tries, renewed = time.monotonic(), 0, False
        deadline = begun + (self.place.options.deadline_s if deadline_s is None else deadline_s)
        while True:
            tries += 1
            generation = 0
            try:
                client, generation = self._client(deadline - time.monotonic())
                answer = request(client)
                self._worked = True
                return answer
            except FAULTS as error:
                kind = kind_of(error, worked=self._worked)
                if kind is Kind.FINAL or (kind is Kind.EXPIRED and renewed):
                    raise explain(error, self.place, verb, key) from error
                now = time.monotonic()
                if now >= deadline or tries == most or (stop is not None and stop.is_set()):
                    raise gave_up(error, self.place, verb, key, after_s=now - begun, tries=tries) from error
                if kind is Kind.EXPIRED:
                    self._clients.renew(generation)
                    renewed = True
                    continue
                if self._told is not None:
                    self._told(str(explain(error, self.place, verb, key)))
            _pause(min(_wait_s(tries), deadline - now), stop)

    def _client(self, rest_s: float) -> "tuple[S3Client, int]":
        try:
            return self._clients.get(rest_s)
        except ValueError as error:
            raise StoreError(f"{self.place.uri}: the S3 client cannot be made ({error}).") from error


def _wait_s(tries: int) -> float:
    return random.uniform(0, min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2 ** min(tries, 16)))


def _pause(seconds: float, stop: threading.Event | None) -> None:
    if stop is not None:
        stop.wait(seconds)
    else:
        time.sleep(seconds)
