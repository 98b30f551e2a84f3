"""float16 inside numba, which has no such type on a CPU: its bits as uint16, widened to float32 and rounded back.

Only integer and float32 arithmetic, so it is the same on every machine, vectorises, and needs no F16C instructions
(without them LLVM would call a routine that the JIT cannot find). Kernels take `array.view(np.uint16)`.
"""

from __future__ import annotations

from typing import Any

import numba
import numba.extending
import numpy as np

import corepress.weights.cache  # noqa: F401  (before anything is compiled)

_EXPONENT_SHIFT = 112  # float32's exponent bias less float16's


@numba.njit(nogil=True, cache=True)
def widen(half: np.uint16) -> np.float32:
    """The float32 of the same value; exact, subnormal and infinite values included."""
    magnitude = np.uint32(half & np.uint16(0x7FFF))
    bits = np.uint32(np.uint32(magnitude << np.uint32(13)) + np.uint32(_EXPONENT_SHIFT << 23))
    if magnitude >= np.uint32(0x7C00):
        bits = np.uint32(bits + np.uint32(_EXPONENT_SHIFT << 23))
    if magnitude < np.uint32(0x0400):
        bits = np.float32(np.float32(np.int32(magnitude)) * np.float32(2.0**-24)).view(np.uint32)
    sign = np.uint32(np.uint32(half & np.uint16(0x8000)) << np.uint32(16))
    return np.uint32(bits | sign).view(np.float32)


@numba.njit(nogil=True, cache=True)
def _round_magnitude(magnitude: np.float32) -> np.float32:
    # Adding 2**13 times the power of two below pushes out the bits that float16 lacks, to the nearest, ties to even.
    exponent = np.uint32(np.float32(magnitude).view(np.uint32) & np.uint32(0x7F800000))
    exponent = max(exponent, np.uint32((_EXPONENT_SHIFT + 1) << 23))
    push = np.uint32(exponent + np.uint32(13 << 23)).view(np.float32)
    rounded = (magnitude + push) - push
    return np.float32(np.inf) if magnitude >= np.float32(65520.0) else rounded


@numba.njit(nogil=True, cache=True)
def round_to_half(value: np.float32) -> np.float32:
    """The nearest float16, ties to even, still as float32; infinity from 65,520 on."""
    rounded: np.float32 = np.copysign(_round_magnitude(abs(value)), value)
    return rounded


@numba.njit(nogil=True, cache=True)
def narrow(value: np.float32) -> np.uint16:
    """The bits of the nearest float16, ties to even."""
    rounded = _round_magnitude(abs(value))
    bits = np.float32(rounded).view(np.uint32)
    half = np.uint32(np.uint32(bits - np.uint32(_EXPONENT_SHIFT << 23)) >> np.uint32(13))
    if rounded < np.float32(2.0**-14):
        half = np.uint32(np.int32(rounded * np.float32(2.0**24)))
    if rounded > np.float32(65504.0):
        half = np.uint32(0x7C00)
    if value != value:
        half = np.uint32(0x7E00)
    sign = np.uint32(np.uint32(np.float32(value).view(np.uint32) >> np.uint32(16)) & np.uint32(0x8000))
    return np.uint16(half | sign)


def single(stored: Any) -> Any:
    """In a kernel: a stored number as float32, whether half bits, an integer or a float32."""
    raise NotImplementedError("only inside numba")


def stored(value: Any, like: Any) -> Any:
    """In a kernel: a float32 in the type of `like`: half bits, or float32 as it is."""
    raise NotImplementedError("only inside numba")


def rounded(value: Any, like: Any) -> Any:
    """In a kernel: a float32 rounded to what the type of `like` can hold."""
    raise NotImplementedError("only inside numba")


def limits(like: Any) -> Any:
    """In a kernel: the smallest and the largest positive value that the type of `like` can hold."""
    raise NotImplementedError("only inside numba")


@numba.extending.overload(single)
def _single(stored: Any) -> Any:
    def from_half(stored: Any) -> Any:
        return widen(stored)

    def from_other(stored: Any) -> Any:
        return np.float32(stored)

    return from_half if stored == numba.types.uint16 else from_other


@numba.extending.overload(stored)
def _stored(value: Any, like: Any) -> Any:
    def to_half(value: Any, like: Any) -> Any:
        return narrow(value)

    def to_single(value: Any, like: Any) -> Any:
        return value

    return to_half if like == numba.types.uint16 else to_single


@numba.extending.overload(rounded)
def _rounded(value: Any, like: Any) -> Any:
    def to_half(value: Any, like: Any) -> Any:
        return round_to_half(value)

    def to_single(value: Any, like: Any) -> Any:
        return value

    return to_half if like == numba.types.uint16 else to_single


@numba.extending.overload(limits)
def _limits(like: Any) -> Any:
    def of_half(like: Any) -> Any:
        return np.float32(2.0**-24), np.float32(65504.0)

    def of_single(like: Any) -> Any:
        return np.float32(2.0**-149), np.float32(3.4028234663852886e38)

    return of_half if like == numba.types.uint16 else of_single
