"""k-means of vectors beside NumPy, to the last bit; each array against a page that can't be touched."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corepress.kernels import kmeans_nd as kernels
from corepress.kernels.kmeans_nd import (
    any_order,
    assign,
    lloyd,
    move_farthest,
    number_distinct,
    plus_plus,
    sum_clusters,
    worth,
)
from tests.kernels.guarded import guarded, guarding

Seeds = st.integers(0, 2**32 - 1)


def points_of(seed: int, n: int, d: int, even: bool = False) -> np.ndarray:
    """Points without ties, or even ones with many."""
    rng = np.random.default_rng(seed)
    points = rng.integers(-3, 4, (n, d)) if even else rng.standard_normal((n, d)) + rng.integers(-4, 5, (n, 1))
    return guarded(points.astype(np.float32), before=bool(seed % 2))


def weights_of(seed: int, n: int) -> np.ndarray:
    return guarded(
        np.random.default_rng(seed).integers(0, 5, n).astype(np.float32) / np.float32(3), before=bool(seed % 2)
    )


def squares(points: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """(n, k) squared distances in float32, one coordinate after the other."""
    total = np.zeros((len(points), len(centroids)), np.float32)
    for t in range(points.shape[1]):
        difference = points[:, None, t] - centroids[None, :, t]
        total += difference * difference
    return total


def in_order(terms: np.ndarray) -> float:
    """The sum of float32 terms in float64, one after the other."""
    return float(np.add.accumulate(terms.astype(np.float64))[-1]) if terms.size else 0.0


@settings(deadline=None)
@given(Seeds, st.integers(0, 60), st.integers(1, 6), st.integers(1, 256))
def test_distinct_points_are_numbered(seed, n, d, most) -> None:
    points = points_of(seed, n, d, even=True)
    with guarding(kernels):
        found = number_distinct(points, most)
    numbers: dict[bytes, int] = {}
    expected = [numbers.setdefault(point.tobytes(), len(numbers)) for point in points]
    if len(numbers) > most:
        assert found is None
    else:
        assert found is not None and found[0].tolist() == expected
        assert found[1].tolist() == [expected.index(number) for number in range(len(numbers))]


def test_more_distinct_points_than_can_be_numbered() -> None:
    points = np.arange(600, dtype=np.float32).reshape(300, 2)
    assert number_distinct(points, 256) is None
    assert number_distinct(points[:256], 256) is not None
    assert number_distinct(np.full((3, 2), np.nan, np.float32), 2) is None  # nothing is equal to NaN


def plus_plus_twin(points: np.ndarray, weights: np.ndarray, draws: np.ndarray) -> list[int]:
    nearest, chosen = np.ones(len(points), np.float32), []
    for draw in draws:
        mass = np.add.accumulate((weights * nearest).astype(np.float64))
        before = nearest if chosen else np.full(len(points), np.inf, np.float32)
        drawn = np.minimum(np.searchsorted(mass, draw * mass[-1], side="right"), len(points) - 1)
        trials = np.minimum(before[:, None], squares(points, points[drawn]))
        best = int(np.argmin([in_order(weights * trial) for trial in trials.T]))
        chosen.append(int(drawn[best]))
        nearest = trials[:, best]
    return chosen


@settings(deadline=None)
@given(Seeds, st.integers(1, 60), st.integers(1, 9), st.integers(0, 12), st.integers(1, 8), st.booleans())
def test_plus_plus(seed, n, d, k, tries, even) -> None:
    points, weights = points_of(seed, n, d, even), weights_of(seed, n)
    draws = guarded(np.random.default_rng(seed).random((k, tries)))
    with guarding(kernels):
        chosen = plus_plus(points, weights, draws)
    assert chosen.tolist() == plus_plus_twin(points, weights, draws)


def test_plus_plus_draws_by_squared_distance() -> None:
    points, weights = np.array([[0, 0], [1, 0], [3, 0]], np.float32), np.ones(3, np.float32)
    # The first draw takes point 0; then 1 and 9 tenths of the squared distance belong to points 1 and 2.
    for draw, expected in ((0.05, 1), (0.15, 2)):
        assert plus_plus(points, weights, np.array([[0.1], [draw]])).tolist() == [0, expected]
    assert plus_plus(points, weights, np.array([[0.1, 0.1], [0.05, 0.15]])).tolist()[1] == 2


@settings(deadline=None)
@given(Seeds, st.integers(0, 60), st.integers(1, 9), st.integers(1, 256), st.booleans())
def test_nearest(seed, n, d, k, even) -> None:
    points, weights, centroids = points_of(seed, n, d, even), weights_of(seed, n), points_of(seed + 1, k, d, even)
    labels, lower = guarded(np.zeros(n, np.uint8)), guarded(np.full(n, -np.inf, np.float32))
    with guarding(kernels):
        error = assign(points, weights, centroids, guarded(any_order(k)), 0, labels, lower)
    distances = squares(points, centroids)
    # A bound may spare a centroid that is nearer by the last digits of the distances that it was made of.
    spread = squares(points, centroids).max(initial=0)
    own = distances[np.arange(n), labels]
    assert (own <= distances.min(axis=1, initial=np.inf) + 1e-6 * spread).all()
    assert error == in_order(weights * own)
    distances[np.arange(n), labels] = np.inf
    assert (lower <= np.sqrt(distances.min(axis=1, initial=np.inf)) * (1 + 1e-6) + 1e-6).all()


def test_bounds_change_nothing() -> None:
    points, weights = points_of(1, 3000, 2), weights_of(1, 3000)
    rng = np.random.default_rng(3)
    centroids = points[:40].copy()
    labels, lower, order, drift = np.zeros(3000, np.uint8), np.full(3000, -np.inf, np.float32), any_order(40), 0.0
    for _ in range(6):
        assign(points, weights, centroids, order, drift, labels, lower)
        np.testing.assert_array_equal(labels, squares(points, centroids).argmin(1))
        moves = (rng.standard_normal((40, 2)) * 1e-3).astype(np.float32)
        centroids, drift = centroids + moves, float(np.float32(np.sqrt((moves**2).sum(1)).max() * 1.001))
        assert (np.sort(order, axis=1) == np.arange(40)).all() and (order[:, 0] == np.arange(40)).all()


@settings(deadline=None)
@given(Seeds, st.integers(0, 60), st.integers(1, 5), st.integers(1, 30))
def test_worth(seed, n, d, k) -> None:
    points, weights, centroids = points_of(seed, n, d), weights_of(seed, n), points_of(seed + 1, k, d)
    distances = squares(points, centroids)
    labels = guarded(distances.argmin(1).astype(np.uint8) if n else np.zeros(0, np.uint8))
    with guarding(kernels):
        errors, savings = worth(points, weights, centroids, labels)
    sorted_distances = np.sort(np.column_stack([distances, np.full(n, np.inf, np.float32)]), axis=1)
    first, second = sorted_distances[:, 0], sorted_distances[:, 1]
    with np.errstate(invalid="ignore"):
        growth = weights * (second - first)  # 0 times infinity where there is but one cluster
    for found, terms in ((errors, weights * first), (savings, growth)):
        expected = np.zeros(k)
        np.add.at(expected, labels, terms.astype(np.float64))
        np.testing.assert_array_equal(found, expected)


@settings(deadline=None)
@given(Seeds, st.integers(0, 60), st.integers(1, 6), st.integers(1, 256))
def test_sums_of_clusters(seed, n, d, k) -> None:
    points, weights = points_of(seed, n, d), weights_of(seed, n)
    labels = guarded(np.random.default_rng(seed).integers(0, k, n).astype(np.uint8))
    with guarding(kernels):
        sums, mass = sum_clusters(points, weights, labels, k)
    expected_sums, expected_mass = np.zeros((k, d)), np.zeros(k)
    np.add.at(expected_mass, labels, weights.astype(np.float64))
    np.add.at(expected_sums, labels, (weights[:, None] * points).astype(np.float64))
    np.testing.assert_array_equal(mass, expected_mass)
    np.testing.assert_array_equal(sums, expected_sums)


def move_farthest_twin(
    points: np.ndarray, weights: np.ndarray, centroids: np.ndarray, labels: np.ndarray, sums: np.ndarray,
    mass: np.ndarray, empty: int,
) -> None:  # fmt: skip
    errors = weights * squares(points, centroids)[np.arange(len(points)), labels]
    errors[mass[labels] <= weights] = 0
    if not errors.any():
        return
    farthest = errors.argmax()
    moved = (weights[farthest] * points[farthest]).astype(np.float64)
    mass[labels[farthest]] -= weights[farthest]
    sums[labels[farthest]] -= moved
    mass[empty], sums[empty], labels[farthest] = weights[farthest], moved, empty


def test_an_empty_cluster_takes_the_farthest_point() -> None:
    points = guarded(np.array([[0, 0], [1, 0], [9, 0], [50, 0]], np.float32))
    weights, labels = guarded(np.ones(4, np.float32)), guarded(np.zeros(4, np.uint8))
    centroids = guarded(np.array([[0, 0], [1000, 0]], np.float32))
    sums, mass = guarded(np.array([[60.0, 0], [0, 0]])), guarded(np.array([4.0, 0]))
    move_farthest(points, weights, centroids, labels, sums, mass, 1)
    assert labels.tolist() == [0, 0, 0, 1] and mass.tolist() == [3, 1] and sums.tolist() == [[10, 0], [50, 0]]
    # There is none to take where each point is a cluster, or lies where its centroid does.
    move_farthest(points[:1], weights[:1], centroids, labels[:1], sums[:], np.array([1.0, 0]), 1)
    assert labels.tolist() == [0, 0, 0, 1]


def lloyd_twin(
    points: np.ndarray, weights: np.ndarray, centroids: np.ndarray, tolerance: float, iterations: int
) -> tuple[np.ndarray, float]:
    error, everyone = np.inf, np.arange(len(points))
    for turn in range(iterations + 1):
        rounded = centroids.astype(np.float32)
        distances = squares(points, rounded)
        labels = distances.argmin(1).astype(np.uint8)
        before, error = error, in_order(weights * distances[everyone, labels])
        if turn == iterations or error >= before * (1 - tolerance):
            break
        sums, mass = sum_clusters(points, weights, labels, len(centroids))
        for cluster in np.flatnonzero(mass == 0):
            move_farthest_twin(points, weights, rounded, labels, sums, mass, cluster)
        centroids[mass > 0] = sums[mass > 0] / mass[mass > 0, None]
    return labels, error


@settings(deadline=None)
@given(Seeds, st.integers(1, 120), st.integers(1, 6), st.integers(1, 12), st.sampled_from([0, 1, 2, 300]))
def test_lloyds_iteration(seed, n, d, k, iterations) -> None:
    points, weights = points_of(seed, n, d), weights_of(seed, n)
    centroids = points[np.random.default_rng(seed).integers(0, n, k)].astype(np.float64)
    centroids += np.random.default_rng(seed + 1).standard_normal(centroids.shape) * 1e-3
    expected, found, labels = centroids.copy(), guarded(centroids), guarded(np.zeros(n, np.uint8))
    with guarding(kernels):
        error = lloyd(points, weights, found, labels, 1e-4, iterations)
    expected_labels, expected_error = lloyd_twin(points, weights, expected, 1e-4, iterations)
    np.testing.assert_array_equal(labels, expected_labels)
    np.testing.assert_array_equal(found, expected)
    assert error == expected_error


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_stays_in_place(bad) -> None:
    """No caller gives it; the results are worth nothing, but all ends."""
    points, weights = points_of(1, 50, 3), weights_of(1, 50)
    points[7] = points[9, 1] = bad
    centroids, labels = guarded(points[:10].astype(np.float64)), guarded(np.zeros(50, np.uint8))
    with guarding(kernels):
        plus_plus(points, weights, guarded(np.random.default_rng(1).random((5, 3))))
        lloyd(points, weights, centroids, labels, 1e-4, 20)
        worth(points, weights, centroids.astype(np.float32), labels)
    assert labels.max() < 10


def test_what_a_kernel_would_read_beyond_is_refused() -> None:
    points, weights = points_of(1, 5, 2), weights_of(1, 5)
    with pytest.raises(ValueError, match="a label is 4, but there are 2 clusters"):
        worth(points, weights, points[:2].copy(), np.full(5, 4, np.uint8))
    with pytest.raises(ValueError, match="1 to 256 centroids"):
        lloyd(points, weights, np.zeros((257, 2)), np.zeros(5, np.uint8), 0.1, 1)
    with pytest.raises(ValueError, match="tries"):
        plus_plus(points, weights, np.zeros((2, 9)))
    with pytest.raises(ValueError, match="numbered"):
        number_distinct(points, 257)
    with pytest.raises(ValueError, match="no cluster 2"):
        move_farthest(points, weights, points[:2].copy(), np.zeros(5, np.uint8), np.zeros((2, 2)), np.zeros(2), 2)
    with pytest.raises(ValueError, match="shape"):
        sum_clusters(points, weights[:4], np.zeros(5, np.uint8), 2)
