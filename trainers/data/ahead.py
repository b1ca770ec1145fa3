"""Making things beside their use: a thread that keeps a few results ready."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Asked = TypeVar("Asked")
Made = TypeVar("Made")


def made_ahead(make: Callable[[Asked], Made], requests: Iterable[Asked], depth: int = 2) -> Generator[Made]:
    """`make` of each request, in order, made by one thread that is up to `depth` results ahead.

    An error of `make` is raised where its result would have come. Closing the iterator stops the thread.
    """
    pending: deque[Future[Made]] = deque()
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as pool:
        try:
            for request in requests:
                pending.append(pool.submit(make, request))
                if len(pending) > depth:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
