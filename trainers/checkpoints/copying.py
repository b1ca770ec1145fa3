"""Copies tensors in main memory at the speed of the memory, on several cores where they are free.

Torch's own copy shares a large tensor out among its threads and waits for all of them: beside one busy process that
takes four times as long as with one thread. Here threads take piece after piece, so that none waits for a busy core.
"""

import os
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache

import numpy as np
import torch

SMALL_BYTES = 2**17
"""Below this, torch copies with one thread, and one call for all is cheaper than a piece for each."""
PIECE_BYTES = 2 * 2**20
ALONE_BYTES = 8 * 2**20
"""Less than this is copied before another thread has woken up."""
MAX_THREADS = 4

_Pieces = deque[tuple["np.ndarray[tuple[int], np.dtype[np.uint8]]", "np.ndarray[tuple[int], np.dtype[np.uint8]]"]]


def copy_all(pairs: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Copy each (goal, source); both lie in main memory, with equal shapes, dtypes and memory formats."""
    small: list[tuple[torch.Tensor, torch.Tensor]] = []
    pieces: _Pieces = deque()
    for goal, source in pairs:
        flat = _bytes(goal), _bytes(source)
        if goal.nbytes < SMALL_BYTES or flat[0] is None or flat[1] is None:
            small.append((goal, source))
        else:
            for start in range(0, goal.nbytes, PIECE_BYTES):
                pieces.append((flat[0][start : start + PIECE_BYTES], flat[1][start : start + PIECE_BYTES]))
    total = sum(len(goal) for goal, _ in pieces)
    threads = min(MAX_THREADS, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1)
    helpers = [] if total < ALONE_BYTES else [_pool().submit(_drain, pieces) for _ in range(threads - 1)]
    if small:
        torch._foreach_copy_([goal for goal, _ in small], [source for _, source in small])
    _drain(pieces)
    for helper in helpers:
        # One that has not begun has nothing left to do; waiting for its core would be for nothing.
        if not helper.cancel():
            helper.result()


def copy_later(pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> "Future[None]":
    """`copy_all` in another thread. The sources must stay as they are until the result is there."""
    return _background().submit(copy_all, pairs)


def _bytes(tensor: torch.Tensor) -> "np.ndarray[tuple[int], np.dtype[np.uint8]] | None":
    """The elements as they lie in memory; None where they do not lie side by side, or are few."""
    if tensor.nbytes < SMALL_BYTES or tensor.is_conj() or tensor.is_neg():
        return None
    if not tensor.is_contiguous():
        if tensor.dim() not in (4, 5) or not tensor.movedim(1, -1).is_contiguous():
            return None
        tensor = tensor.movedim(1, -1)
    flat: np.ndarray[tuple[int], np.dtype[np.uint8]] = tensor.reshape(-1).view(torch.uint8).numpy()
    return flat


def _drain(pieces: _Pieces) -> None:
    while True:
        try:
            goal, source = pieces.popleft()
        except IndexError:
            return
        goal[:] = source  # without the interpreter's lock


@cache
def _background() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, thread_name_prefix="staging-later")


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(MAX_THREADS - 1, thread_name_prefix="staging")
