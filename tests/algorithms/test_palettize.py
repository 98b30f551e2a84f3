"""Palettization against coremltools' own function on the same weight, and the layout of what it gives."""

from __future__ import annotations

import subprocess
import sys
import warnings
from typing import Any

import numpy as np
import pytest

from corepress.algorithms.kmeans1d import cluster, histogram
from corepress.algorithms.palettize import palettize
from corepress.errors import ConfigError, CorepressError
from corepress.weights import Palettized


def drawn(shape: tuple[int, ...], dtype: Any = np.float16, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).standard_t(5, shape)
    if np.dtype(dtype).kind in "iu":
        return np.clip(values * 20 + (128 if dtype is np.uint8 else 0), *_limits(dtype)).astype(dtype)
    return (values * 0.02).astype(dtype)


def _limits(dtype: Any) -> tuple[int, int]:
    return np.iinfo(dtype).min, np.iinfo(dtype).max


def error(weight: np.ndarray, palettized: Palettized) -> float:
    dense = palettized.decompress()
    assert dense.shape == weight.shape and dense.dtype == weight.dtype
    return float(((dense.astype(np.float64) - weight.astype(np.float64)) ** 2).sum())


def peer(weight: np.ndarray, mode: str, bits: int | None, axis: int, size: int, dim: int = 1, lut_function: Any = None):
    from coremltools.optimize.coreml._quantization_passes import palettize_weights

    blocks = [0] * weight.ndim
    blocks[axis] = size
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        params = palettize_weights.blockwise_compress(weight, mode, bits, blocks, lut_function, dim, axis)
        return params, float(((palettize_weights.decompress(params).astype(np.float64) - weight) ** 2).sum())


CUTS = [  # shape, channel axis, group size
    ((64, 48), 0, 0),
    ((64, 48), 0, 16),
    ((64, 48), 1, 12),
    ((16, 32, 3, 3), 1, 8),
    ((16, 32, 3, 3), -1, 1),
    ((12, 1200), 0, 1),
    ((96, 160), 0, 0),
]


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize(("shape", "axis", "size"), CUTS)
@pytest.mark.parametrize("bits", [1, 4, 6])
def test_kmeans_beats_the_peer(shape: tuple[int, ...], axis: int, size: int, bits: int, dtype: Any) -> None:
    weight = drawn(shape, dtype)
    ours = palettize(weight, bits, channel_axis=axis, group_size=size)
    theirs, their_error = peer(weight, "KMEANS", bits, axis % len(shape), size)
    assert error(weight, ours) <= their_error * (1 + 1e-6)
    assert ours.indices.shape == theirs.indices.shape and ours.lut.shape == theirs.lut.shape
    assert ours.lut.dtype == theirs.lut.dtype and ours.vector_axis == theirs.vector_axis and ours.bits == bits


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize(
    ("shape", "axis", "size", "dim"), [((64, 48), 0, 0, 2), ((32, 64), 1, 32, 4), ((16, 32, 3, 3), 1, 16, 2)]
)
def test_vectors_beat_the_peer(shape: tuple[int, ...], axis: int, size: int, dim: int, dtype: Any) -> None:
    weight = drawn(shape, dtype)
    ours = palettize(weight, 4, channel_axis=axis, group_size=size, cluster_dim=dim)
    theirs, their_error = peer(weight, "KMEANS", 4, axis, size, dim)
    assert error(weight, ours) <= their_error
    assert ours.indices.shape == theirs.indices.shape and ours.lut.shape == theirs.lut.shape
    assert ours.vector_axis == theirs.vector_axis == axis


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize(("shape", "axis", "size"), CUTS)
@pytest.mark.parametrize("bits", [1, 3, 8])
def test_uniform_is_no_worse_than_the_peer(shape: tuple[int, ...], axis: int, size: int, bits: int, dtype: Any) -> None:
    weight = drawn(shape, dtype)
    ours = palettize(weight, bits, "uniform", channel_axis=axis, group_size=size)
    theirs, their_error = peer(weight, "UNIFORM", bits, axis % len(shape), size)
    # The peer's steps are rounded in float16; by chance such rounding can help a little.
    assert error(weight, ours) <= their_error * (1.001 if dtype is np.float16 else 1 + 1e-6)
    np.testing.assert_allclose(ours.lut, theirs.lut, rtol=1e-2, atol=2e-3 * np.abs(weight).max())


@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize(("axis", "size"), [(0, 0), (0, 8), (1, 4)])
def test_unique_is_the_peer_s(axis: int, size: int, dim: int) -> None:
    weight = np.random.default_rng(0).choice(np.linspace(-1, 1, 11), (16, 24)).astype(np.float16)
    ours = palettize(weight, None, "unique", channel_axis=axis, group_size=size, cluster_dim=dim)
    theirs, _ = peer(weight, "UNIQUE", None, axis, size, dim)
    np.testing.assert_array_equal(ours.lut, theirs.lut)
    np.testing.assert_array_equal(ours.indices, theirs.indices)
    np.testing.assert_array_equal(ours.decompress(), weight)


def test_unique_takes_the_fewest_allowed_bits() -> None:
    for values, bits, coarse in ((1, 1, 1), (2, 1, 1), (3, 2, 2), (5, 3, 4), (17, 6, 6), (65, 8, 8), (256, 8, 8)):
        weight = np.resize(np.arange(values, dtype=np.float32), (3, 400))
        assert palettize(weight, None, "unique").bits == bits
        assert palettize(weight, None, "unique", allowed_bits=(1, 2, 4, 6, 8)).bits == coarse
        assert palettize(weight, 6, "unique").bits == max(bits, 6)
        np.testing.assert_array_equal(palettize(weight, None, "unique").decompress(), weight)
    with pytest.raises(ConfigError, match="more than 256 values"):
        palettize(np.arange(257, dtype=np.float32)[None], None, "unique")
    with pytest.raises(ConfigError, match="no table of 4 bits holds 17 values"):
        palettize(np.arange(17, dtype=np.float32)[None], None, "unique", allowed_bits=(1, 2, 4))


def thirds(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    lut = np.quantile(weight.astype(np.float64), [0.1, 0.5, 0.9])
    return lut, np.abs(weight.reshape(-1, 1) - lut).argmin(1)


@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize(("axis", "size"), [(0, 0), (0, 4), (1, 6)])
def test_custom(axis: int, size: int, listed: bool) -> None:
    def lut_function(weight: np.ndarray) -> tuple[Any, Any]:
        lut, indices = thirds(weight)
        return (lut.tolist(), indices.tolist()) if listed else (lut, indices)

    weight = drawn((16, 24))
    ours = palettize(weight, None, "custom", channel_axis=axis, group_size=size, lut_function=lut_function)
    assert ours.bits == 2 and ours.lut.dtype == np.float16
    groups = weight.shape[axis] // size if size else 1
    dense = ours.decompress()
    for part, got in zip(np.split(weight, groups, axis), np.split(dense, groups, axis), strict=True):
        lut, indices = thirds(part)
        np.testing.assert_array_equal(got, lut.astype(np.float16)[indices].reshape(part.shape))


def test_custom_vectors_of_different_tables() -> None:
    def lut_function(part: np.ndarray) -> tuple[Any, Any]:
        count = 2 if part[0, 0] < 0 else 5
        return np.arange(2 * count), np.resize(np.arange(count), part.size // 2)

    weight = np.ones((8, 6), np.float32)
    weight[:4] = -1
    ours = palettize(weight, None, "custom", group_size=4, cluster_dim=2, lut_function=lut_function)
    assert ours.indices.shape == (4, 6) and ours.lut.shape == (2, 1, 8, 2)
    assert ours.indices[:2].max() == 1 and ours.indices[2:].max() == 4
    assert (ours.lut[0, 0, 2:] == 0).all() and ours.lut[1, 0, 4].tolist() == [8, 9]


def test_custom_can_not_damage_the_weight() -> None:
    def lut_function(part: np.ndarray) -> tuple[Any, Any]:
        part[:] = 0
        return [0.0, 1.0], np.zeros(part.size, int)

    weight = drawn((4, 4))
    before = weight.copy()
    palettize(weight, None, "custom", lut_function=lut_function)
    np.testing.assert_array_equal(weight, before)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (([1.0, 2.0], [0] * 15), "15 indices for 16"),
        (([1.0, 2.0], [2] * 16), "integers from 0 to 1"),
        (([1.0, 2.0], [-1] * 16), "integers from 0 to 1"),
        (([1.0, 2.0], [0.5] * 16), "integers from 0 to 1"),
        (([], [0] * 16), "finite float16 entries"),
        (([1.0, np.inf], [0] * 16), "finite float16 entries"),
        (([1.0, 1e6], [0] * 16), "finite float16 entries"),
        ((["a"], [0] * 16), "did not give a table"),
        (7, "did not give a table"),
        ((np.arange(257), [0] * 16), "more than 256"),
    ],
)
def test_custom_is_checked(result: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        palettize(drawn((4, 4)), None, "custom", lut_function=lambda weight: result)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_kmeans_is_optimal_in_every_group(dtype: Any) -> None:
    weight = drawn((6, 20, 30), dtype)
    ours = palettize(weight, 3, channel_axis=1, group_size=5)
    dense = ours.decompress()
    for group in range(4):
        part = weight[:, 5 * group : 5 * group + 5]
        best = cluster(*histogram(part), 8)
        miss = (part.astype(np.float64) - dense[:, 5 * group : 5 * group + 5]) ** 2
        assert miss.sum() <= best.sse * (1 + 1e-5)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
@pytest.mark.parametrize(("mode", "dim"), [("kmeans", 1), ("kmeans", 2), ("uniform", 1), ("unique", 1)])
def test_integers(mode: Any, dim: int, dtype: Any) -> None:
    weight = drawn((32, 64), dtype)
    ours = palettize(weight, None if mode == "unique" else 4, mode, cluster_dim=dim)
    assert ours.lut.dtype == dtype
    assert error(weight, ours) / weight.size < (0 if mode == "unique" else 150) + 1e-9
    if (mode, dim) == ("kmeans", 1):
        # Rounding a mean to an integer adds at most a quarter to each squared error.
        assert error(weight, ours) <= cluster(*histogram(weight), 16).sse + weight.size / 4


@pytest.mark.parametrize("mode", ["kmeans", "uniform", "unique", "custom"])
@pytest.mark.parametrize(("axis", "size", "dim"), [(0, 0, 1), (0, 4, 1), (1, 6, 1), (0, 8, 2), (1, 0, 2)])
def test_only_what_is_under_the_mask_counts(mode: Any, axis: int, size: int, dim: int) -> None:
    if mode == "uniform" and dim > 1:
        pytest.skip("no such mode")
    rng = np.random.default_rng(4)
    weight = rng.choice(np.arange(1, 5) / 4, (16, 24)).astype(np.float16)
    mask = rng.random((16 // dim, 24) if axis == 0 else (16, 24 // dim)).repeat(dim, axis) < 0.4
    mask[:4] = False
    weight[~mask] = rng.standard_normal((~mask).sum()) * 100  # must not matter
    bits, function = (None if mode in ("unique", "custom") else 4), None
    if mode == "custom":
        function = lambda part: (np.arange(2.0 * dim), np.ones(part.size // dim, int))  # noqa: E731
    ours = palettize(
        weight, bits, mode, channel_axis=axis, group_size=size, cluster_dim=dim, lut_function=function, mask=mask
    )
    kept = mask.reshape(ours.indices.shape[0], -1, ours.indices.shape[1], weight.shape[1] // ours.indices.shape[1])
    kept = kept.any(axis=(1, 3))
    assert (ours.indices[~kept] == 0).all()
    if mode in ("kmeans", "unique"):
        np.testing.assert_array_equal(ours.decompress()[mask], weight[mask])
    if mode == "uniform":
        assert np.abs(ours.lut).max() <= 1 or size == 4  # a group without any kept value takes its first


@pytest.mark.parametrize("dim", [1, 2])
def test_importance(dim: int) -> None:
    weight = drawn((32, 64), np.float32)
    importance = np.random.default_rng(1).random((16, 64)).repeat(2, axis=0) ** 5
    weighted = palettize(weight, 2, cluster_dim=dim, importance=importance, group_size=16)
    plain = palettize(weight, 2, cluster_dim=dim, group_size=16)
    errors = [(importance * (form.decompress() - weight) ** 2).sum() for form in (weighted, plain)]
    assert errors[0] < errors[1]


def test_few_distinct_values_are_kept_and_the_rest_of_the_table_is_zero() -> None:
    for dim in (1, 2):
        weight = np.tile(np.array([[1.5], [-2.0], [0.5], [0.0]], np.float16), (2, 20))
        ours = palettize(weight, 3, cluster_dim=dim)
        np.testing.assert_array_equal(ours.decompress(), weight)
        assert (ours.lut.reshape(8, dim)[4 // dim :] == 0).all()


def test_uniform_does_not_overflow() -> None:
    weight = np.array([[-60000, 60000, 0, 12345]], np.float16)
    ours = palettize(weight, 4, "uniform")
    assert np.isfinite(ours.lut).all() and np.abs(ours.decompress().astype(float) - weight).max() <= 4032
    constant = palettize(np.full((3, 5), 0.3, np.float16), 2, "uniform")
    np.testing.assert_array_equal(constant.decompress(), np.full((3, 5), 0.3, np.float16))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bits": 4, "group_size": 5}, "groups of 5 don't divide axis 0"),
        ({"bits": 4, "group_size": -2}, "groups of -2"),
        ({"bits": 4, "cluster_dim": 3}, "vectors of 3 don't divide"),
        ({"bits": 4, "group_size": 2, "cluster_dim": 4}, "vectors of 4 don't divide a group of 2"),
        ({"bits": 4, "channel_axis": 2}, "no channel axis 2"),
        ({"bits": 5}, "can't have 5 bits"),
        ({"bits": 3, "allowed_bits": (1, 2, 4)}, "can't have 3 bits"),
        ({}, "needs a number of bits"),
        ({"mode": "uniform"}, "needs a number of bits"),
        ({"mode": "custom"}, "needs a lut_function"),
        ({"bits": 4, "lut_function": thirds}, "no other mode takes one"),
        ({"bits": 4, "mode": "custom", "lut_function": thirds}, "can't have 4 bits"),
        ({"bits": 4, "mode": "uniform", "cluster_dim": 2}, "no tables of vectors"),
        ({"bits": 4, "mode": "linear"}, "mode must be"),
        ({"bits": 4, "mask": np.ones((8, 7), bool)}, "mask has the shape"),
        ({"bits": 4, "importance": np.ones((7, 8))}, "importance has the shape"),
    ],
)
def test_arguments_that_do_not_fit(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        palettize(drawn((8, 8)), **arguments)


def test_nothing_to_palettize() -> None:
    for shape in ((0, 4), ()):
        with pytest.raises(ConfigError, match="nothing to palettize"):
            palettize(np.zeros(shape, np.float16), 4)


@pytest.mark.parametrize(("mode", "dim"), [("kmeans", 1), ("kmeans", 2), ("uniform", 1), ("unique", 1), ("custom", 1)])
@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_not_finite_is_refused(bad: float, mode: Any, dim: int) -> None:
    weight = drawn((8, 8))
    weight[3, 3] = bad
    with pytest.raises(CorepressError, match="infinities or NaN"):
        palettize(
            weight,
            4 if mode in ("kmeans", "uniform") else None,
            mode,
            cluster_dim=dim,
            lut_function=thirds if mode == "custom" else None,
        )


def test_the_weight_stays_as_it_is() -> None:
    weight = drawn((16, 32))
    weight.flags.writeable = False  # as a memory map is
    for mode in ("kmeans", "uniform"):
        for dim in (1, 2) if mode == "kmeans" else (1,):
            for axis in (0, 1):
                palettize(weight, 4, mode, channel_axis=axis, group_size=8, cluster_dim=dim)


def test_import_is_light() -> None:
    code = (
        "import sys, corepress.algorithms.palettize; "
        "assert not {'sklearn', 'scipy.cluster', 'torch', 'coremltools'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("vector", [1, 2])
@pytest.mark.parametrize("counts", [(8, 1), (1, 6), (4, 3), (1, 1)])
@pytest.mark.parametrize("kind", ["float16", "int8"])
def test_a_scale_moves_into_the_lut_without_changing_a_bit(kind, counts, vector) -> None:
    from corepress.algorithms.lut import scale_into_lut
    from corepress.weights import Palettized, Quantized

    rng = np.random.default_rng(0)
    indices = rng.integers(0, 4, (8 // vector, 12)).astype(np.uint8)
    lut = (rng.normal(size=(1, 1, 4, vector)) * 50).astype(kind)
    inner = Palettized(indices, lut, 0 if vector > 1 else None)
    scale = rng.random(counts).astype(np.float16) + np.float16(0.1)
    offset = rng.integers(-5, 5, counts).astype(np.int8) if kind == "int8" else None
    weight = Quantized(inner, scale, offset)
    moved = scale_into_lut(weight)
    np.testing.assert_array_equal(moved.decompress(), weight.decompress())
    assert isinstance(moved, Palettized) or (vector == 2 and counts[0] == 4)  # a vector may not straddle two scales
