"""The loops behind packed weights on a CPU, compiled by numba; imported on first use, since numba loads slowly.

Four bits are looked up and 8-bit integers converted in registers, as they are multiplied; for any other number of bits,
a row is first spread into a float32 scratch that stays in the cache. The intrinsics write the LLVM code of the look-up
themselves, because LLVM makes slow gathers of the plain loop.
"""

# mypy: allow-untyped-decorators

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numba
import numpy as np
from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from corepress.weights.half import single

Array = NDArray[Any]
# Lanes of the instruction that looks up: a whole table of 16 fits a register of AVX-512, half a one of AVX2.
_LANES = 16 if binding.get_host_cpu_features().get("avx512f") else 8
_BYTE, _INT, _SINGLE = ir.IntType(8), ir.IntType(32), ir.FloatType()


def _of(kind: Any, value: int, lanes: int) -> Any:
    return ir.Constant(ir.VectorType(kind, lanes), [value] * lanes)


def _choose(builder: Any, one: Any, other: Any, lanes: Iterable[int]) -> Any:
    chosen = list(lanes)
    return builder.shuffle_vector(one, other, ir.Constant(ir.VectorType(_INT, len(chosen)), chosen))


def _vector(builder: Any, address: Any, kind: Any, lanes: int, first: int = 0) -> Any:
    """A pointer to a vector that need not be aligned, `first` numbers after an address."""
    place = builder.add(address, ir.Constant(address.type, 4 * first))
    return builder.inttoptr(place, ir.VectorType(kind, lanes).as_pointer())


def _scaled(builder: Any, table: Any, shift: Any, factor: Any) -> Any:
    """The 16 numbers factor * (table - shift)."""
    spread = []
    for value in (shift, factor):
        one = builder.insert_element(ir.Constant(ir.VectorType(_SINGLE, 16), ir.Undefined), value, _INT(0))
        spread.append(_choose(builder, one, one, [0] * 16))
    numbers = builder.load(_vector(builder, table, _SINGLE, 16), align=4)
    return builder.fmul(builder.fsub(numbers, spread[0]), spread[1])


def _permuted(builder: Any, numbers: Any, indices: Any) -> Any:
    # LLVM knows this shape: one vpermps.
    result = ir.Constant(ir.VectorType(_SINGLE, _LANES), ir.Undefined)
    for lane in range(_LANES):
        found = builder.extract_element(numbers, builder.extract_element(indices, _INT(lane)))
        result = builder.insert_element(result, found, _INT(lane))
    return result


def _looked_up(builder: Any, numbers: Any, codes: Any) -> list[Any]:
    """The numbers for 16 codes in a vector of bytes, in vectors of `_LANES`."""
    parts = []
    for first in range(0, 16, _LANES):
        indices = _choose(builder, codes, codes, range(first, first + _LANES))
        indices = builder.zext(indices, ir.VectorType(_INT, _LANES))
        if _LANES == 16:
            parts.append(_permuted(builder, numbers, indices))
            continue
        within = builder.and_(indices, _of(_INT, 7, 8))
        halves = [
            _permuted(builder, _choose(builder, numbers, numbers, range(half, half + 8)), within) for half in (0, 8)
        ]
        parts.append(builder.select(builder.icmp_unsigned("<", indices, _of(_INT, 8, 8)), *halves))
    return parts


def _nibbles(builder: Any, codes: Any, count: int) -> tuple[Any, Any]:
    """The low and the high halves of the bytes at an address."""
    octets = builder.load(_vector(builder, codes, _BYTE, count), align=1)
    return builder.and_(octets, _of(_BYTE, 15, count)), builder.lshr(octets, _of(_BYTE, 4, count))


@intrinsic  # type: ignore[untyped-decorator]
def _look_up_16(context: Any, table: Any, shift: Any, factor: Any, codes: Any, out: Any) -> Any:
    """16 codes of 4 bits at the address `codes` become factor * (table[code] - shift) at `out`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        table, shift, factor, codes, out = arguments
        low, high = _nibbles(builder, codes, 8)
        nibbles = _choose(builder, low, high, [lane // 2 + 8 * (lane % 2) for lane in range(16)])
        for i, found in enumerate(_looked_up(builder, _scaled(builder, table, shift, factor), nibbles)):
            builder.store(found, _vector(builder, out, _SINGLE, _LANES, i * _LANES), align=4)
        return context.get_dummy_value()

    return types.void(types.uintp, types.float32, types.float32, types.uintp, types.uintp), generate


@intrinsic  # type: ignore[untyped-decorator]
def _multiply_32s(
    context: Any, table: Any, shifts: Any, factors: Any, codes: Any, x: Any, sums: Any, blocks: Any, pieces: Any
) -> Any:
    """Such numbers, 32 to each of the pieces of each block, times those at `x`, are added to the 32 at `sums`.

    `x` holds 16 factors for the low halves of 16 bytes, then 16 for the high ones, and so on.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        table, shifts, factors, codes, x, sums, blocks, pieces = arguments

        def at(address: Any, index: Any, size: int) -> Any:
            return builder.add(address, builder.mul(index, ir.Constant(index.type, size)))

        def one(address: Any, index: Any) -> Any:
            return builder.load(builder.inttoptr(at(address, index, 4), _SINGLE.as_pointer()))

        places = [_vector(builder, sums, _SINGLE, _LANES, first) for first in range(0, 32, _LANES)]
        totals = [cgutils.alloca_once_value(builder, builder.load(place, align=4)) for place in places]
        with cgutils.for_range(builder, blocks) as block:
            numbers = _scaled(builder, table, one(shifts, block.index), one(factors, block.index))
            first = builder.mul(block.index, pieces)
            with cgutils.for_range(builder, pieces) as inner:
                piece = builder.add(first, inner.index)
                halves = _nibbles(builder, at(codes, piece, 16), 16)
                parts = [part for half in halves for part in _looked_up(builder, numbers, half)]
                for i, (found, total) in enumerate(zip(parts, totals, strict=True)):
                    given = builder.load(_vector(builder, at(x, piece, 128), _SINGLE, _LANES, i * _LANES), align=4)
                    product = builder.fmul(found, given, flags=("contract",))
                    builder.store(builder.fadd(builder.load(total), product, flags=("contract",)), total)
        for place, total in zip(places, totals, strict=True):
            builder.store(builder.load(total), place, align=4)
        return context.get_dummy_value()

    return types.void(*[types.uintp] * 6, types.intp, types.intp), generate


@numba.njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "arcp"})
def _nibble_dot(codes: Array, table: Array, scale: Array, offset: Array, x: Array, sums: Array) -> np.float32:
    sums[:] = 0
    _multiply_32s(
        table.ctypes.data, offset.ctypes.data, scale.ctypes.data, codes.ctypes.data, x.ctypes.data, sums.ctypes.data,
        scale.size, x.size // scale.size // 32,
    )  # fmt: skip
    total = np.float32(0)
    for i in range(sums.size):
        total += sums[i]
    return total


@numba.njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "arcp"})
def _integer_dot(codes: Array, columns: int, scale: Array, offset: Array, x: Array) -> np.float32:
    size = columns // scale.size
    total = np.float32(0)
    for block in range(scale.size):
        numbers, given = codes[block * size : (block + 1) * size], x[block * size : (block + 1) * size]
        shift, part = offset[block], np.float32(0)
        for i in range(size):
            part += (np.float32(numbers[i]) - shift) * given[i]
        total += scale[block] * part
    return total


@numba.njit(nogil=True, cache=True)
def _nibble_row(codes: Array, table: Array, scale: Array, offset: Array, row: Array) -> None:
    """4 bits; a block holds a multiple of 16 codes."""
    pieces = row.size // scale.size // 16
    numbers, source, target = table.ctypes.data, codes.ctypes.data, row.ctypes.data
    for block in range(scale.size):
        factor, shift = scale[block], offset[block]
        for piece in range(block * pieces, (block + 1) * pieces):
            _look_up_16(numbers, shift, factor, source + 8 * piece, target + 64 * piece)


@numba.njit(nogil=True, cache=True)
def _unpack(codes: Array, bits: int, indices: Array) -> None:
    mask = np.uint64((1 << bits) - 1)
    for octet in range(indices.size // 8):
        word = np.uint64(0)
        for j in range(bits):
            word |= np.uint64(codes[bits * octet + j] & 255) << np.uint64(8 * j)
        for j in range(8):
            indices[8 * octet + j] = np.uint8((word >> np.uint64(j * bits)) & mask)


@numba.njit(nogil=True, cache=True)
def _any_row(
    codes: Array, bits: int, columns: int, table: Array, scale: Array, offset: Array, indices: Array, row: Array
) -> None:
    """Any number of bits, and blocks of any size."""
    if bits == 8:
        indices = codes.view(np.uint8)
    elif bits == 6:  # as a constant, which unrolls the loops
        _unpack(codes, 6, indices)
    else:
        _unpack(codes, bits, indices)
    for i in range(columns):
        row[i] = table[indices[i]]
    _scale_row(row, columns, scale, offset, row)


@numba.njit(nogil=True, cache=True)
def _scale_row(numbers: Array, columns: int, scale: Array, offset: Array, row: Array) -> None:
    size = columns // scale.size
    for block in range(scale.size):
        factor, shift = scale[block], offset[block]
        # Slices: an index that can't be negative is what lets the loop vectorise.
        source, target = numbers[block * size : (block + 1) * size], row[block * size : (block + 1) * size]
        for i in range(size):
            target[i] = factor * (np.float32(source[i]) - shift)


@numba.njit(nogil=True, cache=True)
def _in_pieces(bits: int, columns: int, scales: Array, size: int) -> bool:
    """Whether codes have 4 bits and each block holds whole pieces of `size` codes."""
    blocks = scales.shape[1]
    return bits == 4 and (blocks <= 1 or columns // blocks % size == 0)


@numba.njit(nogil=True, cache=True)
def _parts(
    n: int, codes: Array, tables: Array, scales: Array, offsets: Array, wide: Array
) -> tuple[Array, Array, Array, Array]:
    """Codes, table, scales and offsets of row `n`, the latter in `wide`, which is 1 and 0 where there are none."""
    rows = codes.shape[0]
    group = n * scales.shape[0] // rows
    for i in range(scales.shape[1]):
        wide[0, i] = single(scales[group, i])
    for i in range(offsets.shape[1]):
        wide[1, i] = single(offsets[group, i])
    table = tables[n * tables.shape[0] // rows] if tables.size else tables.reshape(-1)
    return codes[n], table, wide[0], wide[1]


@numba.njit(nogil=True, cache=True)
def _room(scales: Array) -> Array:
    wide = np.zeros((2, max(scales.shape[1], 1)), np.float32)
    wide[0] = 1
    return wide


@numba.njit(nogil=True, cache=True)
def _spread(
    codes: Array, bits: int, columns: int, tables: Array, scales: Array, offsets: Array,
    n: int, wide: Array, indices: Array, row: Array,
) -> None:  # fmt: skip
    """Row `n` of the weight, dense, into `row`."""
    own, table, scale, offset = _parts(n, codes, tables, scales, offsets, wide)
    if table.size == 0:
        _scale_row(own, columns, scale, offset, row)
    elif _in_pieces(bits, columns, scales, 16):
        _nibble_row(own, table, scale, offset, row)
    else:
        _any_row(own, bits, columns, table, scale, offset, indices, row)


@numba.njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "arcp"})
def _dot(one: Array, other: Array) -> np.float32:
    total = np.float32(0)
    for i in range(one.size):
        total += one[i] * other[i]
    return total


@numba.njit(nogil=True, cache=True)
def multiply(
    codes: Array, bits: int, columns: int, tables: Array, scales: Array, offsets: Array,
    first: int, x: Array, y: Array,
) -> None:  # fmt: skip
    """y[i] = row `first + i` of the weight times `x`, which is zero beyond `columns`."""
    wide, indices = _room(scales), np.empty(x.size, np.uint8)
    row, sums = np.zeros(x.size, np.float32), np.zeros(32, np.float32)
    in_pieces = _in_pieces(bits, columns, scales, 32)
    halves = np.ascontiguousarray(x.reshape(-1, 16, 2).transpose(0, 2, 1)).reshape(-1) if in_pieces else x
    for i in range(y.size):
        own, table, scale, offset = _parts(first + i, codes, tables, scales, offsets, wide)
        if tables.size == 0:
            y[i] = _integer_dot(own, columns, scale, offset, x)
        elif in_pieces:
            y[i] = _nibble_dot(own, table, scale, offset, halves, sums)
        else:
            _spread(codes, bits, columns, tables, scales, offsets, first + i, wide, indices, row)
            y[i] = _dot(row, x)


@numba.njit(nogil=True, cache=True)
def spread(
    codes: Array, bits: int, columns: int, tables: Array, scales: Array, offsets: Array,
    first: int, dense: Array,
) -> None:  # fmt: skip
    """The rows of the weight from `first` on, as many as `dense` has; it starts as zeros."""
    wide, indices = _room(scales), np.empty(dense.shape[1], np.uint8)
    for i in range(dense.shape[0]):
        _spread(codes, bits, columns, tables, scales, offsets, first + i, wide, indices, dense[i])
