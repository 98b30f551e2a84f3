"""Products with weights that stay packed, and their rows made dense. See `c/products.c`."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from corepress.kernels.library import Int, Pointer, kernel, pointer, type_of

Array = NDArray[Any]
Floats = NDArray[np.float32]

PIECE = 128  # codes of a row come in pieces of so many
BITS = (1, 2, 3, 4, 6, 8)
_TILE = 12 * (1024 + 16)  # numbers of the largest tile
# Tokens that are taken together, and those that are left over and multiplied by fours in the same time.
_TOGETHER, _FEW = 16, 12

_multiply = kernel("multiply", *[Pointer] * 3, Int, Int, Pointer, Int, Int, Pointer)
_bring_together = kernel("bring_together", Pointer, Int, Int, Int, Pointer)
_spread = kernel("spread", Pointer, Int, Int, Pointer, Pointer)


class Described(NamedTuple):
    """A packed weight, as the kernels are told of it: `fields` of addresses and sizes; `arrays` are what lies there."""

    fields: NDArray[np.int64]
    arrays: tuple[Array, ...]
    rows: int
    padded: int


def describe(columns: int, bits: int, codes: Array, tables: Floats, scales: Array, offsets: Array) -> Described:
    """The weight scale * (table[code] - offset), (rows, columns).

    `codes`: (rows, bytes), in pieces of 128; within one, the codes 0, 16, 32 ... to 112 come first, then 1, 17 ...
    `tables`: (groups, 2^bits), or none, where the codes are int8 numbers; `bits` is 8 then. `scales`, `offsets`:
    (groups, blocks), of float16, float32 or (offsets) integers of up to 16 bits, or none. Groups are of equally many
    rows each, or the first of them of more, and blocks of equally many columns.
    """
    rows, padded = len(codes), -(-columns // PIECE) * PIECE
    groups, blocks = scales.shape if scales.size else (1, 1)
    if bits not in BITS or codes.shape[1] * codes.itemsize * 8 != padded * bits:
        raise ValueError(f"codes of {bits} bits for {columns} columns don't fill {codes.shape[1]} bytes in a row")
    if (tables.size and tables.shape[1] != 1 << bits) or not (tables.size or bits == 8):
        raise ValueError(f"codes of {bits} bits have no tables of shape {tables.shape}")
    if columns < 1 or columns % blocks or (offsets.size and offsets.shape != scales.shape):
        raise ValueError(f"{columns} columns are no {blocks} blocks, or offsets ({offsets.shape}) are no scales' ones")
    fields = (
        pointer(codes, np.int8, np.uint8), pointer(tables, np.float32), pointer(scales), pointer(offsets),
        bits if tables.size else 0, rows, columns, padded, len(tables), groups, blocks, type_of(scales),
        type_of(offsets),
    )  # fmt: skip
    return Described(np.array(fields, np.int64), (codes, tables, scales, offsets), rows, padded)


def together(x: Floats) -> Floats | None:
    """What `multiply` takes many tokens from: (n, padded) -> (groups, padded, 16 tokens); None if they are few."""
    tokens, padded = x.shape
    groups = (tokens + _TOGETHER - _FEW - 1) // _TOGETHER
    if not groups:
        return None
    found = np.empty((groups, padded, _TOGETHER), np.float32)
    _bring_together(pointer(x, np.float32), tokens, padded, groups, pointer(found, out=True))
    return found


def multiply(weight: Described, x: Floats, many: Floats | None, y: Floats, first: int, last: int) -> None:
    """The products of rows `first` to `last` with `x`: (tokens, padded), zero beyond the columns of the weight.

    `many`: `together(x)`. `y`: (tokens, rows), written.
    """
    _check_rows(weight, first, last)
    tokens, groups = len(x), 0 if many is None else len(many)
    room = np.empty(4 * weight.padded + _TILE, np.float32)
    _multiply(
        pointer(weight.fields), pointer(x, np.float32, shape=(tokens, weight.padded)),
        None if many is None else pointer(many, np.float32, shape=(groups, weight.padded, _TOGETHER)), groups, tokens,
        pointer(y, np.float32, shape=(tokens, weight.rows), out=True), first, last,
        pointer(room),
    )  # fmt: skip


def spread(weight: Described, dense: Floats, first: int, last: int) -> None:
    """The rows `first` to `last`, to `dense`: (last - first, padded)."""
    _check_rows(weight, first, last)
    room = np.empty(4 * weight.padded + _TILE, np.float32)
    place = pointer(dense, np.float32, shape=(last - first, weight.padded), out=True)
    _spread(pointer(weight.fields), first, last, place, pointer(room))


def _check_rows(weight: Described, first: int, last: int) -> None:
    if not 0 <= first <= last <= weight.rows:
        raise ValueError(f"there are no rows from {first} to {last} of {weight.rows}")
