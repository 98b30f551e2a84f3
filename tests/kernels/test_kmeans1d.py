"""Histograms, clusters and nearest entries of rows beside NumPy, each array against a page that can't be touched."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corepress.kernels import kmeans1d as kernels
from corepress.kernels import partition
from corepress.kernels.kmeans1d import (
    assign_bins,
    assign_codes,
    assign_values,
    cluster_bins,
    cluster_codes,
    cluster_sorted,
    histogram_codes,
    histogram_sorted,
)
from tests.kernels.guarded import guarded, guarding

TYPES = {False: np.dtype(np.float16), True: np.dtype(ml_dtypes.bfloat16)}
Drawn = tuple[np.ndarray, np.ndarray | None]


def histogram_twin(values: np.ndarray, weights: np.ndarray | None) -> tuple[np.ndarray, np.ndarray] | None:
    wide = values.astype(np.float64)
    if not np.isfinite(wide).all():
        return None
    distinct, at = np.unique(wide, return_inverse=True)
    mass = np.zeros(len(distinct))
    np.add.at(mass, at, 1.0 if weights is None else weights)
    return distinct[mass > 0], mass[mass > 0]


def clusters_twin(values: np.ndarray, weights: np.ndarray | None, k: int) -> tuple[np.ndarray, int]:
    found, centroids = histogram_twin(values, weights), np.zeros(k)
    if found is None:
        return centroids, -1
    if not found[0].size:
        return centroids, 0
    means, _ = partition.means_of_runs(*found, partition.partition(*found, k))
    centroids[: len(means)] = means
    return centroids, len(means)


def nearest_twin(values: np.ndarray, lut: np.ndarray) -> np.ndarray:
    """How many of the limits between neighbouring entries are below each value; NaN is below all."""
    limits = (lut[:-1] + lut[1:]) / 2
    return (values.astype(np.float64)[:, None] > limits).sum(1)


def assert_same(found: tuple[np.ndarray, np.ndarray] | None, expected: tuple[np.ndarray, np.ndarray] | None) -> None:
    assert (found is None) == (expected is None)
    for one, other in zip(found or (), expected or (), strict=True):
        np.testing.assert_array_equal(one, other)


@st.composite
def rows_of(draw: st.DrawFn, dtype: np.dtype) -> Drawn:
    """A matrix, and weights of whole numbers, or none; a kind with many repeats, one over many powers of two."""
    shape, seed = (draw(st.integers(0, 3)), draw(st.integers(0, 90))), draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    values = rng.integers(-9, 10, shape) * 0.25 if draw(st.booleans()) else np.ldexp(1.0, rng.integers(-20, 15, shape))
    values = (values * rng.choice([-1.0, 1.0], shape)).astype(dtype)
    weights = rng.integers(0, 3, shape).astype(np.float64) if draw(st.booleans()) else None
    if values.size and draw(st.booleans()):
        bad = rng.integers(shape[0]), rng.integers(shape[1])
        values[bad] = draw(st.sampled_from([np.nan, np.inf, -np.inf, -np.nan]))
        if weights is not None:  # what does not count is not looked at
            weights[bad] = 1
    before = draw(st.booleans())
    return guarded(values, before=before), None if weights is None else guarded(weights, before=before)


def of_row(weights: np.ndarray | None, row: int) -> np.ndarray | None:
    return None if weights is None else weights[row]


@pytest.mark.parametrize("brain", TYPES)
def test_codes(brain) -> None:
    @settings(deadline=None, max_examples=60)
    @given(rows_of(TYPES[brain]), st.integers(1, 40))
    def check(drawn: Drawn, k: int) -> None:
        values, weights = drawn
        codes = values.view(np.uint16)
        with guarding(kernels, partition):
            centroids, used = cluster_codes(codes, weights, brain, k)
            for i, row in enumerate(values):
                assert_same(
                    histogram_codes(codes[i], of_row(weights, i), brain), histogram_twin(row, of_row(weights, i))
                )
        for i, row in enumerate(values):
            assert_same((centroids[i], used[i]), clusters_twin(row, of_row(weights, i), k))

    check()


@pytest.mark.parametrize("brain", TYPES)
@pytest.mark.parametrize("weighted", [False, True])
def test_histogram_of_every_code(brain, weighted) -> None:
    values = np.arange(65536, dtype=np.uint16).view(TYPES[brain])
    with np.errstate(invalid="ignore"):
        values = np.random.default_rng(0).permutation(values[np.isfinite(values)]).repeat(2)
    weights = np.random.default_rng(1).integers(0, 3, values.size).astype(np.float64) if weighted else None
    assert_same(histogram_codes(values.view(np.uint16), weights, brain), histogram_twin(values, weights))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sorted(dtype) -> None:
    @settings(deadline=None, max_examples=60)
    @given(rows_of(np.dtype(dtype)), st.integers(1, 40))
    def check(drawn: Drawn, k: int) -> None:
        values, weights = drawn
        values.sort(axis=1)
        with guarding(kernels, partition):
            centroids, used = cluster_sorted(values, weights, k)
            for i, row in enumerate(values):
                assert_same(histogram_sorted(row, of_row(weights, i)), histogram_twin(row, of_row(weights, i)))
        for i, row in enumerate(values):
            assert_same((centroids[i], used[i]), clusters_twin(row, of_row(weights, i), k))

    check()


def bins_twin(row: np.ndarray, drop: int) -> np.ndarray:
    """The number of each element's bin, by the integers that bits are."""
    bits = row.view(np.int32).astype(np.int64)
    magnitudes = bits & 0x7FFFFFFF
    bins = np.maximum(magnitudes - max(int(magnitudes.max()) - (2**kernels.RANGE - 1), 0), 0) >> drop
    half = 1 << (kernels.RANGE - drop)
    return np.where(bits >= 0, half + bins, half - 1 - bins)


def binned_twin(row: np.ndarray, weights: np.ndarray | None, drop: int) -> tuple[np.ndarray, np.ndarray]:
    mass, moment = np.zeros((2, 2 << (kernels.RANGE - drop)))
    worth = np.ones(row.size) if weights is None else weights
    np.add.at(mass, bins_twin(row, drop), worth)
    np.add.at(moment, bins_twin(row, drop), worth * row)
    means, counts = moment[mass > 0] / mass[mass > 0], mass[mass > 0]
    zeros = np.flatnonzero(means == 0)
    if len(zeros) == 2:  # the bins of -0.0 and 0.0
        counts[zeros[0]] += counts[zeros[1]]
        means, counts = np.delete(means, zeros[1]), np.delete(counts, zeros[1])
    return means, counts


@pytest.mark.parametrize("drop", [13, 14, 16])
def test_clusters_of_bins(drop) -> None:
    @settings(deadline=None, max_examples=25)
    @given(rows_of(np.dtype(np.float32)), st.integers(1, 6))
    def check(drawn: Drawn, k: int) -> None:
        values, weights = drawn
        with guarding(kernels, partition):
            luts, used = cluster_bins(values, weights, drop, k, 2 * k)
        for i, row in enumerate(values):
            if not np.isfinite(row).all():
                assert used[i] == -1
                continue
            means, counts = binned_twin(row, of_row(weights, i), drop) if row.size else (np.empty(0), np.empty(0))
            assert used[i] == (k if len(means) >= 2 * k else 0)
            if used[i]:
                expected, _ = partition.means_of_runs(means, counts, partition.partition(means, counts, k))
                np.testing.assert_array_equal(luts[i], expected.astype(np.float32))

    check()


@st.composite
def tables_of(draw: st.DrawFn, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Ascending entries, some of them equal, and how many of each row count."""
    k, rng = draw(st.integers(1, 256)), np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    luts = np.sort(rng.integers(-40, 41, (rows, k)) * draw(st.sampled_from([0.125, 1.0, 1000.0])), axis=1)
    return guarded(luts), guarded(rng.integers(1, k + 1, rows).astype(np.int32))


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "float32", "float64", "bins"])
def test_nearest_entries(kind) -> None:
    dtype = np.dtype(np.float32 if kind == "bins" else ml_dtypes.bfloat16 if kind == "bfloat16" else kind)

    @settings(deadline=None, max_examples=60)
    @given(st.data())
    def check(data: st.DataObject) -> None:
        values, _ = data.draw(rows_of(dtype))
        luts, used = data.draw(tables_of(len(values)))
        with guarding(kernels):
            if kind == "bins":
                indices = assign_bins(values, luts, 16, used)
            elif dtype.itemsize == 2:
                indices = assign_codes(values.view(np.uint16), kind == "bfloat16", luts, used)
            else:
                indices = assign_values(values, luts, used)
        assert indices.dtype == np.uint8 and indices.shape == values.shape
        for i, row in enumerate(values):
            known = ~np.isnan(row.astype(np.float64)) if kind != "bins" else np.isfinite(row).all() & (row == row)
            expected = nearest_twin(row, luts[i, : used[i]])
            np.testing.assert_array_equal(indices[i][known], expected[known])
            assert (indices[i] < used[i]).all()

    check()


def test_what_a_kernel_would_read_beyond_is_refused() -> None:
    codes, luts, used = np.zeros((2, 3), np.uint16), np.zeros((2, 4)), np.full(2, 4, np.int32)
    with pytest.raises(ValueError, match="no more count"):
        assign_codes(codes, False, luts, used + np.int32(1))
    with pytest.raises(ValueError, match="1 to 256 entries"):
        assign_codes(codes, False, np.zeros((2, 257)), used)
    with pytest.raises(ValueError, match="shape"):
        assign_codes(codes, False, luts[:1], used)
    with pytest.raises(ValueError, match="shape"):
        cluster_codes(codes, np.ones((2, 2)), False, 4)
    with pytest.raises(ValueError, match="0 runs"):
        cluster_codes(codes, None, False, 0)
    with pytest.raises(ValueError, match="as many bins"):
        cluster_bins(np.zeros((1, 9), np.float32), None, 14, 4, 3)
    with pytest.raises(ValueError, match="leave out"):
        assign_bins(np.zeros((2, 9), np.float32), luts, 28, used)
