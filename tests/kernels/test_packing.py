"""The kernels of packing beside a bit-by-bit reading of the format, each array against a page that can't be touched."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corepress.kernels.packing import keep, pack, unpack
from tests.kernels.guarded import guarded


def packed_twin(values: np.ndarray, bits: int) -> np.ndarray:
    """All bits as one number: value i begins at bit i * bits, and bit 0 is the lowest of the first byte."""
    bit = (values[:, None] >> np.arange(bits, dtype=np.uint8)) & 1
    return np.packbits(bit.reshape(-1).astype(np.uint8), bitorder="little")


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("bits", range(1, 9))
def test_packed_and_back(bits, before) -> None:
    @settings(max_examples=30, deadline=None)
    @given(st.integers(0, 70) | st.integers(1000, 1100), st.integers(0, 2**32 - 1))
    def check(count: int, seed: int) -> None:
        values = np.random.default_rng(seed).integers(0, 256, count).astype(np.uint8)  # higher bits are left out
        packed = pack(guarded(values, before=before), bits)
        np.testing.assert_array_equal(packed, packed_twin(values, bits))
        restored = unpack(guarded(packed, before=before), bits, count)
        np.testing.assert_array_equal(restored, values & np.uint8((1 << bits) - 1))

    check()


@settings(deadline=None)
@given(st.integers(0, 200), st.sampled_from(["u1", "f2", "f4", "f8"]), st.integers(0, 2**32 - 1))
def test_values_under_a_mask(count, dtype, seed) -> None:
    rng = np.random.default_rng(seed)
    values, mask = rng.integers(0, 100, count).astype(dtype), rng.random(count) < rng.random()
    np.testing.assert_array_equal(keep(guarded(values), guarded(mask)), values[mask])


def test_any_byte_but_zero_keeps_a_value() -> None:
    values, mask = np.arange(64, dtype=np.float32), np.random.default_rng(0).integers(0, 256, 64).astype(np.uint8) & 192
    np.testing.assert_array_equal(keep(guarded(values), guarded(mask).view(np.bool_)), values[mask != 0])


def test_what_a_kernel_would_read_beyond_is_refused() -> None:
    values = np.zeros(8, np.uint8)
    with pytest.raises(ValueError, match="can't hold 17 integers of 4 bits"):
        unpack(values, 4, 17)
    with pytest.raises(ValueError, match="1 to 8 bits"):
        pack(values, 9)
    with pytest.raises(ValueError, match="contiguous"):
        pack(values[::2], 4)
    with pytest.raises(ValueError, match="a kernel takes uint8, not int8"):
        pack(values.view(np.int8), 4)
    with pytest.raises(ValueError, match="shape"):
        keep(values, np.zeros(7, np.bool_))
    with pytest.raises(ValueError, match="values of 3 bytes"):
        keep(np.zeros(4, "S3"), np.zeros(4, np.bool_))
