"""k-means on vectors: its error against scikit-learn as the peer calls it."""

from __future__ import annotations

import numpy as np
import pytest

from corepress.algorithms.kmeans_nd import cluster_vectors, distinct_vectors, nearest_vectors
from corepress.errors import CorepressError
from tests.lazy import lazy

KMeans = lazy("sklearn.cluster", "KMeans")


def drawn(kind: str, n: int, d: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    points = {
        "normal": lambda: rng.standard_normal((n, d)),
        "heavy": lambda: rng.standard_t(5, (n, d)) * 0.02,
        "heaps": lambda: rng.standard_normal((n, d)) * 0.3 + rng.uniform(-10, 10, (100, d))[rng.integers(0, 100, n)],
        "duplicates": lambda: rng.integers(-3, 4, (n, d)),
        "far from zero": lambda: 100 + rng.standard_normal((n, d)),
        "tiny": lambda: rng.standard_normal((n, d)) * 1e-30,
        "large": lambda: rng.standard_normal((n, d)) * 1e30,
    }[kind]()
    return points.astype(np.float32)


KINDS = ("normal", "heavy", "heaps", "duplicates", "far from zero", "tiny", "large")


def squares(points: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """(n, k) squared distances in float64."""
    return ((points[:, None].astype(np.float64) - centroids[None].astype(np.float64)) ** 2).sum(-1)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_labels_and_error_are_those_of_the_centroids(kind: str, weighted: bool) -> None:
    points = drawn(kind, 3000, 2)
    importance = np.random.default_rng(1).random(3000) if weighted else None
    centroids, labels, sse = cluster_vectors(points, 16, importance)
    assert centroids.shape == (16, 2) and centroids.dtype == np.float64
    assert labels.shape == (3000,) and labels.dtype == np.uint8
    distances = squares(points, centroids)
    weights = np.ones(3000) if importance is None else importance
    spread = squares(points, points.mean(0, dtype=np.float64)[None]).max()
    own = distances[np.arange(3000), labels]
    assert (own <= distances.min(1) + 1e-6 * spread).all()
    assert sse == pytest.approx((weights * own).sum(), rel=1e-4)
    # Each centroid is about the mean of its own: Lloyd's iteration has come to rest.
    for c in range(16):
        mean = np.average(points[labels == c].astype(np.float64), axis=0, weights=weights[labels == c])
        assert np.abs(mean - centroids[c]).max() <= 0.05 * np.sqrt(spread)


@pytest.mark.parametrize(("n", "d", "k"), [(20_000, 2, 16), (20_000, 2, 256), (6000, 4, 64), (3000, 8, 16)])
@pytest.mark.parametrize("kind", ["normal", "heavy", "heaps"])
def test_no_worse_than_scikit_learn_as_the_peer_calls_it(kind: str, n: int, d: int, k: int) -> None:
    points = drawn(kind, n, d, seed=11)
    theirs = KMeans(k, init="k-means++", tol=1e-2, n_init=1, random_state=0).fit(points)
    assert cluster_vectors(points, k)[2] <= theirs.inertia_ * (1 + 1e-6)


def test_the_same_arguments_give_the_same_result() -> None:
    points = drawn("heavy", 20_000, 2)
    first, again, other = (cluster_vectors(points, 32, seed=seed) for seed in (1, 1, 2))
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert (first[0] != other[0]).any()


def test_layouts_of_memory() -> None:
    points = drawn("heavy", 600, 2)
    expected = cluster_vectors(points, 8)
    for same in (np.asfortranarray(points), np.repeat(points, 2, axis=0)[::2]):
        np.testing.assert_array_equal(cluster_vectors(same, 8)[1], expected[1])
        np.testing.assert_array_equal(nearest_vectors(same, np.asfortranarray(expected[0])), expected[1])


def test_importance_draws_the_centroids() -> None:
    points = drawn("heaps", 4000, 2)
    importance = np.random.default_rng(0).random(4000) ** 6
    weighted, plain = cluster_vectors(points, 16, importance), cluster_vectors(points, 16)
    error = (importance * squares(points, plain[0]).min(1)).sum()
    assert weighted[2] < error
    alone = np.zeros(4000)
    alone[[7, 9]] = 3.0
    centroids, labels, sse = cluster_vectors(points, 4, alone)
    assert sse == pytest.approx(0, abs=1e-9)
    assert len({tuple(np.round(centroids[labels[i]], 4)) for i in (7, 9)}) == 2
    np.testing.assert_array_equal(cluster_vectors(points, 4, np.zeros(4000))[0], cluster_vectors(points, 4)[0])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.int8])
@pytest.mark.parametrize("distinct", [1, 3, 16])
def test_few_distinct_vectors_give_no_error(distinct: int, dtype: type) -> None:
    rng = np.random.default_rng(distinct)
    own = (rng.permutation(100)[: 2 * distinct].reshape(-1, 2) - 50).astype(dtype)
    points = own[np.append(np.arange(distinct), rng.integers(0, distinct, 5000))]
    centroids, labels, sse = cluster_vectors(points, 16)
    assert sse == 0
    np.testing.assert_array_equal(centroids[labels], points)
    assert (centroids[distinct:] == 0).all()


def test_one_more_distinct_vector_than_clusters() -> None:
    points = np.repeat(np.arange(34.0).reshape(17, 2) ** 2, 50, axis=0)
    labels, sse = cluster_vectors(points, 16)[1:]
    assert len(np.unique(labels)) == 16
    assert sse == pytest.approx(50 * ((points[0] - points[50]) ** 2).sum() / 2, rel=1e-5)  # the two nearest share one


def test_distinct_vectors() -> None:
    points = drawn("duplicates", 5000, 3)
    points[::7] *= np.float32(-0.0)
    expected = np.unique(points, axis=0)
    assert len(expected) > 256
    assert distinct_vectors(points, 256) is None
    few = points[points[:, 0] == 1]
    expected, inverse = np.unique(few, axis=0, return_inverse=True)
    found = distinct_vectors(few, len(expected))
    assert found is not None
    np.testing.assert_array_equal(found[0], expected)
    np.testing.assert_array_equal(found[1], inverse.reshape(-1))
    assert distinct_vectors(few, len(expected) - 1) is None


@pytest.mark.parametrize("k", [1, 2, 5, 16, 256])
def test_nearest_vectors(k: int) -> None:
    points = drawn("normal", 2000, 3)
    for centroids in (drawn("normal", k, 3, seed=1), np.zeros((k, 3), np.float32)):
        distances = squares(points, centroids)
        labels = nearest_vectors(points, centroids)
        np.testing.assert_allclose(distances[np.arange(2000), labels], distances.min(1), rtol=1e-5)


def test_bad_input_is_refused() -> None:
    points = drawn("normal", 10, 2)
    broken = points.copy()
    broken[3, 1] = np.nan
    for bad, k, importance in [
        (broken, 2, None),
        (points[:0], 2, None),
        (points[:, 0], 2, None),
        (points, 0, None),
        (points, 257, None),
        (points, 2, np.ones(9)),
        (points, 2, -np.ones(10)),
    ]:
        with pytest.raises(CorepressError):
            cluster_vectors(bad, k, importance)
