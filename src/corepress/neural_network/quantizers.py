"""Dense weight in, indices and tables out: the ways in which a neural network can store a weight in 1 to 8 bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corepress.algorithms.kmeans1d import quantize_values
from corepress.errors import ConfigError, DataError
from corepress.formats.neural_network.forms import Floats, Indices, Linear, channel_counts, tabled
from corepress.weights import Palettized
from corepress.weights.blocks import from_rows, to_rows

Array = NDArray[Any]
LutFunction = Callable[[int, Floats], tuple[Any, Any]]


def linear(weight: Floats, bits: int, axis: int | None) -> Linear:
    """2**bits even steps from the least to the greatest value, of each channel along `axis` or of the whole weight.

    `weight`: float32, finite. The error is at most half a step. Raises CorepressError for a range beyond float32.
    """
    counts = channel_counts(weight.shape, axis)
    rows = to_rows(weight, counts)
    low, high = rows.min(axis=1), rows.max(axis=1)
    with np.errstate(over="ignore"):
        scale = _within_range((high - low) / np.float32(2**bits - 1))
    return Linear(_levels(rows, scale, low, 0, bits, weight.shape, counts), scale, low, bits, axis)


def linear_symmetric(weight: Floats, bits: int, axis: int | None) -> Linear:
    """As `linear`, from -max|w| to max|w| in 2**bits - 2 steps, so that one of the levels is 0 exactly."""
    counts = channel_counts(weight.shape, axis)
    rows = to_rows(weight, counts)
    zero = 2 ** (bits - 1)
    peak = np.maximum(rows.max(axis=1), -rows.min(axis=1))
    scale = peak / np.float32(zero - 1)
    with np.errstate(over="ignore"):
        bias = _within_range(scale * np.float32(-zero))
    indices = _levels(rows, scale, np.zeros_like(scale), zero, bits, weight.shape, counts)
    return Linear(indices, scale, bias, bits, axis)


def linear_lut(weight: Floats, bits: int) -> Palettized:
    """One table of 2**bits even steps from the least to the greatest value of the weight."""
    even = linear(weight, bits, None)
    lut = even.scale.astype(np.float64) * np.arange(2**bits) + even.bias
    return tabled(even.indices, lut.astype(np.float32))


def kmeans(weight: Floats, bits: int) -> Palettized:
    """The table of the least squared error: exact, see `algorithms.kmeans1d`. Zeros follow the last entry in use."""
    lut, indices = quantize_values(weight, 2**bits)
    return tabled(indices, lut)


def custom_lut(weight: Floats, bits: int, lut_function: LutFunction) -> Palettized:
    """What `lut_function(bits, weight)` gives: 2**bits numbers, and the index of each element in C order.

    Raises ConfigError for anything else.
    """
    try:
        table, chosen = lut_function(bits, weight.copy())
        with np.errstate(over="ignore"):
            lut = np.asarray(table, np.float64).reshape(-1).astype(np.float32)
        indices = np.asarray(chosen)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"lut_function did not give a table of numbers and indices: {error}") from error
    if lut.size != 2**bits or not np.isfinite(lut).all():
        raise ConfigError(f"lut_function must give {2**bits} finite numbers for {bits} bits, but gave {lut.size}")
    if indices.size != weight.size:
        raise ConfigError(f"lut_function gave {indices.size} indices for {weight.size} values")
    whole = (indices == np.floor(indices)).all() if indices.dtype.kind == "f" else indices.dtype.kind in "iu"
    if not whole or indices.min() < 0 or indices.max() >= lut.size:
        raise ConfigError(f"lut_function gave indices that are not integers from 0 to {lut.size - 1}")
    return tabled(indices.reshape(weight.shape).astype(np.uint8), lut)


def _within_range(values: Floats) -> Floats:
    if not np.isfinite(values).all():
        raise DataError("its values are too far apart for float32")
    return values


def _levels(
    rows: Floats, scale: Floats, origin: Floats, zero: int, bits: int, shape: tuple[int, ...], counts: list[int]
) -> Indices:
    """`(rows - origin) / scale + zero`, rounded, in the weight's shape; a scale of 0 leaves `zero`."""
    step = np.where(scale > 0, scale, np.inf).astype(np.float32)[:, None]
    with np.errstate(over="ignore"):
        ratio = rows - origin[:, None]
    ratio /= step
    np.rint(ratio, out=ratio)
    ratio += np.float32(zero)
    np.clip(ratio, 0, 2**bits - 1, out=ratio)
    return from_rows(ratio.astype(np.uint8), shape, counts)
