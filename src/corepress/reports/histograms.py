"""How the values of weights are spread, and the values that a compressed weight can have: its table or its grid."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corepress.errors import CorepressError
from corepress.weights import CompressedWeight, Palettized, Quantized, Sparse, decompress

BINS = 80
# Of a larger weight every n-th value is counted.
_COUNTED = 1 << 20


@dataclass(frozen=True)
class Histogram:
    """`edges`: BINS + 1 of them; `shares`: of the values in each bin, in %; `marks`: the values that the compressed
    weight can have, or those of its first group; `words`: what the marks are."""

    edges: tuple[float, ...]
    shares: tuple[float, ...]
    marks: tuple[float, ...]
    words: str


def histogram(before: Any, after: Any) -> Histogram | None:
    """That of a weight before and after; None where it has no two finite values, or can't be read."""
    try:
        values = before.dense()
        marks, words = _marks(after.read()) if hasattr(after, "read") else _distinct(after.dense())
    except CorepressError:
        return None
    flat = values.reshape(-1)
    flat = flat[:: max(1, flat.size // _COUNTED)].astype(np.float32)
    flat = flat[np.isfinite(flat)]
    if flat.size < 2 or flat.min() == flat.max():
        return None
    counts, edges = np.histogram(flat, BINS)
    shares = counts * (100 / flat.size)
    return Histogram(tuple(_short(edges)), tuple(_short(shares)), tuple(_short(marks)), words)


def _distinct(values: NDArray[Any]) -> tuple[NDArray[Any], str]:
    """The same of a weight of a neural network, which has only its numbers: those of a table are few."""
    found = np.unique(values)
    return (found, f"the {len(found)} values that it has") if len(found) <= 256 else (np.zeros(0), "")


def _marks(stored: CompressedWeight | NDArray[Any]) -> tuple[NDArray[Any], str]:
    """The values that a stored weight can have, and what they are in words."""
    if isinstance(stored, Sparse):
        marks, words = _marks(stored.values)
        zeros = 100 * (1 - np.count_nonzero(stored.mask) / max(stored.mask.size, 1))
        also = f"{zeros:.0f} % of the values became zero, which takes one bit of a mask each"
        return np.append(marks, 0), f"{words}; {also}" if words else also
    if isinstance(stored, Palettized):
        table, groups = _first(decompress(stored.lut)), int(np.prod(stored.lut.shape[:-2]))
        entries = f"the {len(table)} entries of its look-up table"
        if stored.cluster_dim > 1:
            entries += f", which are vectors of {stored.cluster_dim}"
        return np.unique(table), entries + _of_groups(groups, "tables")
    if isinstance(stored, Quantized):
        scale = float(stored.scale.reshape(-1)[0])
        offset = 0.0 if stored.offset is None else float(stored.offset.reshape(-1)[0])
        grid, what = _grid(stored)
        return (grid - offset) * scale, what + _of_groups(int(stored.scale.size), "scales")
    return np.zeros(0), ""


def _grid(stored: Quantized) -> tuple[NDArray[Any], str]:
    if isinstance(stored.data, Palettized):
        table = _first(decompress(stored.data.lut)).astype(np.float64)
        return np.unique(table), f"the {len(table)} entries of its look-up table, scaled"
    low = 0 if stored.data.dtype.kind == "u" else -(1 << (stored.bits - 1))
    return np.arange(low, low + (1 << stored.bits), dtype=np.float64), f"the {1 << stored.bits} steps of its grid"


def _first(table: NDArray[Any]) -> NDArray[Any]:
    """The entries of the first of several look-up tables."""
    first: NDArray[Any] = table.reshape(-1, *table.shape[-2:])[0]
    return first


def _of_groups(count: int, what: str) -> str:
    return f", the first of {count:,} {what}" if count > 1 else ""


def _short(numbers: NDArray[Any]) -> Iterator[float]:
    """Numbers with the few digits that a chart can show."""
    return (float(f"{number:.5g}") for number in np.asarray(numbers, np.float64).reshape(-1) if np.isfinite(number))
