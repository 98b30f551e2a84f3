"""Threads: a pool of them, and kernels that release the GIL on parts of the rows of an array at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache

CORES = os.cpu_count() or 1


@contextmanager
def pool(workers: int | None = None) -> Iterator[ThreadPoolExecutor]:
    """Threads for the work of a block, by default one for each core.

    Where an error or Ctrl-C ends the block, work that has not begun is given up.
    """
    threads = ThreadPoolExecutor(workers or CORES)
    try:
        yield threads
    finally:
        threads.shutdown(wait=True, cancel_futures=True)


def over_rows(rows: int, threads: int, work: Callable[[int, int], None], multiple: int = 1, turns: int = 1) -> None:
    """`work(first, last)` for parts that cover all rows, in so many threads, of which this one is the first.

    The parts are of `multiple` rows, but for the last. `turns`: parts for each thread; one that is done with its part
    takes the next, since other work may slow some of them.
    """
    step = -(-rows // (max(threads, 1) * turns) // multiple) * multiple
    if threads <= 1 or step >= rows:
        work(0, rows)
        return
    firsts = iter(range(0, rows, step))

    def take() -> None:
        for first in firsts:
            work(first, min(first + step, rows))

    helpers = [_helpers().submit(take) for _ in range(threads - 1)]
    try:
        take()
    finally:
        # Those that have not begun by now, because all threads are busy, have nothing left to do; the others end first.
        faults = [helper.exception() for helper in helpers if not helper.cancel()]
    for fault in faults:
        if fault is not None:
            raise fault


@lru_cache(maxsize=1)
def _helpers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max(1, CORES - 1), "corepress")


if hasattr(os, "register_at_fork"):  # threads do not live on in a fork
    os.register_at_fork(after_in_child=_helpers.cache_clear)
