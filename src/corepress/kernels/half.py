"""float16 and float32, converted as the other kernels do it: by arithmetic that is the same on every machine."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from corepress.kernels.library import Int, Pointer, kernel, pointer

_widen = kernel("widen", Pointer, Int, Pointer)
_narrow = kernel("narrow", Pointer, Int, Pointer)
_round_to_half = kernel("round_to_half", Pointer, Int, Pointer)


def widen(halves: NDArray[np.float16]) -> NDArray[np.float32]:
    """float32 of the same values; exact."""
    values = np.empty(halves.shape, np.float32)
    _widen(pointer(halves, np.float16), halves.size, pointer(values, out=True))
    return values


def narrow(values: NDArray[np.float32]) -> NDArray[np.float16]:
    """The nearest float16, ties to even."""
    halves = np.empty(values.shape, np.float16)
    _narrow(pointer(values, np.float32), values.size, pointer(halves, out=True))
    return halves


def round_to_half(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """The nearest float16, ties to even, still as float32."""
    rounded = np.empty_like(values)
    _round_to_half(pointer(values, np.float32), values.size, pointer(rounded, out=True))
    return rounded
