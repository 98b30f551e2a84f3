"""k-means on vectors: distinct points, a start, Lloyd's iteration, what clusters are worth. See `c/kmeans_nd.c`.

`points`: float32 (n, d), finite. `weights`: float32 (n,), not negative. `labels`: uint8 (n,), below k. `centroids`:
(k, d), k from 1 to 256. `order`: int16 (k, k), in each row all centroids in any order, as `any_order` gives it; kernels
sort it, and it is sorted the faster the less has changed since.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from corepress.kernels.library import Double, Float, Int, Pointer, kernel, pointer

Array = NDArray[Any]
Floats = NDArray[np.float64]
Points = NDArray[np.float32]
Labels = NDArray[np.uint8]
Order = NDArray[np.int16]

MOST_TRIES = 8  # of `plus_plus`

_number_distinct = kernel("number_distinct", Pointer, Int, Int, Int, Pointer, Pointer, returns=Int)
_plus_plus = kernel("plus_plus", Pointer, Pointer, Int, Int, Pointer, Int, Int, *[Pointer] * 5)
_assign = kernel(
    "assign_vectors",
    Pointer,
    Pointer,
    Int,
    Int,
    Pointer,
    Int,
    Pointer,
    Pointer,
    Float,
    Pointer,
    Pointer,
    returns=Double,
)
_worth = kernel("worth_of_clusters", Pointer, Pointer, Int, Int, Pointer, Int, *[Pointer] * 5)
_sum_clusters = kernel("sum_clusters", Pointer, Pointer, Int, Int, Int, *[Pointer] * 3)
_move_farthest = kernel("move_farthest", Pointer, Pointer, Int, Int, *[Pointer] * 4, Int)
_lloyd = kernel("lloyd", Pointer, Pointer, Int, Int, Pointer, Int, Double, Int, *[Pointer] * 7, returns=Double)


def number_distinct(points: Points, most: int) -> tuple[Labels, NDArray[np.int64]] | None:
    """For each point the number of its own among the distinct ones, in order of appearance, and where each of these was
    first; None if there are more than `most`, up to 256. The points hold no -0.0."""
    n, d = points.shape
    if not 1 <= most <= 256:
        raise ValueError(f"1 to 256 distinct points can be numbered, not {most}")
    labels, firsts = np.zeros(n, np.uint8), np.empty(most, np.int64)
    count = _number_distinct(pointer(points, np.float32), n, d, most, pointer(labels), pointer(firsts))
    return None if count > most else (labels, firsts[:count])


def plus_plus(points: Points, weights: Points, draws: Floats) -> NDArray[np.int64]:
    """Indices of k points, each drawn with a chance that goes with its squared distance to those before.

    `draws`: float64 (k, tries), uniform in [0, 1); of the points drawn at a time the one that leaves the least error.
    """
    (n, d), (k, tries) = points.shape, draws.shape
    if not (n and 1 <= tries <= MOST_TRIES):
        raise ValueError(f"there are 1 to {MOST_TRIES} tries for each centroid, among one point or more")
    chosen, mass = np.empty(k, np.int64), np.empty(n)
    scratch = (
        mass,
        np.empty(n, np.float32),
        np.empty((n, MOST_TRIES), np.float32),
        np.empty((d, MOST_TRIES), np.float32),
    )
    given = *_points(points, weights), pointer(draws, np.float64), k, tries
    _plus_plus(*given, *(pointer(array, out=True) for array in (*scratch, chosen)))
    return chosen


def any_order(k: int) -> Order:
    return np.broadcast_to(np.arange(k, dtype=np.int16), (k, k)).copy()


def assign(
    points: Points, weights: Points, centroids: Points, order: Order, drift: float, labels: Labels, lower: Points
) -> float:
    """Label the points with the nearest centroid; the error.

    `lower`: float32 (n,), a lower bound of the distance to each centroid but the own, before the centroids moved by at
    most `drift`; minus infinity where no label is known.
    """
    k, (n, _) = _count(centroids), points.shape
    gap = np.empty((k, k), np.float32)
    given = *_points(points, weights), _centroids(points, centroids, np.float32), k
    space = pointer(order, np.int16, shape=(k, k), out=True), pointer(gap, out=True)
    bounds = pointer(lower, np.float32, shape=(n,), out=True)
    return float(_assign(*given, *space, drift, _labels(points, labels, k), bounds))


def worth(points: Points, weights: Points, centroids: Points, labels: Labels) -> tuple[Floats, Floats]:
    """The error of each cluster, and how much the error of all would grow without its centroid."""
    k = _count(centroids)
    order, gap, errors, savings = any_order(k), np.empty((k, k), np.float32), np.empty(k), np.empty(k)
    given = *_points(points, weights), _centroids(points, centroids, np.float32), k, _labels(points, labels, k)
    _worth(*given, *(pointer(array, out=True) for array in (order, gap, errors, savings)))
    return errors, savings


def sum_clusters(points: Points, weights: Points, labels: Labels, k: int) -> tuple[Floats, Floats]:
    """The sum of the points of each cluster, weighed, float64 (k, d), and of their weights, (k,)."""
    sums, mass = np.empty((k, points.shape[1])), np.empty(k)
    given = *_points(points, weights), k, _labels(points, labels, k)
    _sum_clusters(*given, pointer(sums, out=True), pointer(mass, out=True))
    return sums, mass


def move_farthest(
    points: Points, weights: Points, centroids: Points, labels: Labels, sums: Floats, mass: Floats, empty: int
) -> None:
    """Give an empty cluster the point of the largest error, if any has one; `labels`, `sums` and `mass` change."""
    k = _count(centroids)
    if not 0 <= empty < k:
        raise ValueError(f"there is no cluster {empty}")
    given = *_points(points, weights), _centroids(points, centroids, np.float32), _labels(points, labels, k)
    totals = pointer(sums, np.float64, shape=centroids.shape, out=True), pointer(mass, np.float64, shape=(k,), out=True)
    _move_farthest(*given, *totals, empty)


def lloyd(
    points: Points, weights: Points, centroids: Floats, labels: Labels, tolerance: float, iterations: int
) -> float:
    """Move `centroids`, float64, until the error falls by less than the fraction `tolerance`, at most `iterations`
    times, and label the points with the nearest; the error."""
    k, (n, d) = _count(centroids), points.shape
    scratch = (
        np.empty((k, d), np.float32), np.empty((k, d)), np.empty(k),
        np.empty((k, k), np.int16), np.empty((k, k), np.float32), np.empty(n, np.float32),
    )  # fmt: skip
    given = *_points(points, weights), _centroids(points, centroids, np.float64, out=True), k, tolerance, iterations
    space = (pointer(array, out=True) for array in scratch)
    return float(_lloyd(*given, *space, _labels(points, labels, k)))


def _points(points: Points, weights: Points) -> tuple[int, int, int, int]:
    n, d = points.shape
    return pointer(points, np.float32), pointer(weights, np.float32, shape=(n,)), n, d


def _count(centroids: Array) -> int:
    if centroids.ndim != 2 or not 1 <= len(centroids) <= 256:
        raise ValueError(f"there are 1 to 256 centroids (k, d), not {centroids.shape}")
    return len(centroids)


def _centroids(points: Points, centroids: Array, dtype: Any, out: bool = False) -> int:
    return pointer(centroids, dtype, shape=(len(centroids), points.shape[1]), out=out)


def _labels(points: Points, labels: Labels, k: int) -> int:
    address = pointer(labels, np.uint8, shape=(len(points),), out=True)
    if labels.max(initial=0) >= k:
        raise ValueError(f"a label is {labels.max()}, but there are {k} clusters")
    return address
