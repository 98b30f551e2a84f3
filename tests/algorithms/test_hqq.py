"""Half-quadratic quantization against the program of its paper, written out, and against plain linear quantization."""

from __future__ import annotations

import numpy as np
import pytest

from corepress.algorithms.hqq import quantize_half_quadratic, zero_points
from corepress.algorithms.linear import quantize
from corepress.errors import ConfigError, DataError
from tests.algorithms.test_linear import DTYPES, KINDS, RANGES, drawn

P = 0.75


def loss(weight: np.ndarray, dense: np.ndarray) -> np.ndarray:
    return (np.abs(weight.astype(np.float64) - dense.astype(np.float64)) ** P).sum(-1)


def literal(steps: np.ndarray, zero: float, lowest: int, highest: int, beta: float) -> float:
    """Equations 2 to 8 of the paper, for one block in steps of its grid, in double precision: the best of all rounds,
    where the paper's program ends with the first that gains nothing."""
    best, least = zero, np.inf
    for _ in range(20):
        integers = np.clip(np.round(steps + zero), lowest, highest)
        error = steps - (integers - zero)
        found = (np.abs(error) ** P).sum()
        if found < least:
            best, least = zero, found
        size = np.maximum(np.abs(error), 1e-30)
        outlier = np.sign(error) * np.maximum(size - size ** (P - 1) / beta, 0)
        zero = float(np.mean(integers - (steps - outlier)))
        beta *= 1.01
    return best


@pytest.mark.parametrize("beta", [3.0, 10.0, 100.0])
@pytest.mark.parametrize("lowest, highest", [(0, 15), (-8, 7), (0, 255)])
def test_the_zero_points_are_those_of_the_paper(lowest, highest, beta) -> None:
    rng = np.random.default_rng(int(beta) + highest)
    weight = rng.standard_t(4, (40, 64))
    scale = np.ptp(weight, axis=1) / (highest - lowest)
    steps = (weight / scale[:, None]).astype(np.float32)
    start = (lowest - weight.min(1) / scale).astype(np.float32)
    found = zero_points(steps, start, None, lowest, highest, beta)
    expected = [literal(*row, lowest, highest, beta) for row in zip(steps.astype(np.float64), start, strict=True)]
    # Values near the middle between two integers may be rounded otherwise in float32: such a block goes another way.
    assert np.mean(np.abs(found - expected) < 1e-3) > 0.9


@pytest.mark.parametrize("weight_type", [np.float16, np.float32])
@pytest.mark.parametrize("dtype", DTYPES)
def test_no_block_loses_to_integer_zero_points(dtype, weight_type) -> None:
    for kind in KINDS:
        weight = drawn(kind, (24, 96), weight_type, seed=5)
        found = quantize_half_quadratic(weight, dtype=dtype, block_sizes=(1, 32))
        plain = quantize(weight, dtype=dtype, mode="linear", block_sizes=(1, 32))
        assert found.offset is not None and found.offset.dtype == found.scale.dtype == weight_type
        assert found.data.dtype == plain.data.dtype and found.bits == plain.bits
        lowest, highest = RANGES[dtype]
        assert lowest <= found.data.min() and found.data.max() <= highest
        blocks = [array.reshape(-1, 32) for array in (weight, found.decompress(), plain.decompress())]
        assert (loss(blocks[0], blocks[1]) <= loss(blocks[0], blocks[2]) * (1 + 1e-5)).all(), kind


def test_it_gains_where_a_range_is_not_around_zero() -> None:
    weight = drawn("normal", (64, 512), np.float16)
    for sizes, least in (((1, 32), 0.08), ((1, 0), 0.02)):
        losses = [
            loss(weight, form.decompress()).sum()
            for form in (
                quantize_half_quadratic(weight, block_sizes=sizes),
                quantize(weight, dtype="uint4", mode="linear", block_sizes=sizes),
            )
        ]
        assert losses[0] < losses[1] * (1 - least), losses


def test_other_units_give_the_same_integers() -> None:
    weight = drawn("heavy", (8, 64), np.float32)
    one, other = (quantize_half_quadratic(w, block_sizes=(1, 16)) for w in (weight, weight * 2.0**-9))
    np.testing.assert_array_equal(one.data, other.data)
    np.testing.assert_array_equal(one.scale, other.scale * 2.0**9)
    np.testing.assert_array_equal(one.offset, other.offset)


def test_what_is_outside_of_a_mask_counts_for_nothing() -> None:
    rng = np.random.default_rng(2)
    weight, mask = drawn("normal", (12, 64), np.float16), rng.random((12, 64)) < 0.5
    mask[0, :16] = False
    junk = np.where(mask, weight, np.float16(np.nan))
    found = quantize_half_quadratic(junk, block_sizes=(1, 16), mask=mask)
    again = quantize_half_quadratic(np.where(mask, weight, np.float16(3)), block_sizes=(1, 16), mask=mask)
    np.testing.assert_array_equal(found.data, again.data)
    np.testing.assert_array_equal(found.offset, again.offset)
    assert not found.data[~mask].any()
    plain = quantize(weight, dtype="uint4", mode="linear", block_sizes=(1, 16), mask=mask)
    error, before = (np.abs((form.decompress() - weight)[mask]).sum() for form in (found, plain))
    assert error < before


def test_bad_weights_are_refused() -> None:
    with pytest.raises(DataError, match="infinities or NaN"):
        quantize_half_quadratic(np.full((2, 32), np.inf, np.float16), block_sizes=(1, 32))
    with pytest.raises(ConfigError, match="don't divide"):
        quantize_half_quadratic(np.ones((2, 32), np.float16), block_sizes=(1, 5))
