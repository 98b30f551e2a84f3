"""Arithmetic of `c/common.h` in NumPy, for the twins of kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def fused(a: Any, b: Any, c: Any) -> NDArray[np.float32]:
    """a * b + c of float32, rounded once.

    The product is exact in float64; what its sum with c loses there is found (Knuth's two-sum), and where that would
    make float32 round from a tie, the sum is moved by it.
    """
    a, b, c = (np.asarray(part, np.float32).astype(np.float64) for part in (a, b, c))
    with np.errstate(all="ignore"):
        product = a * b
        total = product + c
        other = total - product
        lost = (product - (total - other)) + (c - other)
        nearest = total.astype(np.float32)
        # A tie in float64: exactly half way between two neighbours of float32.
        beside = np.nextafter(nearest, np.where(total > nearest, np.inf, -np.inf).astype(np.float32))
        tie = (nearest.astype(np.float64) + beside) / 2 == total
        moved = np.nextafter(total, np.where(lost > 0, np.inf, -np.inf))
        exact: NDArray[np.float32] = np.where(tie & (lost != 0), moved, total).astype(np.float32)
    return exact
