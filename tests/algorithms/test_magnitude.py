"""Pruning against coremltools' own masks, and n:m sparsity against a plain sort."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from corepress.algorithms.magnitude import prune_n_m, prune_sparsity, prune_threshold, sparsity
from corepress.errors import ConfigError, CorepressError
from corepress.weights import Sparse

FLOATS = (np.float16, np.float32)
SHAPES = ((40, 96), (33, 70), (16, 24, 3, 3), (20, 17, 5), (9, 8, 2, 3, 2))


def drawn(shape: tuple[int, ...], dtype: Any, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    values = rng.standard_normal(shape) * 0.05
    values[rng.random(shape) < 0.1] = 0
    return values.astype(dtype)


def tied(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    return np.random.default_rng(5).choice([-0.5, -0.25, 0.0, 0.25, 0.5, 1.0], shape).astype(dtype)


@pytest.fixture(scope="module")
def peer() -> Any:
    return pytest.importorskip("coremltools.optimize.coreml._quantization_passes").prune_weights


def peer_mask(params: Any) -> np.ndarray:
    count = int(np.prod(params.shape))
    return np.unpackbits(params.mask, count=count, bitorder="little").astype(np.bool_).reshape(params.shape)


def check(ours: Sparse, weight: np.ndarray, params: Any) -> None:
    np.testing.assert_array_equal(ours.mask, peer_mask(params))
    np.testing.assert_array_equal(ours.decompress(), np.where(ours.mask, weight, weight.dtype.type(0)))
    np.testing.assert_array_equal(ours.decompress()[ours.mask], params.nonzero_data)
    assert ours.mask.dtype == np.bool_ and ours.mask.flags.c_contiguous
    assert (ours.decompress()[ours.mask] != 0).all()


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_threshold(peer, dtype) -> None:
    for weight in (drawn((40, 96), dtype), tied((40, 96), dtype)):
        for threshold in (0.0, 1e-12, 0.03, 0.05, 0.25, 0.2500001, 0.5, 7.0, 1e6):
            check(prune_threshold(weight, threshold), weight, peer.compress_by_threshold(weight, threshold, 0))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("target", [0.0, 0.001, 0.1, 0.33, 0.5, 0.55, 0.75, 0.9, 0.999, 1.0])
def test_target_sparsity(peer, target, dtype) -> None:
    for shape in (*SHAPES, (2,), (7,), (64, 1025)):
        for weight in (drawn(shape, dtype), tied(shape, dtype)):
            check(prune_sparsity(weight, target), weight, peer.compress_by_magnitude(weight, target))


@pytest.mark.parametrize("target", [0.0, 0.2, 0.5, 0.77, 1.0])
@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("block_size", [1, 2, 3, 4])
def test_block_sparsity(peer, block_size, dim, target) -> None:
    for shape in SHAPES:
        weight = drawn(shape, np.float32)
        check(
            prune_sparsity(weight, target, block_size, dim),
            weight,
            peer.compress_by_magnitude(weight, target, block_size, dim),
        )
        # In float16 the peer rounds its norms (and overflows from 256 on), so the masks agree but at the threshold.
        half = weight.astype(np.float16)
        theirs = peer_mask(peer.compress_by_magnitude(half, target, block_size, dim))
        assert np.mean(prune_sparsity(half, target, block_size, dim).mask != theirs) < 0.02


def test_block_norms_do_not_overflow() -> None:
    weight = np.full((8, 4), 1000, np.float16)
    weight[2:4] = 2000
    pruned = prune_sparsity(weight, 0.5, block_size=2, dim=0)
    np.testing.assert_array_equal(pruned.mask, weight == 2000)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("n, m", [(0, 4), (1, 2), (2, 4), (3, 4), (4, 4), (3, 5), (5, 8), (1, 3)])
def test_n_m_sparsity(peer, n, m, dim, dtype) -> None:
    for shape in SHAPES:
        if m > shape[dim] / 2:
            continue
        # Magnitudes that differ: of equal ones NumPy's sort, and so the peer, takes any.
        rng = np.random.default_rng(1)
        magnitudes = (1 + rng.permutation(int(np.prod(shape)))).astype(np.uint16).view(np.float16).reshape(shape)
        weight = (magnitudes * rng.choice([-1, 1], shape)).astype(dtype)
        check(prune_n_m(weight, n, m, dim), weight, peer.compress_by_nm_sparsity(weight, (n, m), dim))


def slow_n_m(weight: np.ndarray, n: int, m: int, dim: int) -> np.ndarray:
    mask = weight != 0
    channels = weight.shape[dim]
    columns = np.moveaxis(mask, dim, 0)
    magnitudes = np.abs(np.moveaxis(weight, dim, 0))
    for place in np.ndindex(columns.shape[1:]):
        for start in range(0, channels, m):
            group = magnitudes[(slice(start, start + m), *place)]
            drop = max(0, n - (m - len(group)))
            columns[(start + np.argsort(group, kind="stable")[:drop], *place)] = False
    return mask


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("dim", [0, 1])
def test_n_m_takes_the_first_of_equal_values(dim, dtype) -> None:
    for shape in SHAPES:
        for n, m in ((1, 2), (2, 4), (3, 4), (2, 3)):
            weight = tied(shape, dtype)
            np.testing.assert_array_equal(prune_n_m(weight, n, m, dim).mask, slow_n_m(weight, n, m, dim))


def test_n_m_of_many_groups() -> None:
    weight = drawn((300, 128), np.float16)
    for dim in (0, 1):
        np.testing.assert_array_equal(prune_n_m(weight, 2, 4, dim).mask, slow_n_m(weight, 2, 4, dim))


def test_what_does_not_apply_is_refused() -> None:
    weight = drawn((8, 16), np.float16)
    with pytest.raises(ConfigError, match="block_size is 5, but may be at most half of axis 0, which has 8 channels"):
        prune_sparsity(weight, 0.5, block_size=5, dim=0)
    with pytest.raises(ConfigError, match="m is 9, but may be at most half of axis 1"):
        prune_n_m(weight, 2, 9, 1)
    with pytest.raises(ConfigError, match="impossible"):
        prune_n_m(weight, 5, 4, 1)
    with pytest.raises(ConfigError, match="axis 0 or 1"):
        prune_n_m(weight, 2, 4, 2)
    with pytest.raises(ConfigError, match="rank 2 to 5"):
        prune_sparsity(weight.reshape(-1), 0.5, block_size=2, dim=0)
    with pytest.raises(ConfigError, match="between 0 and 1"):
        prune_sparsity(weight, 1.5)


def test_sparsity_counts_zeros() -> None:
    weight = np.array([[0.0, -0.0, 1.0, 2.0]], np.float16)
    assert sparsity(weight) == 0.5
    assert sparsity(prune_threshold(weight, 1.0)) == 0.75
    assert sparsity(prune_sparsity(weight, 1.0)) == 1.0


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_infinities_and_nan_are_refused(bad, dtype) -> None:
    weight = np.ones((4, 8), dtype)
    weight[1, 2] = bad
    for prune in (lambda w: prune_threshold(w, 2.5), lambda w: prune_sparsity(w, 0.5), lambda w: prune_n_m(w, 1, 2, 1)):
        with pytest.raises(CorepressError, match="infinities"):
            prune(weight)


def test_other_types_and_layouts() -> None:
    import ml_dtypes

    weight = drawn((32, 48), np.float32)
    expected = prune_sparsity(weight, 0.5).mask
    np.testing.assert_array_equal(prune_sparsity(weight.astype(np.float64), 0.5).mask, expected)
    np.testing.assert_array_equal(prune_sparsity(np.asfortranarray(weight), 0.5).mask, expected)
    brain = weight.astype(ml_dtypes.bfloat16)
    as_single = brain.astype(np.float32)
    np.testing.assert_array_equal(prune_threshold(brain, 0.0625).mask, prune_threshold(as_single, 0.0625).mask)
    assert abs(sparsity(prune_sparsity(brain, 0.5)) - 0.5) < 0.02
    for dim in (0, 1):
        transposed = prune_n_m(np.asfortranarray(weight), 2, 4, dim).mask
        np.testing.assert_array_equal(transposed, prune_n_m(weight, 2, 4, dim).mask)


@pytest.mark.slow
def test_more_members_than_the_bits_of_a_value_can_count() -> None:
    m = (1 << 16) + 11
    weight = np.full((2 * m, 1), 0.5, np.float16)
    kept = prune_n_m(weight, 11, m, 0).mask[:, 0]
    assert not kept[:11].any() and kept[11:m].all() and not kept[m : m + 11].any() and kept[m + 11 :].all()
