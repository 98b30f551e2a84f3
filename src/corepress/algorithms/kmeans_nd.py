"""k-means on vectors: Lloyd's iteration over all points, begun from the best clustering found of a sample.

On the sample, k-means++ (Arthur and Vassilvitskii 2007) makes a start. Then clusters that cost little to drop move to
where the error is largest, as long as that helps (Patané and Russo 2001, "The enhanced LBG algorithm"); this brings
more than any number of other starts.

Two consequences of the triangle inequality spare most distances in a few dimensions, and change nothing. A centroid
at least twice as far from a point's own centroid as the point is can't be nearer: with the others sorted by that
distance, a point looks at a few of them only. And a point whose own centroid is nearer than any other can have come
since looks at none (Hamerly 2010, "Making k-means even faster").
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from corepress.algorithms.monge import Floats, kernel
from corepress.errors import CorepressError
from corepress.weights.kernels import frozen

Array = NDArray[Any]
Points = NDArray[np.float32]
Labels = NDArray[np.uint8]
Order = NDArray[np.int16]

SAMPLE_PER_CLUSTER = 128
ROUGH, FINE = 1e-3, 1e-4  # Lloyd's iteration ends when the error falls by less: on the sample, on all points
MOST_ITERATIONS = 300


def cluster_vectors(
    points: Array, k: int, importance: Array | None = None, restarts: int = 4, seed: int = 0
) -> tuple[Floats, Labels, float]:
    """Centroids for vectors, the nearest centroid of each vector, and the total squared error.

    `points`: (n, d) of a real type, computed in float32. `k`: 1 to 256. `importance`: (n,), not negative, weighs each
    vector, unless it is all zero. `restarts`: clusterings of a sample to choose from; of more than 16 clusters, whose
    outcome varies less, as many fewer. The same arguments give the same result.
    Returns float64 (k, d), uint8 (n,) and a float. With at most k distinct vectors the error is zero, and so are the
    centroids that are left over. Raises CorepressError for numbers that are not finite.
    """
    weights, total = _weights(points, k, importance)
    if found := distinct_vectors(points, k):
        centroids, labels = np.zeros((k, points.shape[1])), found[1]
        centroids[: len(found[0])] = found[0]
        return centroids, labels, 0.0
    raw, labels = points.astype(np.float32), np.zeros(len(points), np.uint8)
    # Around the mean and below one, float32 has the precision and the range for any weight.
    center = raw.mean(axis=0, dtype=np.float64)
    scale = float(np.abs(raw - center).max())
    unit = frozen(((raw - center) / scale).astype(np.float32))
    random = np.random.default_rng(seed)
    centroids = _best_start(*_sample(unit, weights, SAMPLE_PER_CLUSTER * k, random), k, restarts, random)
    for size in (4 * SAMPLE_PER_CLUSTER * k, 16 * SAMPLE_PER_CLUSTER * k):
        if 2 * size < len(unit):  # larger samples spare iterations over all points
            part, part_weights = _sample(unit, weights, size, random)
            _lloyd(part, part_weights, centroids, np.zeros(size, np.uint8), FINE)
    sse = _lloyd(unit, weights, centroids, labels, FINE)
    return centroids * scale + center, labels, float(sse) * scale**2 * total


def nearest_vectors(points: Array, centroids: Array) -> Labels:
    """For each vector of (n, d), the index of the nearest of up to 256 centroids (k, d): uint8 (n,)."""
    labels, lower = np.zeros(len(points), np.uint8), np.full(len(points), -np.inf, np.float32)
    weights = frozen(np.ones(len(points), np.float32))
    exact = frozen(np.ascontiguousarray(points, np.float32))
    table = np.ascontiguousarray(centroids, np.float32)
    _assign(exact, weights, table, _any_order(len(table)), np.float32(0), labels, lower)
    return labels


def distinct_vectors(points: Array, most: int) -> tuple[Points, Labels] | None:
    """The distinct vectors among (n, d), at most 256, in lexical order, and the number of each vector's own.

    float32 (count, d) and uint8 (n,); None if there are more than `most`.
    """
    exact = frozen(np.ascontiguousarray(points, np.float32) + np.float32(0))  # -0.0 becomes 0.0
    labels, firsts = np.zeros(len(exact), np.uint8), np.empty(most, np.int64)
    count = _number_distinct(exact, labels, firsts)
    if count > most:
        return None
    vectors = exact[firsts[:count]]
    order = np.lexsort(vectors.T[::-1])
    return vectors[order], np.argsort(order).astype(np.uint8)[labels]


def _weights(points: Array, k: int, importance: Array | None) -> tuple[Points, float]:
    """The importance of each point as a share of the largest, and the largest."""
    if points.ndim != 2 or not points.size or not 1 <= k <= 256:
        raise CorepressError("k-means needs points (n, d), at least one, and k from 1 to 256")
    if not np.isfinite(points).all():
        raise CorepressError("the weight holds infinities or NaN, which can't be clustered")
    if importance is None:
        return frozen(np.ones(len(points), np.float32)), 1.0
    if importance.shape != points.shape[:1] or not (np.isfinite(importance).all() and (importance >= 0).all()):
        raise CorepressError("the importance must be finite, not negative, and one number for each vector")
    most = float(importance.max())
    if most == 0:
        return frozen(np.ones(len(points), np.float32)), 1.0
    return frozen((importance.astype(np.float64) / most).astype(np.float32)), most


def _sample(unit: Points, weights: Points, size: int, random: np.random.Generator) -> tuple[Points, Points]:
    if len(unit) <= size:
        return unit, weights
    chosen = random.integers(len(unit), size=size)
    return frozen(unit[chosen]), frozen(weights[chosen])


def _best_start(unit: Points, weights: Points, k: int, restarts: int, random: np.random.Generator) -> Floats:
    best, least, tries = np.empty((k, unit.shape[1])), np.inf, 2 + int(np.log(k))
    for _ in range(max(1, restarts * 16 // max(k, 16))):
        centroids = unit[_plus_plus(unit, weights, random.random((k, tries)))].astype(np.float64)
        centroids, sse = _rearrange(unit, weights, centroids, random)
        if sse < least:
            best, least = centroids, sse
    return best


def _rearrange(unit: Points, weights: Points, centroids: Floats, random: np.random.Generator) -> tuple[Floats, float]:
    """Lloyd's iteration, and again after moving clusters from where they save least to where the error is largest."""
    labels, trial_labels = np.zeros((2, len(unit)), np.uint8)
    sse = _lloyd(unit, weights, centroids, labels, ROUGH)
    moves = max(1, len(centroids) // 4)
    while moves and sse > 0:
        errors, savings = _worth(unit, weights, centroids.astype(np.float32), labels)
        trial, order = centroids.copy(), np.argsort(savings, kind="stable")
        split = order[moves:][np.argsort(-errors[order[moves:]], kind="stable")][:moves]
        for dropped, cluster in zip(order[:moves], split, strict=False):
            inside = np.flatnonzero((labels == cluster) & (weights > 0))
            if inside.size:
                trial[dropped] = unit[random.choice(inside)]
        trial_sse = _lloyd(unit, weights, trial, trial_labels, ROUGH)
        if trial_sse < sse * (1 - ROUGH):
            centroids, sse, labels, trial_labels = trial, trial_sse, trial_labels, labels
        else:
            moves //= 2
    return centroids, sse


@kernel
def _number_distinct(points: Points, labels: Labels, firsts: NDArray[np.int64]) -> int:
    """Number the distinct points in order of appearance; how many there are, or one more than `firsts` holds."""
    slots, k, count = np.full(1024, -1, np.int32), firsts.size, 0
    for i in range(points.shape[0]):
        mixed = np.uint32(0)
        for t in range(points.shape[1]):
            mixed = np.uint32((mixed ^ np.float32(points[i, t]).view(np.uint32)) * np.uint32(0x9E3779B1))
        slot = np.int64(mixed >> np.uint32(22))
        while slots[slot] >= 0 and not _equal(points, firsts[slots[slot]], i):
            slot = (slot + 1) & 1023
        if slots[slot] < 0:
            if count == k:
                return k + 1
            slots[slot], firsts[count] = count, i
            count += 1
        labels[i] = slots[slot]
    return count


@kernel
def _equal(points: Points, i: int, j: int) -> bool:
    equal = True
    for t in range(points.shape[1]):
        equal = equal and points[i, t] == points[j, t]
    return equal


@kernel
def _plus_plus(points: Points, weights: Points, draws: Floats) -> NDArray[np.int64]:
    """Indices of k points, each drawn with a chance that goes with its squared distance to those before.

    `draws`: (k, tries), uniform in [0, 1); of the points drawn at a time the one that leaves the least error.
    """
    n, k = points.shape[0], draws.shape[0]
    chosen, mass = np.empty(k, np.int64), np.empty(n)
    square, trial, best = np.full(n, np.inf, np.float32), np.empty(n, np.float32), np.empty(n, np.float32)
    for c in range(k):
        total, least = 0.0, np.inf
        for i in range(n):
            total += weights[i] * (square[i] if c > 0 else np.float32(1))
            mass[i] = total
        for draw in draws[c]:
            drawn, error = min(np.searchsorted(mass, draw * total, side="right"), n - 1), 0.0
            for i in range(n):
                trial[i] = min(square[i], _square(points, i, points, drawn))
                error += weights[i] * trial[i]
            if error < least:
                chosen[c], least = drawn, error
                trial, best = best, trial
        square[:] = best
    return chosen


@kernel
def _square(a: Points, i: int, b: Points, j: int) -> np.float32:
    square = np.float32(0)
    for t in range(a.shape[1]):
        difference = a[i, t] - b[j, t]
        square += difference * difference
    return square


@kernel
def _lloyd(points: Points, weights: Points, centroids: Floats, labels: Labels, tolerance: float) -> float:
    """Move `centroids` until the error falls no more, and label the points with the nearest; the error."""
    n, k, d = points.shape[0], centroids.shape[0], centroids.shape[1]
    order = _any_order(k)
    lower = np.full(n, -np.inf, np.float32)  # the distance to each centroid but the own is at least that
    drift, error, before = np.float32(0), np.inf, np.inf
    sums, mass = np.empty((k, d)), np.empty(k)
    for _ in range(MOST_ITERATIONS):
        rounded = centroids.astype(np.float32)
        before, error = error, _assign(points, weights, rounded, order, drift, labels, lower)
        if error >= before * (1 - tolerance):
            return error
        _sum_up(points, weights, labels, sums, mass)
        for c in range(k):
            if mass[c] == 0:
                _move_farthest(points, weights, rounded, labels, sums, mass, c)
        drift = np.float32(0)
        for c in range(k):
            if mass[c] > 0:
                old = centroids[c].copy()
                centroids[c] = sums[c] / mass[c]
                drift = max(drift, np.float32(np.sqrt(np.sum((centroids[c] - old) ** 2)) * 1.000001))
    return _assign(points, weights, centroids.astype(np.float32), order, drift, labels, lower)


@kernel
def _assign(
    points: Points,
    weights: Points,
    centroids: Points,
    order: Order,
    drift: np.float32,
    labels: Labels,
    lower: Points,
) -> float:
    """Label the points with the nearest centroid; the error.

    `lower`: a lower bound of the distance to each centroid but the own, before the centroids moved by at most
    `drift`; minus infinity where no label is known.
    """
    k, error = centroids.shape[0], 0.0
    gap = _sort_neighbours(centroids, order)
    stride = int(np.sqrt(k))
    for i in range(points.shape[0]):
        own = int(labels[i])
        least = _square(points, i, centroids, own)
        if lower[i] == -np.inf:  # begin near by: with the best of a few
            for c in range(0, k, stride):
                square = _square(points, i, centroids, c)
                if square < least:
                    own, least = c, square
        reach = np.sqrt(least)
        lower[i] -= drift
        if reach > lower[i]:
            nearest, second, radius, beyond = own, np.float32(np.inf), reach, np.float32(np.inf)
            for q in range(1, k):
                if gap[own, q] >= reach + radius:
                    beyond = gap[own, q] - reach
                    break
                square = _square(points, i, centroids, order[own, q])
                if square < least:
                    second, least, nearest = least, square, int(order[own, q])
                    radius = np.sqrt(least)
                elif square < second:
                    second = square
            labels[i], lower[i] = nearest, min(np.sqrt(second), beyond)
        error += weights[i] * least
    return error


@kernel
def _worth(points: Points, weights: Points, centroids: Points, labels: Labels) -> tuple[Floats, Floats]:
    """The error of each cluster, and how much the error of all would grow without its centroid."""
    k = centroids.shape[0]
    errors, savings, order = np.zeros(k), np.zeros(k), _any_order(k)
    gap = _sort_neighbours(centroids, order)
    for i in range(points.shape[0]):
        own = int(labels[i])
        least, second = _square(points, i, centroids, own), np.float32(np.inf)
        for q in range(1, k):
            if gap[own, q] >= np.sqrt(least) + np.sqrt(second):
                break
            second = min(second, _square(points, i, centroids, order[own, q]))
        errors[own] += weights[i] * least
        savings[own] += weights[i] * (second - least)
    return errors, savings


@kernel
def _any_order(k: int) -> Order:
    order = np.empty((k, k), np.int16)
    for c in range(k):
        order[c] = np.arange(k)
    return order


@kernel
def _sort_neighbours(centroids: Points, order: Order) -> Points:
    """Sort each row of `order`, all centroids from the nearest to this one on, itself the first; their distances.

    By insertion: from one iteration to the next the order hardly changes.
    """
    k = centroids.shape[0]
    gap = np.empty((k, k), np.float32)
    for a in range(k):
        for q in range(k):
            b = order[a, q]
            distance = np.float32(-1) if a == b else np.sqrt(_square(centroids, a, centroids, b))
            at = q
            while at > 0 and gap[a, at - 1] > distance:
                gap[a, at], order[a, at] = gap[a, at - 1], order[a, at - 1]
                at -= 1
            gap[a, at], order[a, at] = distance, b
    return gap


@kernel
def _sum_up(points: Points, weights: Points, labels: Labels, sums: Floats, mass: Floats) -> None:
    sums[:], mass[:] = 0, 0
    for i in range(points.shape[0]):
        mass[labels[i]] += weights[i]
        for t in range(points.shape[1]):
            sums[labels[i], t] += weights[i] * points[i, t]


@kernel
def _move_farthest(
    points: Points, weights: Points, centroids: Points, labels: Labels, sums: Floats, mass: Floats, empty: int
) -> None:
    """Give an empty cluster the point of the largest error, if any has one."""
    farthest, most = -1, np.float32(0)
    for i in range(points.shape[0]):
        error = weights[i] * _square(points, i, centroids, int(labels[i]))
        if error > most and mass[labels[i]] > weights[i]:
            farthest, most = i, error
    if farthest >= 0:
        mass[labels[farthest]] -= weights[farthest]
        sums[labels[farthest]] -= weights[farthest] * points[farthest]
        mass[empty], sums[empty] = weights[farthest], weights[farthest] * points[farthest]
        labels[farthest] = empty
