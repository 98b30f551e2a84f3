from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corepress.errors import FormatError
from corepress.formats.neural_network.packing import pack_first_high, unpack_first_high


@settings(deadline=None)
@given(st.data(), st.integers(1, 8))
def test_most_significant_bits_first(data: st.DataObject, bits: int) -> None:
    values = data.draw(st.lists(st.integers(0, 2**bits - 1), max_size=70))
    packed = pack_first_high(np.array(values, np.uint8), bits)
    stream = "".join(f"{value:0{bits}b}" for value in values)
    stream += "0" * (-len(stream) % 8)
    assert bytes(packed) == bytes(int(stream[i : i + 8], 2) for i in range(0, len(stream), 8))
    assert unpack_first_high(packed, bits, len(values)).tolist() == values


def test_an_example() -> None:
    assert pack_first_high(np.array([1, 2, 3], np.uint8), 4).tolist() == [0x12, 0x30]
    assert pack_first_high(np.array([5, 6, 1], np.uint8), 3).tolist() == [0b10111000, 0b10000000]


@pytest.mark.parametrize("bits", range(1, 9))
def test_too_short(bits: int) -> None:
    with pytest.raises(FormatError, match="can't hold"):
        unpack_first_high(np.zeros(bits, np.uint8), bits, 9)
