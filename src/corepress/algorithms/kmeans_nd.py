"""k-means on vectors: Lloyd's iteration over all points, begun from the best clustering found of a sample.

On the sample, k-means++ (Arthur and Vassilvitskii 2007) makes a start. Then clusters that cost little to drop move to
where the error is largest, as long as that helps (Patané and Russo 2001, "The enhanced LBG algorithm"); this brings
more than any number of other starts.

What spares most distances, and changes nothing, is told in `kernels/c/kmeans_nd.c`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from corepress.errors import DataError
from corepress.kernels import kmeans_nd as kernels
from corepress.kernels.kmeans_nd import Floats, Labels, Points

Array = NDArray[Any]

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
    unit = np.ascontiguousarray((raw - center) / scale, np.float32)
    random = np.random.default_rng(seed)
    centroids = _best_start(*_sample(unit, weights, SAMPLE_PER_CLUSTER * k, random), k, restarts, random)
    for size in (4 * SAMPLE_PER_CLUSTER * k, 16 * SAMPLE_PER_CLUSTER * k):
        if 2 * size < len(unit):  # larger samples spare iterations over all points
            part, part_weights = _sample(unit, weights, size, random)
            kernels.lloyd(part, part_weights, centroids, np.zeros(size, np.uint8), FINE, MOST_ITERATIONS)
    sse = kernels.lloyd(unit, weights, centroids, labels, FINE, MOST_ITERATIONS)
    return centroids * scale + center, labels, sse * scale**2 * total


def nearest_vectors(points: Array, centroids: Array) -> Labels:
    """For each vector of (n, d), the index of the nearest of up to 256 centroids (k, d): uint8 (n,)."""
    labels, lower = np.zeros(len(points), np.uint8), np.full(len(points), -np.inf, np.float32)
    exact, table = np.ascontiguousarray(points, np.float32), np.ascontiguousarray(centroids, np.float32)
    kernels.assign(exact, np.ones(len(points), np.float32), table, kernels.any_order(len(table)), 0, labels, lower)
    return labels


def distinct_vectors(points: Array, most: int) -> tuple[Points, Labels] | None:
    """The distinct vectors among (n, d), at most 256, in lexical order, and the number of each vector's own.

    float32 (count, d) and uint8 (n,); None if there are more than `most`.
    """
    exact = np.ascontiguousarray(points, np.float32) + np.float32(0)  # -0.0 becomes 0.0
    if not (found := kernels.number_distinct(exact, most)):
        return None
    labels, firsts = found
    vectors = exact[firsts]
    order = np.lexsort(vectors.T[::-1])
    return vectors[order], np.argsort(order).astype(np.uint8)[labels]


def _weights(points: Array, k: int, importance: Array | None) -> tuple[Points, float]:
    """The importance of each point as a share of the largest, and the largest."""
    if points.ndim != 2 or not points.size or not 1 <= k <= 256:
        raise DataError("k-means needs points (n, d), at least one, and k from 1 to 256")
    if not np.isfinite(points).all():
        raise DataError("the weight holds infinities or NaN, which can't be clustered")
    if importance is None:
        return np.ones(len(points), np.float32), 1.0
    if importance.shape != points.shape[:1] or not (np.isfinite(importance).all() and (importance >= 0).all()):
        raise DataError("the importance must be finite, not negative, and one number for each vector")
    most = float(importance.max())
    if most == 0:
        return np.ones(len(points), np.float32), 1.0
    return (importance.astype(np.float64) / most).astype(np.float32), most


def _sample(unit: Points, weights: Points, size: int, random: np.random.Generator) -> tuple[Points, Points]:
    if len(unit) <= size:
        return unit, weights
    chosen = random.integers(len(unit), size=size)
    return unit[chosen], weights[chosen]


def _best_start(unit: Points, weights: Points, k: int, restarts: int, random: np.random.Generator) -> Floats:
    best, least, tries = np.empty((k, unit.shape[1])), np.inf, 2 + int(np.log(k))
    for _ in range(max(1, restarts * 16 // max(k, 16))):
        centroids = unit[kernels.plus_plus(unit, weights, random.random((k, tries)))].astype(np.float64)
        centroids, sse = _rearrange(unit, weights, centroids, random)
        if sse < least:
            best, least = centroids, sse
    return best


def _rearrange(unit: Points, weights: Points, centroids: Floats, random: np.random.Generator) -> tuple[Floats, float]:
    """Lloyd's iteration, and again after moving clusters from where they save least to where the error is largest."""
    labels, trial_labels = np.zeros((2, len(unit)), np.uint8)
    sse = kernels.lloyd(unit, weights, centroids, labels, ROUGH, MOST_ITERATIONS)
    moves = max(1, len(centroids) // 4)
    while moves and sse > 0:
        errors, savings = kernels.worth(unit, weights, centroids.astype(np.float32), labels)
        trial, order = centroids.copy(), np.argsort(savings, kind="stable")
        split = order[moves:][np.argsort(-errors[order[moves:]], kind="stable")][:moves]
        for dropped, cluster in zip(order[:moves], split, strict=False):
            inside = np.flatnonzero((labels == cluster) & (weights > 0))
            if inside.size:
                trial[dropped] = unit[random.choice(inside)]
        trial_sse = kernels.lloyd(unit, weights, trial, trial_labels, ROUGH, MOST_ITERATIONS)
        if trial_sse < sse * (1 - ROUGH):
            centroids, sse, labels, trial_labels = trial, trial_sse, trial_labels, labels
        else:
            moves //= 2
    return centroids, sse
