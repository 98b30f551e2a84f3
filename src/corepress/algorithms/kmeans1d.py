"""Exact k-means in one dimension.

Sorted numbers with weights are split into k runs, each costing the weighted squared distance to its own mean. Such a
cost is Monge, hence (Aggarwal, Schieber and Tokuyama 1994, "Finding a minimum-weight k-link path in graphs with the
concave Monge property"):

- the least error is convex in k: under a price for each run, the shortest path over any number of runs has k of
  them at some price, and a search finds that price;
- one sweep over the values finds that shortest path (Galil and Giancarlo 1989);
- where the count jumps over k, two shortest paths of one price splice into a shortest path of k runs.

So the time hardly grows with k (Grønlund et al. 2017, "Fast exact k-means, k-medians and Bregman divergence
clustering in 1D"). A coarse grid over the values tells the price; a sweep or two over all values at that price find
the optimum, and certify it.

A 16-bit format has 65,536 values: a histogram replaces sorting the weight, and a table replaces assigning it.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from corepress.errors import CorepressError

Array = NDArray[Any]
Floats = NDArray[np.float64]
Ints = NDArray[np.int32]
Codes = NDArray[np.uint16]
Indices = NDArray[np.uint8]

CELLS_PER_CLUSTER = 16  # of the coarse grid: with fewer, its price is off by a cluster, which costs whole sweeps
NOT_FINITE = "The weight holds values that are not finite (infinity or NaN), so it has no k-means clusters."

_kernel = numba.njit(nogil=True, cache=True, error_model="numpy")


class Clusters(NamedTuple):
    """`centroids`: float64 (k',), ascending. Cluster i is `values[bounds[i]:bounds[i + 1]]`. `sse`: the error."""

    centroids: Floats
    bounds: Ints
    sse: float


def cluster(values: Floats, counts: Floats, k: int) -> Clusters:
    """Split weighted numbers into min(n, k) clusters of the least total squared error.

    `values`: float64 (n,), finite, strictly ascending; `counts`: float64 (n,), positive. Optimal up to the rounding
    of float64 sums; a count below 2**-50 of the total weighs as much as that. Raises CorepressError for other input.
    """
    values, counts = np.ascontiguousarray(values, np.float64), np.ascontiguousarray(counts, np.float64)
    if k < 1 or values.ndim != 1 or values.shape != counts.shape or values.size == 0:
        raise CorepressError("k-means needs k >= 1, at least one value, and one count for each value.")
    if not (np.isfinite(values).all() and (np.diff(values) > 0).all()):
        raise CorepressError("k-means needs finite values in strictly ascending order, as `histogram` gives.")
    if not (np.isfinite(counts).all() and (counts > 0).all()):
        raise CorepressError("k-means needs finite, positive counts.")
    bounds = _partition(values, counts, k)
    centroids = np.empty(bounds.size - 1)
    return Clusters(centroids, bounds, float(_means(values, counts, bounds, centroids)))


def histogram(weight: Array, importance: Array | None = None) -> tuple[Floats, Floats]:
    """The distinct values of a weight in ascending order, and how often each occurs: float64 (n,) twice.

    `weight`: float16, bfloat16, float32, float64, int8 or uint8 of any shape. `importance`: of that shape, not
    negative: values are counted by their importance, and those without any are left out, unless none has any.
    Raises CorepressError for numbers that are not finite.
    """
    rows, weights = _checked(weight.reshape(1, -1), None if importance is None else importance.reshape(1, -1))
    short = _as_16_bit(rows)
    values, counts = np.empty(max(rows.size, 65536)), np.empty(max(rows.size, 65536))
    if short:
        n = _count_codes(short.codes[0], weights[0], short.by_rank, values, counts)
    else:
        rows, weights = _sorted(rows, weights)
        n = _count_sorted(rows[0], weights[0], values, counts)
    if n < 0:
        raise CorepressError(NOT_FINITE)
    return values[:n].copy(), counts[:n].copy()


def quantize_values(weight: Array, k: int, importance: Array | None = None) -> tuple[Array, Indices]:
    """The best look-up table of `k` <= 256 entries for a weight, and the index of each element's entry.

    `weight` and `importance`: as for `histogram`. Returns the table, (k,) of the weight's type, ascending, with
    zeros after the last entry in use; and the indices, uint8 of the weight's shape.
    """
    flat = None if importance is None else importance.reshape(1, -1)
    lut, indices = quantize_rows(weight.reshape(1, -1), k, flat)
    return lut[0], indices.reshape(weight.shape)


def quantize_rows(rows: Array, k: int, importance: Array | None = None) -> tuple[Array, Indices]:
    """`quantize_values` of each row of a matrix: (groups, m) gives tables (groups, k) and indices (groups, m)."""
    rows, weights = _checked(rows, importance)
    centroids, used = np.zeros((len(rows), k)), np.zeros(len(rows), np.int32)
    short = _as_16_bit(rows)
    if short:
        _cluster_codes(short.codes, weights, short.by_rank, centroids, used)
    else:
        _cluster_sorted(*_sorted(rows, weights), centroids, used)
    if (used < 0).any():
        raise CorepressError(NOT_FINITE)
    # The representable value nearest to the mean is the best for a partition. Rounding does not merge clusters:
    # their values are representable, so a rounded mean stays between its own.
    lut = round_to(centroids, rows.dtype)
    return lut, _nearest(rows, short, lut, used)


def nearest(rows: Array, lut: Array) -> Indices:
    """For each element of (groups, m), the index of the nearest entry of its row's ascending table (groups, k)."""
    return _nearest(rows, _as_16_bit(rows), lut, np.full(len(rows), lut.shape[1], np.int32))


def round_to(values: Floats, dtype: np.dtype[Any]) -> Array:
    """The nearest values of another type; integers saturate."""
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        values = np.clip(np.rint(values), limits.min, limits.max)
    return values.astype(dtype)


class Short(NamedTuple):
    """A matrix of 16-bit floating-point numbers: their bits, and all values of the format in ascending order."""

    codes: Codes
    by_rank: Floats


def _as_16_bit(rows: Array) -> Short | None:
    """The rows as 16-bit numbers, if each of them is exactly that."""
    if rows.dtype == np.float16 or rows.dtype.name == "bfloat16":
        return Short(rows.view(np.uint16), _ranked(rows.dtype.name))
    if rows.dtype.itemsize == 1:
        return Short(rows.astype(np.float16).view(np.uint16), _ranked("float16"))
    sample = rows.reshape(-1)[:: max(1, rows.size // 1024)]
    for name, convert in (("float16", _half_codes), ("bfloat16", _brain_codes)):
        if convert(sample) is not None and (codes := convert(rows)) is not None:
            return Short(codes, _ranked(name))
    return None


def _half_codes(values: Array) -> Codes | None:
    with np.errstate(over="ignore", invalid="ignore"):
        half = values.astype(np.float16)
    return half.view(np.uint16) if (half == values).all() else None


def _brain_codes(values: Array) -> Codes | None:
    with np.errstate(over="ignore", invalid="ignore"):
        bits = values.astype(np.float32).view(np.uint32)
    exact = not (bits & 0xFFFF).any() and (bits.view(np.float32) == values).all()
    return (bits >> 16).astype(np.uint16) if exact else None


@functools.cache
def _ranked(name: str) -> Floats:
    """All values of a 16-bit format in ascending order: bits 0xFFFF down to 0x8000, then 0x0000 up to 0x7FFF."""
    codes = np.arange(65536, dtype=np.uint16)
    codes = np.concatenate([codes[:0x7FFF:-1], codes[:0x8000]])
    bits = codes.view(np.float16) if name == "float16" else (codes.astype(np.uint32) << 16).view(np.float32)
    values = bits.astype(np.float64)
    values[np.isnan(values)] = np.inf
    values[:0x8000][values[:0x8000] == np.inf] = -np.inf  # NaN of negative sign, to keep the order
    return values


def _checked(rows: Array, importance: Array | None) -> tuple[Array, Array]:
    """Contiguous rows of a type that the kernels know, and importance of that shape, or (groups, 0) for none."""
    if not (rows.dtype.itemsize == 1 or rows.dtype.name in ("float16", "bfloat16", "float32")):
        rows = rows.astype(np.float64)
    rows = np.ascontiguousarray(rows)
    if importance is None:
        return rows, np.empty((len(rows), 0))
    if importance.shape != rows.shape:
        raise CorepressError(f"The importance has shape {importance.shape}, but the weight has {rows.shape}.")
    weights = np.ascontiguousarray(importance, np.float64)
    if not (np.isfinite(weights).all() and (weights >= 0).all()):
        raise CorepressError("The importance must be finite and not negative.")
    if not np.isfinite(rows).all():
        raise CorepressError(NOT_FINITE)
    return rows, np.where(weights.any(axis=1, keepdims=True), weights, 1.0)


def _sorted(rows: Array, weights: Array) -> tuple[Array, Array]:
    if not weights.size:
        return np.sort(rows, axis=1), weights
    order = np.argsort(rows, axis=1)
    return np.take_along_axis(rows, order, axis=1), np.take_along_axis(weights, order, axis=1)


def _nearest(rows: Array, short: Short | None, lut: Array, used: Ints) -> Indices:
    indices = np.empty(rows.shape, np.uint8)
    if short:
        _assign_codes(short.codes, short.by_rank, lut.astype(np.float64), used, indices)
    else:
        _assign(rows, lut.astype(np.float64), used, indices)
    return indices


@_kernel
def _cluster_codes(codes: Codes, weights: Floats, by_rank: Floats, centroids: Floats, used: Ints) -> None:
    values, counts = np.empty(65536), np.empty(65536)
    for row in range(codes.shape[0]):
        n = _count_codes(codes[row], weights[row], by_rank, values, counts)
        used[row] = _centroids(values[:n], counts[:n], centroids[row]) if n > 0 else n


@_kernel
def _cluster_sorted(rows: Array, weights: Floats, centroids: Floats, used: Ints) -> None:
    values, counts = np.empty(rows.shape[1]), np.empty(rows.shape[1])
    for row in range(rows.shape[0]):
        n = _count_sorted(rows[row], weights[row], values, counts)
        used[row] = _centroids(values[:n], counts[:n], centroids[row]) if n > 0 else n


@_kernel
def _count_codes(codes: Codes, weights: Floats, by_rank: Floats, values: Floats, counts: Floats) -> int:
    """Fill `values` and `counts` with the histogram; its length, or -1 where a value is not finite."""
    if weights.size == 0:
        tally = np.zeros(65536, np.uint32)
        for i in range(codes.size):
            tally[codes[i]] += np.uint32(1)
        return _gather(tally, by_rank, values, counts)
    mass = np.zeros(65536)
    for i in range(codes.size):
        mass[codes[i]] += weights[i]
    return _gather(mass, by_rank, values, counts)


@_kernel
def _gather(bins: Array, by_rank: Floats, values: Floats, counts: Floats) -> int:
    n = 0
    for rank in range(65536):
        count = bins[rank - 0x8000] if rank >= 0x8000 else bins[0xFFFF - rank]
        if count > 0:
            if n > 0 and values[n - 1] == by_rank[rank]:  # -0.0 and 0.0
                counts[n - 1] += count
            else:
                values[n], counts[n] = by_rank[rank], count
                n += 1
    return n if n == 0 or (np.isfinite(values[0]) and np.isfinite(values[n - 1])) else -1


@_kernel
def _count_sorted(row: Array, weights: Floats, values: Floats, counts: Floats) -> int:
    """As `_count_codes`, for an ascending row; NaN sort last."""
    if row.size and not (np.isfinite(row[0]) and np.isfinite(row[-1])):
        return -1
    n = 0
    for i in range(row.size):
        count = weights[i] if weights.size else 1.0
        if count > 0:
            if n > 0 and values[n - 1] == row[i]:
                counts[n - 1] += count
            else:
                values[n], counts[n] = row[i], count
                n += 1
    return n


@_kernel
def _assign_codes(codes: Codes, by_rank: Floats, luts: Floats, used: Ints, indices: Indices) -> None:
    ranked, table = np.empty(65536, np.uint8), np.empty(65536, np.uint8)
    for row in range(codes.shape[0]):
        lut, begin = luts[row], 0
        for i in range(used[row] - 1):
            end = np.searchsorted(by_rank, (lut[i] + lut[i + 1]) / 2, side="right")
            ranked[begin:end] = i
            begin = max(begin, end)
        ranked[begin:] = max(used[row] - 1, 0)
        table[:0x8000], table[0x8000:] = ranked[0x8000:], ranked[0x7FFF::-1]
        for j in range(codes.shape[1]):
            indices[row, j] = table[codes[row, j]]


@_kernel
def _assign(rows: Array, luts: Floats, used: Ints, indices: Indices) -> None:
    limits = np.empty(256)  # between neighbouring entries; a binary search without branches needs all 256
    for row in range(rows.shape[0]):
        limits[:] = np.inf
        for i in range(used[row] - 1):
            limits[i] = (luts[row, i] + luts[row, i + 1]) / 2
        half = 1
        while 2 * half < used[row]:
            half *= 2
        for j in range(rows.shape[1]):
            index, step = 0, half
            while step:
                index += step * (limits[index + step - 1] < rows[row, j])
                step >>= 1
            indices[row, j] = index


@_kernel
def _centroids(values: Floats, counts: Floats, centroids: Floats) -> int:
    """Fill `centroids` with the best ones; how many there are."""
    bounds = _partition(values, counts, centroids.size)
    _means(values, counts, bounds, centroids)
    return bounds.size - 1


@_kernel
def _means(values: Floats, counts: Floats, bounds: Ints, means: Floats) -> float:
    """Fill `means` with those of the clusters; their total squared error."""
    sse = 0.0
    for i in range(bounds.size - 1):
        origin, mass, moment = values[bounds[i]], 0.0, 0.0
        for j in range(bounds[i], bounds[i + 1]):
            mass += counts[j]
            moment += counts[j] * (values[j] - origin)
        means[i] = origin + moment / mass
        for j in range(bounds[i], bounds[i + 1]):
            sse += counts[j] * (values[j] - means[i]) ** 2
    return sse


@_kernel
def _partition(values: Floats, counts: Floats, k: int) -> Ints:
    """Bounds (k' + 1,) of the optimal clusters."""
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


@_kernel
def _prefix_sums(values: Floats, counts: Floats) -> Floats:
    """Sums of count, count * x and count * x^2 before each position, (3, n + 1), x being taken from the median.

    They grow outwards from the median, so that an outlier does not drown the rest in its rounding.
    """
    n, total = values.size, counts.sum()
    least = total * 2.0**-50  # less would vanish in the sums, and leave runs of no weight
    middle, mass = 0, counts[0]
    while 2 * mass < total and middle < n - 1:
        middle += 1
        mass += counts[middle]
    sums = np.zeros((3, n + 1))
    for j in range(middle, n):
        w, x = max(counts[j], least), values[j] - values[middle]
        sums[0, j + 1] = sums[0, j] + w
        sums[1, j + 1] = sums[1, j] + w * x
        sums[2, j + 1] = sums[2, j] + w * x * x
    for j in range(middle - 1, -1, -1):
        w, x = max(counts[j], least), values[j] - values[middle]
        sums[0, j] = sums[0, j + 1] - w
        sums[1, j] = sums[1, j + 1] - w * x
        sums[2, j] = sums[2, j + 1] - w * x * x
    return sums


@_kernel
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


@_kernel
def _high_resolution_price(values: Floats, sums: Floats, grid: Ints, k: int) -> float:
    """What the k-th cluster saves in the limit of many clusters, by the integral of Panter and Dite."""
    root = 0.0
    for i in range(grid.size - 1):
        width = values[min(grid[i + 1], values.size - 1)] - values[grid[i]]
        root += np.cbrt((sums[0, grid[i + 1]] - sums[0, grid[i]]) * width * width)
    return root**3 / (6.0 * k**3)


@_kernel
def _search(sums: Floats, k: int, price: float) -> tuple[Ints, float]:
    """The cheapest path of k edges from 0 to n, 1 <= k < n, and a price at which it is the shortest path.

    `price` is where to begin. `few` and `many` are the shortest paths found so far with fewest too many and most
    too few edges. First the price is scaled as the count's power law tells; then it is the slope of the chord
    between both (Eisner and Severance 1976), which either finds a path between them or tells that there is none.
    """
    n = sums.shape[1] - 1
    few, many = np.array([0, n], np.int32), np.arange(n + 1, dtype=np.int32)
    few_cost, many_cost = _cost(sums, few), 0.0
    highest, lowest = np.inf, 0.0
    if k == 1:
        return few, price
    path, on_chord, tries = few, False, 0
    scratch, labels = np.empty(n + 1), np.empty((3, n + 1), np.int32)
    while True:
        if lowest < price < highest or on_chord:
            path = _shortest_path(sums, price, scratch, labels)
        count = path.size - 1
        if count == k:
            return path, price
        if on_chord and not few.size < path.size < many.size:
            return _splice(few, many, k), price
        if count < k:
            highest = min(highest, price)
            if path.size > few.size:
                few, few_cost = path, _cost(sums, path)
        else:
            lowest = max(lowest, price)
            if path.size < many.size:
                many, many_cost = path, _cost(sums, path)
        tries += 1
        price *= (count / k) ** 3
        on_chord = tries > 6 or not lowest < price < highest
        if on_chord:
            price = (few_cost - many_cost) / (many.size - few.size)
    return few, price


@_kernel
def _cost(sums: Floats, path: Ints) -> float:
    cost = 0.0
    for i in range(path.size - 1):
        cost += sums[2, path[i + 1]] - sums[2, path[i]] - _gain(sums[0], sums[1], path[i], path[i + 1])
    return cost


@_kernel
def _gain(mass: Floats, moment: Floats, i: int, j: int) -> float:
    """How much less a run i..j costs around its mean than around the origin."""
    x = moment[j] - moment[i]
    return x * x / (mass[j] - mass[i])


@_kernel
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


@_kernel
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


@_kernel
def _splice(few: Ints, many: Ints, k: int) -> Ints:
    """A path of k edges out of two shortest paths of one price, with fewer and with more edges.

    The first edge of `few` that encloses the edge of `many` a fixed number of edges further on: where `many` is
    left for `few` by an edge across, the Monge property says that nothing is lost.
    """
    ahead, i = k - (few.size - 1), 0
    while few[i + 1] < many[i + 1 + ahead]:
        i += 1
    return np.concatenate((many[: i + ahead + 1], few[i + 1 :]))
