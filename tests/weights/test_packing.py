"""Packing of 1 to 8 bits against a bit-by-bit reading of the format, and against coremltools."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corepress.errors import FormatError
from corepress.weights import pack_bits, packed_size, unpack_bits, worded_bits

BITS = (1, 2, 3, 4, 6, 8)


def packed_slowly(values: np.ndarray, bits: int) -> bytes:
    """All bits as one number: value i begins at bit i * bits, and bit 0 is the lowest of the first byte."""
    number = sum((int(value) & ((1 << bits) - 1)) << (i * bits) for i, value in enumerate(values))
    return number.to_bytes((len(values) * bits + 7) // 8, "little")


def all_values(bits: int, signed: bool) -> tuple[int, int]:
    return (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", BITS)
def test_every_short_length_round_trips(bits, signed) -> None:
    @settings(max_examples=10, deadline=None)
    @given(st.data())
    def check(data: st.DataObject) -> None:
        low, high = all_values(bits, signed)
        for count in range(41):
            drawn = data.draw(st.binary(min_size=count, max_size=count))
            values = np.array([low + byte % (high - low + 1) for byte in drawn], np.int8 if signed else np.uint8)
            packed = pack_bits(values, bits)
            assert packed.size == packed_size(count, bits)
            assert packed.tobytes() == packed_slowly(values, bits)
            restored = unpack_bits(packed, bits, count, signed=signed)
            assert restored.dtype == values.dtype
            np.testing.assert_array_equal(restored, values)

    check()


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", BITS)
def test_the_bytes_are_those_of_coremltools(bits, signed) -> None:
    utilities = pytest.importorskip("coremltools.optimize._utils")
    low, high = all_values(bits, signed)
    for count in (1, 7, 40, 1001):
        values = np.random.default_rng(count).integers(low, high + 1, count).astype(np.int8 if signed else np.uint8)
        packed = pack_bits(values, bits)
        np.testing.assert_array_equal(packed, utilities.pack_elements_into_bits(values, bits))
        theirs = utilities.restore_elements_from_packed_bits(packed, bits, count, signed)
        np.testing.assert_array_equal(unpack_bits(packed, bits, count, signed=signed), theirs)


def test_any_shape_layout_and_type() -> None:
    values = np.arange(24, dtype=np.uint8).reshape(4, 6) % 16
    flat = pack_bits(values.reshape(-1), 4)
    np.testing.assert_array_equal(pack_bits(values, 4), flat)
    np.testing.assert_array_equal(pack_bits(np.asfortranarray(values), 4), flat)
    mask = values % 3 == 0
    np.testing.assert_array_equal(unpack_bits(pack_bits(mask, 1), 1, 24).reshape(4, 6), mask)
    frozen = flat.copy()
    frozen.flags.writeable = False
    for bits in BITS:
        restored = unpack_bits(frozen, bits, 12 * 8 // bits, signed=True)
        assert restored.flags.writeable and not np.shares_memory(restored, frozen)


@pytest.mark.parametrize("bits", BITS)
def test_too_few_bytes_are_refused(bits) -> None:
    with pytest.raises(FormatError, match="can't hold"):
        unpack_bits(np.zeros(packed_size(100, bits) - 1, np.uint8), bits, 100)


@given(st.integers(0, 200), st.sampled_from(["u1", "i1", "f2", "f4"]), st.integers(0, 2**32 - 1))
def test_kept_values_are_what_numpy_selects(size, dtype, seed) -> None:
    from corepress.weights import kept_values

    rng = np.random.default_rng(seed)
    values, mask = rng.integers(0, 100, size).astype(dtype), rng.random(size) < rng.random()
    kept = kept_values(values, mask)
    assert kept.dtype == values.dtype and (kept == values[mask]).all() and kept.size == mask.sum()


def test_one_bit_is_no_plural() -> None:
    assert [worded_bits(bits) for bits in (1, 2, 8)] == ["1 bit", "2 bits", "8 bits"]
