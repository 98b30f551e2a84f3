"""Integers of 1 to 8 bits as neural networks pack them: the most significant bits of a byte come first."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from corepress.weights.packing import pack_bits, unpack_bits

_REVERSED = np.packbits(np.unpackbits(np.arange(256, dtype=np.uint8)).reshape(-1, 8), axis=1, bitorder="little")[:, 0]

# Read backwards, bit by bit, such a byte is one that MIL packs (`weights.packing`), of integers read backwards.


def pack_first_high(values: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    """Pack uint8 integers of any shape, each below 2**bits; unused low bits of the last byte are 0."""
    if bits == 8:
        return np.ascontiguousarray(values).reshape(-1).view(np.uint8)
    return _REVERSED[pack_bits((_REVERSED >> (8 - bits))[values], bits)]


def unpack_first_high(packed: NDArray[np.uint8], bits: int, count: int) -> NDArray[np.uint8]:
    """The inverse of `pack_first_high`: uint8 (count,). Raises FormatError if `packed` can't hold that many."""
    if bits == 8:
        return unpack_bits(packed, bits, count)
    values: NDArray[np.uint8] = (_REVERSED >> (8 - bits))[unpack_bits(_REVERSED[packed], bits, count)]
    return values
