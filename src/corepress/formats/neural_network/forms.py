"""The values that a network can hold in place of a dense weight: a table of up to 256 entries, or even steps.

A table is a `Palettized` as in ML programs. Even steps are not a `Quantized`: their arithmetic is another.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from corepress.weights import Palettized

Floats = NDArray[np.float32]
Indices = NDArray[np.uint8]


def tabled(indices: Indices, lut: Floats) -> Palettized:
    """One table for the whole weight. `indices`: uint8, of the weight's shape; `lut`: float32 (2**bits,)."""
    return Palettized(indices, lut.reshape(*(1 for _ in indices.shape), -1, 1))


@dataclass(frozen=True, eq=False)
class Linear:
    """`scale * indices + bias`. `scale` and `bias`: float32, of one element or one for each channel along `axis`."""

    indices: Indices
    scale: Floats
    bias: Floats
    bits: int
    axis: int | None

    def decompress(self) -> Floats:
        # In float64, rounded once, as coremltools does: with so few levels, that is a table for each channel.
        levels = np.arange(2**self.bits, dtype=np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            luts = (self.scale.astype(np.float64)[:, None] * levels + self.bias[:, None]).astype(np.float32)
        counts = channel_counts(self.indices.shape, self.axis if self.scale.size > 1 else None)
        return Palettized(self.indices, luts.reshape(*counts, -1, 1)).decompress()


def channel_counts(shape: tuple[int, ...], axis: int | None) -> list[int]:
    """Blocks on each axis: a channel each along `axis`, or one for all."""
    return [size if i == axis else 1 for i, size in enumerate(shape)]
