"""The kernels of linear quantization beside their arithmetic in NumPy, bit by bit, on arrays before guard pages."""

from __future__ import annotations

from functools import reduce
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corepress.kernels.linear import quantize_rows, shift_scale_rows
from tests.kernels.guarded import guarded

Array = Any
one = np.float32(1)
RANGES = {"int4": (-8, 7), "uint4": (0, 15), "int8": (-128, 127), "uint8": (0, 255)}
FLOATS = (np.float16, np.float32)


def rounded(values: Array, scale_type: Any) -> Array:
    return np.asarray(values, np.float32).astype(scale_type).astype(np.float32)


def plain_twin(row: Array, lowest: int, highest: int, symmetric: bool, scale_type: Any) -> tuple[Array, Array]:
    """Scale and zero point as coremltools computes them, each step rounded, unless these overflow."""
    first, last = np.float32(lowest), np.float32(highest)
    info = np.finfo(scale_type)
    largest, smallest = np.float32(info.max), np.float32(info.smallest_subnormal)
    bottom, top = max(min(row.min(), 0 * one), -largest), min(max(row.max(), 0 * one), largest)
    peak = max(-bottom, top)
    if symmetric:
        levels = np.float32((highest - lowest) // 2)
        scale, zero = rounded(peak / levels, scale_type), 0 * one if lowest < 0 else levels
    else:
        span = rounded(top - bottom, scale_type)
        shift = rounded(rounded(first * top, scale_type) - rounded(last * bottom, scale_type), scale_type)
        scale, zero = rounded(span / (last - first), scale_type), rounded(shift / span, scale_type)
        if not (np.isfinite(span) and np.isfinite(shift)):
            wide = np.float64(top) - np.float64(bottom)
            scale = rounded(np.float32(wide / (highest - lowest)), scale_type)
            zero = np.float32((lowest * np.float64(top) - highest * np.float64(bottom)) / wide)
        zero = np.float32(0) if np.isnan(zero) else np.clip(np.rint(zero), first, last)
    if peak == 0:
        return one, zero if symmetric else np.clip(0 * one, first, last)
    scale = max(scale, smallest)
    while not np.isfinite(rounded(scale * np.rint(peak / scale), scale_type)):
        scale = rounded(scale * np.float32(1 - 2.0**-11), scale_type)
    return scale, zero


def nearest_twin(row: Array, scale: Array, low: Array, high: Array, scale_type: Any) -> Array:
    """Of the level that division gives and its neighbour on the other side the nearer one."""
    ratio = row / scale
    level = np.clip(np.rint(ratio), low, high)
    other = np.clip(level + np.copysign(one, ratio - level), low, high)
    miss, other_miss = (np.abs(row - rounded(scale * at, scale_type)) for at in (level, other))
    return np.where(other_miss < miss, other, level)


def lanes(values: Array) -> Array:
    """The sum in eight lanes by position modulo 8, which are added in pairs four, two and one apart."""
    padded = np.append(values, np.zeros(-len(values) % 8, values.dtype)).reshape(-1, 8)
    total = reduce(np.add, padded, np.zeros(8, values.dtype))
    for apart in (4, 2, 1):
        total = total[:apart] + total[apart:]
    return total[0]


def search_twin(row: Array, plain: tuple[Array, Array], lowest: int, highest: int, symmetric: bool, scale_type: Any):
    scale, zero = plain
    first, last = np.float32(lowest), np.float32(highest)
    inverse, best = one / scale, (np.float32(np.inf), one, one, zero)
    value = row * inverse
    mean, gain = np.float32(0.1), np.float32(5) / lanes(value * value)

    def tried(factor: Array, zero: Array) -> tuple[Array, Array, Array, Array]:
        level = np.clip(np.rint(value * (one / factor)), first - zero, last - zero)
        left = value - factor * level
        error, cross, square = lanes(left * left), lanes(left * level), lanes(level * level)
        lost, along = error + factor * cross, cross + factor * square
        residual, levels = lanes(left), lanes(level)
        slope = cross + mean * (residual * levels) + gain * (lost * along)
        more = slope / (square + mean * (levels * levels) + gain * (along * along))
        start = error + mean * (residual * residual) + gain * (lost * lost)
        return start - slope * more, factor + more, factor, zero

    def better(factor: Array, zero: Array) -> tuple[Array, Array, Array, Array]:
        found = tried(np.float32(factor), zero)
        return found if found[0] < best[0] else best

    def cost(at: tuple[Array, Array]) -> Array:
        level = nearest_twin(row, at[0], first - at[1], last - at[1], scale_type)
        miss, exact = (part.astype(np.float64) for part in (row - rounded(at[0] * level, scale_type), row))
        along = np.float64(5) * lanes(miss * exact) ** 2 / lanes(exact * exact)
        return lanes(miss * miss) + np.float64(np.float32(0.1)) * lanes(miss) ** 2 + along

    for tenths in range(4, 12):
        best = better(tenths / 10, zero)
    coarse = best[2]
    for step in (-np.float32(0.05), np.float32(0.05)):
        best = better(coarse + step, zero)
    if symmetric:
        half = np.float32((highest - lowest) // 2)
        best = better(half / (half + np.float32(0.5)), zero)
    else:
        fine = best[2]
        for at in (max(zero - one, first), min(zero + one, last)):
            best = better(fine, at)
    best = better(best[1], best[3])
    found = rounded(scale * best[1], scale_type), best[3]
    return found if np.isfinite(found[0]) and found[0] > 0 and cost(found) < cost(plain) else plain


def quantize_twin(rows: Array, lowest: int, highest: int, symmetric: bool, search: bool, scale_type: Any):
    data, scales, zeros = [], [], []
    for row in rows.astype(np.float32):
        scale, zero = plain_twin(row, lowest, highest, symmetric, scale_type)
        if search and row.any():
            scale, zero = search_twin(row, (scale, zero), lowest, highest, symmetric, scale_type)
        narrower = symmetric and not search  # without the integer that has no opposite
        low, high = lowest + (narrower and lowest < 0), highest - (narrower and lowest >= 0)
        level = nearest_twin(row, scale, np.float32(low) - zero, np.float32(high) - zero, scale_type)
        data.append((level + zero).astype(np.int32).astype(np.uint8))
        scales.append(scale.astype(scale_type))
        zeros.append(zero.astype(np.int32).astype(np.uint8))
    return np.array(data), np.array(scales), np.array(zeros)


def drawn(kind: str, shape: tuple[int, int], seed: int) -> Array:
    rng = np.random.default_rng(seed)
    signs = rng.choice([-1.0, 1.0], shape)
    return {
        "bell": lambda: rng.standard_normal(shape) * 0.02,
        "wide": lambda: np.exp(rng.uniform(-17, 11, shape)) * signs,
        "few": lambda: rng.choice([-3.0, -0.0, 0.0, 0.25, 1.0], shape),
        "zeros": lambda: np.zeros(shape),
        "largest": lambda: rng.choice([65504.0, 40000.0, 1.0], shape) * signs,
        "positive": lambda: 1 + rng.random(shape),
        "tiny": lambda: rng.standard_normal(shape) * 1e-6,
        "below float16": lambda: rng.standard_normal(shape) * 1e-30,
    }[kind]()


KINDS = ("bell", "wide", "few", "zeros", "largest", "positive", "tiny", "below float16")


@pytest.mark.parametrize("search", [False, True])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("dtype", RANGES)
def test_integers_scales_and_zero_points(dtype, symmetric, search) -> None:
    @settings(max_examples=40, deadline=None)
    @given(
        st.sampled_from(KINDS), st.integers(1, 5), st.integers(1, 70), st.sampled_from(FLOATS), st.sampled_from(FLOATS),
        st.booleans(), st.integers(0, 2**32 - 1),
    )  # fmt: skip
    def check(kind: str, count: int, size: int, row_type: Any, scale_type: Any, before: bool, seed: int) -> None:
        rows = drawn(kind, (count, size), seed).astype(row_type)
        plan = {"symmetric": symmetric, "search": search, "scale_type": np.dtype(scale_type)}
        found = quantize_rows(guarded(rows, before=before), *RANGES[dtype], **plan)
        assert found is not None
        with np.errstate(all="ignore"):
            expected = quantize_twin(rows, *RANGES[dtype], symmetric, search, scale_type)
        for name, mine, theirs in zip(("data", "scales", "zeros"), found, expected, strict=True):
            np.testing.assert_array_equal(mine, theirs, name)

    check()


@pytest.mark.parametrize("size", [512, 4095, 4096, 4097, 9000])
@pytest.mark.parametrize("search", [False, True])
@pytest.mark.parametrize("row_type", FLOATS)
def test_rows_of_many_pieces(size, search, row_type) -> None:
    rows = drawn("bell", (2, size), size).astype(row_type)
    plan = {"symmetric": False, "search": search, "scale_type": np.dtype(np.float16)}
    found = quantize_rows(guarded(rows), 0, 255, **plan)
    assert found is not None
    for mine, theirs in zip(found, quantize_twin(rows, 0, 255, False, search, np.float16), strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan, -np.nan])
@pytest.mark.parametrize("row_type", FLOATS)
def test_what_is_no_number_is_refused(bad, row_type) -> None:
    for size, where in ((7, 6), (32, 0), (5000, 4999)):
        rows = np.ones((3, size), row_type)
        rows[1, where] = bad
        for search in (False, True):
            plan = {"symmetric": True, "search": search, "scale_type": np.dtype(np.float16)}
            assert quantize_rows(guarded(rows), -8, 7, **plan) is None


@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (0, 0)])
def test_nothing_becomes_nothing(shape) -> None:
    rows = np.empty(shape, np.float16)
    found = quantize_rows(rows, -8, 7, symmetric=True, search=False, scale_type=np.dtype(np.float16))
    assert found is not None and found[0].shape == shape and found[1].shape == shape[:1]
    assert shift_scale_rows(rows, np.ones(shape[0], np.float32), np.ones(shape[0], np.float32)).shape == shape


@settings(deadline=None, max_examples=200)
@given(
    st.integers(1, 4), st.integers(1, 70), st.sampled_from(["i1", "u1", "f2", "f4"]), st.sampled_from(FLOATS),
    st.booleans(), st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_scaled_and_shifted(count, size, data_type, scale_type, before, seed) -> None:
    rng = np.random.default_rng(seed)
    data = rng.integers(0, 256, count * size * np.dtype(data_type).itemsize, np.uint8).view(data_type)
    data = data.reshape(count, size)  # of floats any bits, infinities and NaN included
    scale, offset = (rng.normal(0, 10.0 ** rng.integers(-6, 5), count).astype(scale_type) for _ in range(2))
    with np.errstate(all="ignore"):
        dense = shift_scale_rows(guarded(data, before=before), guarded(scale), guarded(offset))
        expected = scale[:, None] * (data.astype(scale_type) - offset[:, None])
    assert dense.dtype == scale_type
    np.testing.assert_array_equal(dense, expected)


def test_strides_are_copied() -> None:
    data, scale = np.arange(48, dtype=np.int8).reshape(6, 8), np.arange(12, dtype=np.float16)
    dense = shift_scale_rows(data[::2, ::3], scale[::4], scale[1::4])
    np.testing.assert_array_equal(dense, scale[::4, None] * (data[::2, ::3] - scale[1::4, None]))


def test_other_types_are_refused() -> None:
    with pytest.raises(ValueError, match="a kernel takes float16 or float32, not float64"):
        quantize_rows(np.ones((2, 2)), -8, 7, symmetric=True, search=False, scale_type=np.dtype(np.float16))
    with pytest.raises(ValueError, match="shape"):
        shift_scale_rows(np.ones((2, 2), np.int8), np.ones(3, np.float16), np.ones(3, np.float16))
