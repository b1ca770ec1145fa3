"""All objects under a prefix. A long listing is cut into ranges of keys, which are listed at the same time.

S3 lists a thousand keys a request, one request after the other: of a million objects that alone takes minutes, at every
start.
"""

import threading
from collections.abc import Callable
from functools import partial
from itertools import pairwise

from tuneyard.trainers.data.threads import work_through
from tuneyard.trainers.stores.s3_objects import S3Object, S3Objects

RANGES = 16
_IN_ORDER = 4
"""Pages that are listed one after the other before it is worth while to look for ranges."""
_LEVELS = 3


def list_all(objects: S3Objects, prefix: str, tick: Callable[[int], None]) -> list[S3Object]:
    """Every object whose key begins with `prefix`; `tick` is told how many were found so far. Raises StoreError."""
    found: list[S3Object] = []
    for number, page in enumerate(objects.listing(prefix), start=1):
        found += page
        tick(len(found))
        if number == _IN_ORDER:
            break
    else:
        return found
    stop = threading.Event()
    reached = found[-1].key if found else prefix
    ranges = pairwise([reached, *(bound for bound in _bounds(objects, prefix) if bound > reached), None])
    jobs = [partial(_list_range, objects, prefix, start, end, stop, found) for start, end in ranges]
    work_through(iter(jobs), RANGES, stop, lambda: tick(len(found)))
    return found


def _list_range(
    objects: S3Objects, prefix: str, start: str | None, end: str | None, stop: threading.Event, found: list[S3Object]
) -> None:
    """Append what lies behind `start` and before `end`."""
    for page in objects.listing(prefix, after=start or ""):
        found += [one for one in page if end is None or one.key < end]
        if stop.is_set() or (end is not None and page and page[-1].key >= end):
            return


def _bounds(objects: S3Objects, prefix: str) -> list[str]:
    """Keys at which ranges begin, sorted: some of the folders, of the first level that has enough of them."""
    folders = objects.folders(prefix)
    for _ in range(_LEVELS):
        if not folders or len(folders) >= RANGES:
            break
        below = [inner for folder in folders for inner in objects.folders(folder)]
        if not below:
            break
        folders = sorted({*folders, *below})
    step = -(-len(folders) // RANGES) or 1
    return folders[::step]
