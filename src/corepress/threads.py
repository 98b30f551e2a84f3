"""Kernels that release the GIL, on parts of the rows of an array at once."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor


def over_rows(rows: int, threads: int, work: Callable[[int, int], None], multiple: int = 1) -> None:
    """`work(first, last)` for parts that cover all rows, one for each thread; of `multiple` rows but for the last."""
    step = -(-rows // max(threads, 1) // multiple) * multiple
    if step >= rows:
        work(0, rows)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda first: work(first, min(first + step, rows)), range(0, rows, step)))
