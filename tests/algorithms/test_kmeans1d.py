"""Exact k-means against every partition, against the textbook recursion, and against the peer's solver."""

from __future__ import annotations

import itertools

import kmeans1d as package
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corepress.algorithms import kmeans1d
from corepress.algorithms.kmeans1d import cluster, histogram, nearest, quantize_rows, quantize_values, round_to
from corepress.errors import CorepressError
from tests.kernels.test_partition import least_error, run_costs


def brute_force(values: np.ndarray, counts: np.ndarray, k: int) -> float:
    costs = run_costs(values, counts)
    n, k = len(values), min(k, len(values))
    cuts = itertools.combinations(range(1, n), k - 1)
    return min(sum(costs[i, j] for i, j in itertools.pairwise((0, *cut, n))) for cut in cuts)


def assert_optimal(values: np.ndarray, counts: np.ndarray, k: int) -> None:
    found = cluster(values, counts, k)
    k = min(k, len(values))
    assert len(found.centroids) == k and found.bounds[0] == 0 and found.bounds[-1] == len(values)
    assert (np.diff(found.bounds) > 0).all() and (np.diff(found.centroids) > 0).all()
    error = 0.0
    for i, centroid in enumerate(found.centroids):
        run = slice(found.bounds[i], found.bounds[i + 1])
        span = np.ptp(values[run])
        assert centroid == pytest.approx(np.average(values[run], weights=counts[run]), rel=1e-12, abs=1e-12 * span)
        error += float((counts[run] * (values[run] - centroid) ** 2).sum())
    assert found.sse == pytest.approx(error, rel=1e-9)
    # What float64 can't tell apart in sums of squares is a share of the total.
    total = float((counts * (values - np.average(values, weights=counts)) ** 2).sum())
    assert found.sse <= least_error(values, counts, k) * (1 + 1e-9) + 1e-14 * total


def half(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float16).astype(np.float64)


KINDS = {
    "normal": lambda rng, n: rng.standard_normal(n),
    "half": lambda rng, n: half(rng.standard_t(5, n) * 0.02),
    "heavy tails": lambda rng, n: rng.standard_t(1.2, n) * 100,
    "lattice": lambda rng, n: np.arange(n) * 0.25,
    "small integers": lambda rng, n: rng.integers(-20, 21, n).astype(np.float64),
    "nested lattice": lambda rng, n: (np.arange(n) // 4) * 3.0 + (np.arange(n) % 4) * 0.1,
    "powers of two": lambda rng, n: 2.0 ** rng.integers(-12, 8, n) * rng.choice([-1, 1], n),
    "negative": lambda rng, n: -5 - rng.random(n),
    "denormal halves": lambda rng, n: rng.integers(-600, 600, n) * 2.0**-24,
    "denormal singles": lambda rng, n: rng.integers(-600, 600, n) * 2.0**-149,
    "huge": lambda rng, n: rng.standard_normal(n) * 1e38,
    "far from zero": lambda rng, n: half(1 + rng.standard_normal(n) * 0.05),
    "outlier": lambda rng, n: np.append(rng.standard_normal(n - 1) * 0.02, 65504),
    "two heaps": lambda rng, n: rng.choice([-1.0, 1.0], n) + rng.standard_normal(n) * 1e-3,
}
COUNTS = {
    "ones": lambda rng, n: np.ones(n),
    "counts": lambda rng, n: rng.integers(1, 1000, n).astype(np.float64),
    "huge": lambda rng, n: np.round(1e12 / (1 + np.arange(n))),
    "uneven": lambda rng, n: 10.0 ** rng.uniform(-4, 4, n),
}


@pytest.mark.parametrize("counted", COUNTS)
@pytest.mark.parametrize("kind", KINDS)
def test_optimal(kind: str, counted: str) -> None:
    rng = np.random.default_rng(len(kind) + len(counted))
    for size in (3, 9, 60, 170):
        values = np.unique(KINDS[kind](rng, size))
        counts = COUNTS[counted](rng, len(values))
        for k in {1, 2, 3, 4, 7, 16, size // 3, len(values) - 1, len(values), size + 1} - {0}:
            assert_optimal(values, counts, k)


@given(st.lists(st.tuples(st.integers(-12, 12), st.integers(1, 9)), min_size=1, max_size=9), st.integers(1, 10))
@settings(max_examples=300, deadline=None)
def test_every_partition(drawn: list[tuple[int, int]], k: int) -> None:
    values, first = np.unique(np.array([value for value, _ in drawn], np.float64), return_index=True)
    counts = np.array([count for _, count in drawn], np.float64)[first]
    assert cluster(values, counts, k).sse == pytest.approx(brute_force(values, counts, k), rel=1e-12, abs=1e-10)


def test_ties_on_a_lattice() -> None:
    # The error of n equal steps is linear between the divisors of n: no price has these k, paths must be spliced.
    values, counts = np.arange(240.0), np.ones(240)
    for k in range(1, 241):
        small, large = 240 // k, 240 // k + 1
        sizes = np.full(k, small)
        sizes[: 240 % k] = large
        assert cluster(values, counts, k).sse == pytest.approx((sizes * (sizes**2 - 1.0) / 12).sum(), rel=1e-12)


def test_a_large_lattice_with_the_coarse_grid() -> None:
    values, counts = np.arange(20000.0), np.ones(20000)
    for k in (3, 7, 16, 64, 255):
        sizes = np.full(k, 20000 // k) + (np.arange(k) < 20000 % k)
        assert cluster(values, counts, k).sse == pytest.approx((sizes * (sizes**2 - 1.0) / 12).sum(), rel=1e-12)


@pytest.mark.parametrize("k", [2, 16, 64])
def test_no_worse_than_the_package(k: int) -> None:
    values = np.unique(np.random.default_rng(k).standard_t(3, 6000))
    theirs = package.cluster(values, k)
    error = ((values - np.array(theirs.centroids)[theirs.clusters]) ** 2).sum()
    assert cluster(values, np.ones(len(values)), k).sse <= error * (1 + 1e-10)


@pytest.mark.parametrize("k", [4, 16, 256])
@pytest.mark.parametrize("outlier", [0, 65504])
def test_no_worse_than_the_peer_with_counts(k: int, outlier: float) -> None:
    deps = pytest.importorskip("coremltools._deps")
    weight = (np.random.default_rng(1).standard_t(5, 60_000) * 0.02).astype(np.float16)
    weight[0] = outlier
    values, counts = histogram(weight)
    assert len(values) > 10_000
    theirs = deps._kmeans1d.cluster(values, k, weights=counts)
    error = (counts * (values - np.array(theirs.centroids)[theirs.clusters]) ** 2).sum()
    assert cluster(values, counts, k).sse <= error * (1 + 1e-9)


def test_bad_input_is_refused() -> None:
    one = np.ones(1)
    for values, counts, k in [
        (one, one, 0),
        (one, np.ones(2), 1),
        (np.empty(0), np.empty(0), 1),
        (np.array([1.0, 1.0]), np.ones(2), 1),
        (np.array([2.0, 1.0]), np.ones(2), 1),
        (np.array([1.0, np.inf]), np.ones(2), 1),
        (one, np.zeros(1), 1),
        (one, np.array([np.nan]), 1),
    ]:
        with pytest.raises(CorepressError):
            cluster(values, counts, k)


FORMATS = {
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
    "float32": np.float32,
    "float64": np.float64,
    "int8": np.int8,
    "uint8": np.uint8,
}


def drawn(name: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """A weight with a zero of each sign; names with a slash hold 16-bit values in a wider type."""
    rng = np.random.default_rng(seed)
    values = rng.standard_t(5, shape) * (20 if "int8" in name else 0.02)
    values.reshape(-1)[:2] = 0.0, -0.0
    if name == "uint8":
        values = np.abs(values)
    for part in name.split("/"):
        values = values.astype(FORMATS[part])
    return values


NAMES = (*FORMATS, "float16/float32", "float16/float64", "bfloat16/float32", "bfloat16/float64", "float32/float64")


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_histogram(name: str, weighted: bool) -> None:
    weight = drawn(name, (40, 50))
    importance = np.random.default_rng(1).integers(0, 3, weight.shape).astype(np.float32) if weighted else None
    values, counts = histogram(weight, importance)
    wide = weight.astype(np.float64).reshape(-1)
    expected, at = np.unique(wide, return_inverse=True)
    mass = np.bincount(at, weights=None if importance is None else importance.reshape(-1).astype(np.float64))
    np.testing.assert_array_equal(values, expected[mass > 0])
    np.testing.assert_array_equal(counts, mass[mass > 0])


def test_16_bit_values_are_found_in_wider_types() -> None:
    for name in NAMES:
        short = kmeans1d._as_16_bit(drawn(name, (1, 3000)))
        assert (short is None) == (name in ("float32", "float64", "float32/float64")), name
    almost = drawn("float16/float32", (1, 3000))
    almost[0, 1777] = np.float32(0.1)
    assert kmeans1d._as_16_bit(almost) is None
    assert kmeans1d._as_16_bit(np.array([[1.0, 1e30, np.nan]])) is None


@pytest.mark.parametrize("k", [1, 2, 16, 200, 256])
@pytest.mark.parametrize("name", NAMES)
def test_quantize_values(name: str, k: int) -> None:
    weight = drawn(name, (31, 64))
    lut, indices = quantize_values(weight, k)
    assert lut.dtype == weight.dtype and lut.shape == (k,)
    assert indices.dtype == np.uint8 and indices.shape == weight.shape
    wide, table = weight.astype(np.float64), lut.astype(np.float64)
    values, counts = histogram(weight)
    used = min(k, len(values))
    assert (np.diff(table[:used]) > 0).all() and (table[used:] == 0).all() and indices.max() < used
    distance = np.abs(wide[..., None] - table[:used])
    np.testing.assert_array_equal(
        np.take_along_axis(distance, indices[..., None].astype(int), -1)[..., 0], distance.min(-1)
    )
    best = cluster(values, counts, k)
    rounding = (np.abs(best.centroids - table[:used]) ** 2).max() * wide.size
    assert (distance.min(-1) ** 2).sum() <= best.sse * (1 + 1e-12) + rounding
    if len(values) <= k:
        np.testing.assert_array_equal(lut[indices], weight)


def test_each_row_has_its_own_table() -> None:
    for name in NAMES:
        rows = drawn(name, (5, 700))
        importance = np.random.default_rng(2).random(rows.shape)
        for weights in (None, importance):
            luts, indices = quantize_rows(rows, 8, weights)
            for i, row in enumerate(rows):
                lut, index = quantize_values(row, 8, None if weights is None else weights[i])
                np.testing.assert_array_equal(luts[i], lut)
                np.testing.assert_array_equal(indices[i], index)


def test_importance_moves_the_entries() -> None:
    weight = drawn("float16", (3000,))
    importance = np.random.default_rng(4).random(3000) ** 4
    lut, indices = quantize_values(weight, 8, importance)
    plain, plain_indices = quantize_values(weight, 8)
    wide = weight.astype(np.float64)

    def error(table: np.ndarray, index: np.ndarray) -> float:
        return float((importance * (wide - table.astype(np.float64)[index]) ** 2).sum())

    assert error(lut, indices) < error(plain, plain_indices)
    assert error(lut, indices) <= cluster(*histogram(weight, importance), 8).sse * (1 + 1e-5)
    # Without any importance, all elements count alike.
    np.testing.assert_array_equal(quantize_values(weight, 8, np.zeros(3000))[0], plain)


def test_layouts_of_memory() -> None:
    weight = drawn("float16", (64, 96))
    expected = quantize_values(weight, 16)
    still = weight.copy()
    still.flags.writeable = False
    for same in (still, np.asfortranarray(weight), np.repeat(weight, 2, axis=1)[:, ::2]):
        for got, want in zip(quantize_values(same, 16), expected, strict=True):
            np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan, -np.nan])
@pytest.mark.parametrize("name", ["float16", "bfloat16", "float32", "float64"])
def test_not_finite_is_refused(name: str, bad: float) -> None:
    weight = drawn(name, (4, 100))
    weight[2, 7] = bad
    for importance in (None, np.ones(weight.shape)):
        with pytest.raises(CorepressError, match="infinities or NaN"):
            histogram(weight, importance)
        with pytest.raises(CorepressError, match="infinities or NaN"):
            quantize_values(weight, 4, importance)


def test_bad_importance_is_refused() -> None:
    weight = drawn("float16", (4, 10))
    for importance in (np.ones((4, 9)), np.full((4, 10), -1.0), np.full((4, 10), np.nan)):
        with pytest.raises(CorepressError, match="importance"):
            quantize_values(weight, 4, importance)


def test_nearest_with_repeated_entries() -> None:
    lut = np.array([[-1, 0, 0, 0.5], [2, 2, 2, 2]], np.float32)
    for name in ("float16/float32", "float32"):
        rows = drawn(name, (2, 500)) * np.float32(40)
        indices = nearest(rows, lut)
        distance = np.abs(rows[..., None].astype(np.float64) - lut[:, None])
        np.testing.assert_array_equal(
            np.take_along_axis(distance, indices[..., None].astype(int), -1)[..., 0], distance.min(-1)
        )


def test_round_to() -> None:
    values = np.array([-300.0, -1.5, -0.4, 0.6, 300.0])
    assert round_to(values, np.dtype(np.int8)).tolist() == [-128, -2, 0, 1, 127]
    assert round_to(values, np.dtype(np.uint8)).tolist() == [0, 0, 0, 1, 255]
    assert round_to(np.array([1 + 2.0**-12]), np.dtype(np.float16)).tolist() == [1.0]
