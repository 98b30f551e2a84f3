"""The kernels of pruning beside NumPy's sorting and comparing, each array against a page that can't be touched."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corepress.kernels.magnitude import above, count_magnitudes, keep_largest
from tests.kernels.guarded import guarded

SEEDS = st.integers(0, 2**32 - 1)


def any_bits(count: int, size: int, seed: int) -> np.ndarray:
    """Any numbers of so many bytes: infinities, NaN and zeros of both signs included."""
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 256, count * size).astype(np.uint8).view(f"u{size}")
    every = np.iinfo(bits.dtype).max
    return bits & rng.choice(np.array([0, every // 2 + 1, every], bits.dtype), count)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 5000), st.booleans(), SEEDS)
def test_magnitudes_counted(count, before, seed) -> None:
    bits = any_bits(count, 2, seed)
    expected = np.bincount(bits & 0x7FFF, minlength=1 << 15)
    np.testing.assert_array_equal(count_magnitudes(guarded(bits, before=before)), expected)


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 200), st.sampled_from([1, 2, 4, 8]), st.booleans(), SEEDS)
def test_magnitudes_above_a_limit(count, size, before, seed) -> None:
    bits = any_bits(count, size, seed)
    magnitudes = bits & bits.dtype.type(np.iinfo(bits.dtype).max >> 1)
    limits = {0, np.iinfo(bits.dtype).max >> 1, *(int(magnitude) for magnitude in magnitudes[:3])}
    for limit in limits:
        mask, largest = above(guarded(bits, before=before), limit)
        np.testing.assert_array_equal(mask, magnitudes > limit)
        assert largest == magnitudes.max(initial=0)


@settings(deadline=None, max_examples=200)
@given(
    st.integers(1, 12), st.integers(0, 40) | st.integers(1020, 1030), st.sampled_from([2, 4, 8]), st.booleans(),
    st.booleans(), SEEDS,
)  # fmt: skip
def test_the_largest_of_each_column(members, columns, size, ties, before, seed) -> None:
    rng = np.random.default_rng(seed)
    keys = rng.integers(0, 4 if ties else 60000, (members, columns)).astype(f"u{size}")
    drop = int(rng.integers(0, members + 1))
    expected = keys > 0
    order = np.argsort(keys, axis=0, kind="stable")
    np.put_along_axis(expected, order[:drop], False, axis=0)
    np.testing.assert_array_equal(keep_largest(guarded(keys, before=before), drop), expected)


def test_more_members_than_a_byte_counts() -> None:
    keys = np.arange(1, 601, dtype=np.uint16).reshape(300, 2)[::-1].copy()
    np.testing.assert_array_equal(keep_largest(keys, 299).sum(axis=0), [1, 1])


def test_what_is_not_bits_is_refused() -> None:
    with pytest.raises(ValueError, match="uint16, not float16"):
        count_magnitudes(np.ones(3, np.float16))
    with pytest.raises(ValueError, match="not int16"):
        above(np.ones(3, np.int16), 0)
    with pytest.raises(ValueError, match="not uint8"):
        keep_largest(np.ones((2, 2), np.uint8), 1)
    with pytest.raises(ValueError, match="contiguous"):
        above(np.ones((4, 4), np.uint16)[:, ::2], 0)
