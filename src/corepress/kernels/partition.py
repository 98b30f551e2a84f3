"""The optimal partition of sorted, weighted numbers into k runs. See `c/partition.c`, which has the derivation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from corepress.kernels.library import Double, Int, Pointer, kernel, pointer

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]

_room = kernel("partition_room", Int, Int, returns=Int)
_partition = kernel("partition", Pointer, Pointer, Int, Int, Pointer, Pointer, returns=Int)
_means_of_runs = kernel("means_of_runs", Pointer, Pointer, Pointer, Int, Pointer, returns=Double)


def room_for(n: int, k: int) -> Floats:
    """Space for the partition of up to `n` numbers into `k` runs."""
    if k < 1 or not 0 <= n < 2**31 - 1:
        raise ValueError(f"{n} numbers can't be partitioned into {k} runs")
    return np.empty(_room(n, k))


def partition(values: Floats, counts: Floats, k: int) -> Ints:
    """Bounds of the runs with the least total cost: run i is `values[bounds[i]:bounds[i + 1]]`.

    `values`: float64 (n,), finite and strictly ascending; `counts`: float64 (n,), finite and positive. Returns
    int32 (min(n, k) + 1,). Optimal up to the rounding of float64 sums.
    """
    n = values.size
    room, bounds = room_for(n, k), np.empty(min(n, k) + 1, np.int32)
    given = pointer(values, np.float64, shape=(n,)), pointer(counts, np.float64, shape=(n,))
    _partition(*given, n, k, pointer(room, out=True), pointer(bounds, out=True))
    return bounds


def means_of_runs(values: Floats, counts: Floats, bounds: Ints) -> tuple[Floats, float]:
    """The means of the runs that `partition` gives, and their total squared error."""
    n = values.size
    if bounds.size < 1 or bounds[0] < 0 or bounds[-1] > n or (np.diff(bounds) < 0).any():
        raise ValueError(f"the bounds of runs ascend within 0 to {n}")
    means = np.empty(bounds.size - 1)
    given = pointer(values, np.float64, shape=(n,)), pointer(counts, np.float64, shape=(n,))
    error = _means_of_runs(*given, pointer(bounds, np.int32), means.size, pointer(means, out=True))
    return means, error
