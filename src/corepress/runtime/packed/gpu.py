"""Products with packed weights on a GPU, in Triton.

Compiled for sm_75, sm_80 and sm_90, and run in Triton's interpreter; not yet run on a real GPU.

A few activations are multiplied with codes as these are unpacked. For more of them, rows of the weight are spread into
a dense tile, which PyTorch multiplies.
"""

# mypy: allow-untyped-decorators, allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls

from __future__ import annotations

from math import gcd
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from corepress.runtime.packed.stored import LANES, Stored

# What to read the codes as, so that a unit is one number; or three, of 3 and 6 bits.
_NUMBERS = {1: torch.uint8, 2: torch.uint16, 3: torch.uint8, 4: torch.int32, 6: torch.uint16}
# Activations for which unpacking anew costs less than writing a dense tile.
_FEW = 8
# Numbers that are dense at any one time, while a larger batch is multiplied.
_TILE = 1 << 24
# What a program takes at a time: rows, columns of them, and units of a row.
_ROWS, _COLUMNS, _UNITS = 8, 256, 64


@triton.jit
def _words(codes, unit, inside, BITS: tl.constexpr, PARTS: tl.constexpr):
    """The codes of a unit, the first in the lowest bits; a unit is one number in memory, or three."""
    part = tl.load(codes + unit * PARTS, inside, 0)
    word = part.to(tl.int64) if BITS == 6 else part.to(tl.int32)
    for i in tl.static_range(1, PARTS):
        word |= tl.load(codes + unit * PARTS + i, inside, 0).to(word.dtype) << (8 * BITS // PARTS * i)
    return word


@triton.jit
def _numbers(words, tables, table, inside, BITS: tl.constexpr):
    """What the lowest codes of the words stand for."""
    if tables is None:
        numbers = words.to(tl.float32)
    else:
        numbers = tl.load(tables + table + (words & ((1 << BITS) - 1)), inside, 0)
    return numbers


@triton.jit
def _scaled(numbers, scale, offset):
    if offset is not None:
        numbers = numbers - offset
    if scale is not None:
        numbers = numbers * scale
    return numbers


@triton.jit
def _of_blocks(values, group, column, size, blocks, inside):
    """Scales or offsets of the blocks that the columns are in."""
    found = None
    if values is not None:
        found = tl.load(values + group * blocks + column // size, inside, 0).to(tl.float32)
    return found


@triton.jit
def _multiply(
    codes, tables, scales, offsets, rows, columns, units, table_groups, table_size, scale_groups, blocks, size,
    x, y, batch,
    BITS: tl.constexpr, PARTS: tl.constexpr, CODES: tl.constexpr, LANES: tl.constexpr, STEP: tl.constexpr,
    ROWS: tl.constexpr, UNITS: tl.constexpr, BATCH: tl.constexpr,
):  # fmt: skip
    """y (batch, rows) = x (batch, columns) @ weight.T; `STEP` codes in a row are of the same block."""
    row = (tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS))[:, None]
    table, group = row * table_groups // rows * table_size, row * scale_groups // rows
    token = tl.arange(0, BATCH)[:, None, None]
    total = tl.zeros((BATCH, ROWS, UNITS), tl.float32)
    for start in range(0, units, UNITS):
        unit = (start + tl.arange(0, UNITS))[None, :]
        first = unit // LANES * (LANES * CODES) + unit % LANES
        words = _words(codes, row * units + unit, (row < rows) & (unit < units), BITS, PARTS)
        for j in tl.static_range(CODES):
            column = first + j * LANES
            inside = (row < rows) & (column < columns)
            if j % STEP == 0:
                scale = _of_blocks(scales, group, column, size, blocks, inside)
                offset = _of_blocks(offsets, group, column, size, blocks, inside)
            numbers = _scaled(_numbers(words >> (j * BITS), tables, table, inside, BITS), scale, offset)
            given = tl.load(x + token * columns + column[None], (token < batch) & (column < columns)[None], 0)
            total += numbers[None] * given.to(tl.float32)
    place = tl.arange(0, BATCH)[:, None] * rows + tl.trans(row)
    tl.store(y + place, tl.sum(total, 2), (tl.arange(0, BATCH)[:, None] < batch) & (tl.trans(row) < rows))


@triton.jit
def _spread(
    codes, tables, scales, offsets, rows, columns, units, table_groups, table_size, scale_groups, blocks, size,
    dense, start, end,
    BITS: tl.constexpr, PARTS: tl.constexpr, CODES: tl.constexpr, LANES: tl.constexpr, STEP: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """The rows of the weight from `start` to `end`, into `dense`, in its type."""
    row = (start + tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS))[:, None]
    column = (tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS))[None, :]
    inside = (row < end) & (column < columns)
    table, group = row * table_groups // rows * table_size, row * scale_groups // rows
    unit = column // (LANES * CODES) * LANES + column % LANES
    words = _words(codes, row * units + unit, inside, BITS, PARTS) >> (column // LANES % CODES * BITS)
    scale = _of_blocks(scales, group, column, size, blocks, inside)
    offset = _of_blocks(offsets, group, column, size, blocks, inside)
    numbers = _scaled(_numbers(words, tables, table, inside, BITS), scale, offset)
    tl.store(dense + (row - start) * columns + column, numbers.to(dense.dtype.element_ty), inside)


def multiply(weight: Stored, x: Tensor, dtype: torch.dtype) -> Tensor:
    """x (batch, columns) @ weight.T, summed in float32; for a large batch both are taken in `dtype` first."""
    with torch.cuda.device_of(x):
        return _few(weight, x) if 0 < len(x) <= _FEW else _many(weight, x.to(dtype))


def _few(weight: Stored, x: Tensor) -> Tensor:
    y = torch.empty(len(x), weight.rows, device=x.device)
    form, batch = _form(weight), triton.next_power_of_2(len(x))
    units = max(_UNITS, _COLUMNS // (form["CODES"] * batch))
    _multiply[(triton.cdiv(weight.rows, _ROWS),)](
        *_parts(weight), x.contiguous(), y, len(x), **form, ROWS=_ROWS, UNITS=units, BATCH=batch
    )
    return y


def _many(weight: Stored, x: Tensor) -> Tensor:
    y = torch.empty(len(x), weight.rows, dtype=x.dtype, device=x.device)
    step = max(1, _TILE // weight.columns)
    room = torch.empty(min(step, weight.rows), weight.columns, dtype=x.dtype, device=x.device)
    for first in range(0, weight.rows, step):
        last = min(first + step, weight.rows)
        spread(weight, first, room[: last - first])
        torch.matmul(x, room[: last - first].T, out=y[:, first:last])
    return y


def spread(weight: Stored, first: int, dense: Tensor) -> None:
    """The rows of the weight from `first` on, as many as the contiguous `dense` has, in its type."""
    grid = triton.cdiv(len(dense), _ROWS), triton.cdiv(weight.columns, _COLUMNS)
    _spread[grid](*_parts(weight), dense, first, first + len(dense), **_form(weight), ROWS=_ROWS, COLUMNS=_COLUMNS)


def _parts(weight: Stored) -> tuple[Any, ...]:
    """The buffers, None for an empty one, and the numbers that say how they are laid out."""
    tables, scales, offsets = (t if t.numel() else None for t in (weight.tables, weight.scales, weight.offsets))
    groups, blocks = weight.scales.shape
    codes = weight.codes.view(_NUMBERS.get(weight.bits, weight.codes.dtype))
    return (
        codes, tables, scales, offsets, weight.rows, weight.columns, weight.padded // _form(weight)["CODES"],
        *weight.tables.shape, groups, blocks, weight.columns // max(1, blocks),
    )  # fmt: skip


def _form(weight: Stored) -> dict[str, int]:
    """How codes lie in units: as `Stored` writes them, those of one lane in eight vectors; or one of 8 bits."""
    parts = 3 if weight.bits in (3, 6) else 1
    codes, lanes = (1, 1) if weight.bits == 8 else (8, LANES)
    blocks = weight.scales.shape[1]
    size = weight.columns // max(1, blocks)
    step = codes if blocks <= 1 else gcd(codes, size // lanes) if size % lanes == 0 else 1
    return {"BITS": weight.bits, "PARTS": parts, "CODES": codes, "LANES": lanes, "STEP": step}
