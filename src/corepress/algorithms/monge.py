"""The optimal partition of sorted, weighted numbers into k runs, in time that hardly grows with k.

A run costs the weighted squared distance of its numbers to their mean. That cost is Monge, hence (Aggarwal, Schieber
and Tokuyama 1994, "Finding a minimum-weight k-link path in graphs with the concave Monge property"):

- the least total is convex in k: under a price for each run, the shortest path over any number of runs has k of them
  at some price, and a search finds that price;
- one sweep over the numbers finds the shortest path at a price (Galil and Giancarlo 1989);
- where the count jumps over k, two shortest paths of one price splice into a shortest path of k runs.

Grønlund et al. 2017, "Fast exact k-means, k-medians and Bregman divergence clustering in 1D", put this to k-means.
New here is a coarse grid over the numbers that tells the price; then a sweep or two over all numbers, at that price,
find the optimum and certify it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
from numpy.typing import NDArray

import corepress.weights.cache  # noqa: F401  (before anything is compiled)

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]

CELLS_PER_CLUSTER = 16  # of the coarse grid: with fewer, its price is off by a cluster, which costs whole sweeps

Function = TypeVar("Function", bound=Callable[..., Any])


def kernel(function: Function) -> Function:
    """Compile with numba: without the interpreter lock, and with NumPy's rules for division."""
    return cast(Function, numba.njit(nogil=True, cache=True, error_model="numpy")(function))


@kernel
def partition(values: Floats, counts: Floats, k: int) -> Ints:
    """Bounds of the runs with the least total cost: run i is `values[bounds[i]:bounds[i + 1]]`.

    `values`: float64 (n,), finite and strictly ascending; `counts`: float64 (n,), finite and positive. Returns
    int32 (min(n, k) + 1,). Optimal up to the rounding of float64 sums.
    """
    n = values.size
    if n <= k:
        return np.arange(n + 1, dtype=np.int32)
    sums = _prefix_sums(values, counts)
    grid = np.arange(n + 1, dtype=np.int32)
    if n > 2 * CELLS_PER_CLUSTER * k:
        grid = _coarse_grid(values, counts, CELLS_PER_CLUSTER * k)
    price = _high_resolution_price(values, sums, grid, k)
    if k < grid.size - 1 < n:
        _, price = _search(sums[:, grid], k, price)
        # Bounds that keep to cells of 1/c of a cluster raise the error, thus the price, by about 1 / (2 c^2).
        price *= 1 - 0.5 / CELLS_PER_CLUSTER**2
    bounds, _ = _search(sums, k, price)
    return bounds


@kernel
def _prefix_sums(values: Floats, counts: Floats) -> Floats:
    """Sums of count, count * x and count * x^2 before each position, (3, n + 1), x being taken from the median.

    Two guards against rounding: the sums grow outwards from the median, so that an outlier does not drown the rest;
    and counts are multiples of one power of two, which makes all sums of them exact.
    """
    n, total = values.size, counts.sum()
    unit = 2.0 ** (np.floor(np.log2(total)) - 51)
    middle, mass = 0, counts[0]
    while 2 * mass < total and middle < n - 1:
        middle += 1
        mass += counts[middle]
    sums = np.zeros((3, n + 1))
    for j in range(middle, n):
        w, x = max(np.rint(counts[j] / unit), 1.0) * unit, values[j] - values[middle]
        sums[0, j + 1] = sums[0, j] + w
        sums[1, j + 1] = sums[1, j] + w * x
        sums[2, j + 1] = sums[2, j] + w * x * x
    for j in range(middle - 1, -1, -1):
        w, x = max(np.rint(counts[j] / unit), 1.0) * unit, values[j] - values[middle]
        sums[0, j] = sums[0, j + 1] - w
        sums[1, j] = sums[1, j + 1] - w * x
        sums[2, j] = sums[2, j + 1] - w * x * x
    return sums


@kernel
def _coarse_grid(values: Floats, counts: Floats, cells: int) -> Ints:
    """At most `cells` + 1 positions, from 0 to n, spread about as densely as the bounds of good clusters are.

    That density goes with the cube root of the distribution's (Panter and Dite 1951); the fourth root is near
    enough, and quicker to take.
    """
    n = values.size
    spread = np.zeros(n)
    for j in range(1, n):
        gap = values[j] - values[j - 1]
        spread[j] = spread[j - 1] + np.sqrt(np.sqrt(counts[j] * gap * gap * gap))
    grid = np.zeros(cells + 1, np.int32)
    size, step = 1, spread[n - 1] / cells
    limit = step
    for j in range(1, n):
        if spread[j] > limit and size < cells:
            grid[size] = j
            size += 1
            limit = max(limit + step, spread[j])
    grid[size] = n
    return grid[: size + 1]


@kernel
def _high_resolution_price(values: Floats, sums: Floats, grid: Ints, k: int) -> float:
    """What the k-th cluster saves in the limit of many clusters, by the integral of Panter and Dite."""
    root = 0.0
    for i in range(grid.size - 1):
        width = values[min(grid[i + 1], values.size - 1)] - values[grid[i]]
        root += np.cbrt((sums[0, grid[i + 1]] - sums[0, grid[i]]) * width * width)
    return root**3 / (6.0 * k**3)


@kernel
def _search(sums: Floats, k: int, price: float) -> tuple[Ints, float]:
    """The cheapest path of k edges from 0 to n, 1 <= k < n, and a price at which it is a shortest path.

    `price` is where to begin. `few` and `many` are the shortest paths found so far that come closest to k edges from
    below and from above. Until both are found, the price follows the count's power law; then it is the slope of the
    chord between them (Eisner and Severance 1976): that finds a path between them, or that there is none.
    """
    n = sums.shape[1] - 1
    few, many = np.array([0, n], np.int32), np.arange(n + 1, dtype=np.int32)
    if k == 1:
        return few, price
    scratch, labels = np.empty(n + 1), np.empty((3, n + 1), np.int32)
    tries, on_chord = 0, not 0 < price < np.inf
    while True:
        if on_chord:
            price = (_cost(sums, few) - _cost(sums, many)) / (many.size - few.size)
        path = _shortest_path(sums, price, scratch, labels)
        count = path.size - 1
        if count == k:
            return path, price
        if on_chord and not few.size < path.size < many.size:
            return _splice(few, many, k), price
        if count < k and path.size > few.size:
            few = path
        elif count > k and path.size < many.size:
            many = path
        price *= (count / k) ** 3
        tries += 1
        on_chord = tries > 6 or (few.size > 2 and many.size <= n)


@kernel
def _cost(sums: Floats, path: Ints) -> float:
    cost = 0.0
    for i in range(path.size - 1):
        cost += sums[2, path[i + 1]] - sums[2, path[i]] - _gain(sums[0], sums[1], path[i], path[i + 1])
    return cost


@kernel
def _gain(mass: Floats, moment: Floats, i: int, j: int) -> float:
    """How much less a run i..j costs around its mean than around the origin."""
    x: float = moment[j] - moment[i]
    w: float = mass[j] - mass[i]
    return x * x / w


@kernel
def _shortest_path(sums: Floats, price: float, best: Floats, labels: Ints) -> Ints:
    """Positions 0 = p_0 < p_1 < ... = n that minimise the cost of the runs between them plus `price` for each.

    `best` (n + 1,) and `labels` (3, n + 1) are scratch. A queue holds the start points that are yet to be the best:
    `starts[q]` is it for the ends from `since[q]` to `since[q + 1]`. By the Monge property a later start point, once
    better than an earlier one, stays so; a new one therefore takes over a tail of the queue.
    """
    n, mass, moment = sums.shape[1] - 1, sums[0], sums[1]
    previous, starts, since = labels[0], labels[1], labels[2]
    best[0], starts[0], since[0] = -sums[2, 0], 0, 1
    head, last = 0, 0
    for j in range(1, n + 1):
        while head < last and since[head + 1] <= j:
            head += 1
        i = starts[head]
        previous[j], best[j] = i, best[i] - _gain(mass, moment, i, j) + price
        end = j
        while last >= head:  # drop what j beats from its first end on
            i, end = starts[last], max(since[last], j + 1)
            if end > n or best[j] - _gain(mass, moment, j, end) > best[i] - _gain(mass, moment, i, end):
                break
            last -= 1
        if last < head:
            end = j + 1
        else:
            end = _overtaking(mass, moment, best, i, j, end)
        if end <= n:
            last = max(last + 1, head)
            starts[last], since[last] = j, end
    size, j = 1, n
    while j > 0:
        j = previous[j]
        size += 1
    path, j = np.empty(size, np.int32), n
    for i in range(size - 1, -1, -1):
        path[i], j = j, previous[j]
    return path


@kernel
def _overtaking(mass: Floats, moment: Floats, best: Floats, i: int, j: int, end: int) -> int:
    """The first end after `end` for which start j is no worse than start i < j; n + 1 if there is none."""
    n, step = mass.size - 1, 1
    low, high = end, end + 1
    while high <= n and best[j] - _gain(mass, moment, j, high) > best[i] - _gain(mass, moment, i, high):
        low, step = high, 2 * step
        high += step
    high = min(high, n + 1)
    while high - low > 1:
        mid = (low + high) // 2
        if best[j] - _gain(mass, moment, j, mid) > best[i] - _gain(mass, moment, i, mid):
            low = mid
        else:
            high = mid
    return high


@kernel
def _splice(few: Ints, many: Ints, k: int) -> Ints:
    """A path of k edges out of two shortest paths of one price, with fewer and with more edges.

    The first edge of `few` that encloses the edge of `many` a fixed number of edges further on: where `many` is
    left for `few` by an edge across, the Monge property says that nothing is lost.
    """
    ahead, i = k - (few.size - 1), 0
    while few[i + 1] < many[i + 1 + ahead]:
        i += 1
    return np.concatenate((many[: i + ahead + 1], few[i + 1 :]))
