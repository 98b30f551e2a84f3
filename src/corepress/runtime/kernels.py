"""The loops behind packed weights on a CPU, compiled by numba; imported on first use, since numba loads slowly.

A row of a weight is spread into a float32 scratch that stays in the cache, and multiplied there.
"""

# mypy: allow-untyped-decorators

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from llvmlite import binding, ir
from numba.extending import intrinsic
from numpy.typing import NDArray

from corepress.weights.half import single

Array = NDArray[Any]
# Lanes of the instruction that looks up: a whole table of 16 fits a register of AVX-512, half a one of AVX2.
_LANES = 16 if binding.get_host_cpu_features().get("avx512f") else 8


@intrinsic  # type: ignore[untyped-decorator]
def _look_up_16(context: Any, table: Any, shift: Any, factor: Any, codes: Any, out: Any) -> Any:
    """16 codes of 4 bits at the address `codes` become factor * (table[code] - shift) at `out`, all without a loop."""

    def generate(context: Any, builder: Any, signature: Any, addresses: Any) -> Any:
        table, shift, factor, codes, out = addresses
        byte, number = ir.IntType(8), ir.FloatType()

        def constant(value: int, kind: Any, lanes: int) -> Any:
            return ir.Constant(ir.VectorType(kind, lanes), [value] * lanes)

        def choose(one: Any, other: Any, lanes: Any) -> Any:
            mask = ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), list(lanes))
            return builder.shuffle_vector(one, other, mask)

        def everywhere(value: Any) -> Any:
            one = ir.Constant(ir.VectorType(number, 16), ir.Undefined)
            one = builder.insert_element(one, value, ir.Constant(ir.IntType(32), 0))
            return choose(one, one, [0] * 16)

        def permuted(numbers: Any, indices: Any) -> Any:
            # LLVM knows this shape: one vpermps.
            result = ir.Constant(ir.VectorType(number, _LANES), ir.Undefined)
            for lane in range(_LANES):
                place = ir.Constant(ir.IntType(32), lane)
                found = builder.extract_element(numbers, builder.extract_element(indices, place))
                result = builder.insert_element(result, found, place)
            return result

        octet = builder.load(builder.inttoptr(codes, ir.VectorType(byte, 8).as_pointer()), align=1)
        low = builder.and_(octet, constant(15, byte, 8))
        high = builder.lshr(octet, constant(4, byte, 8))
        nibbles = choose(low, high, [lane // 2 + 8 * (lane % 2) for lane in range(16)])
        numbers = builder.load(builder.inttoptr(table, ir.VectorType(number, 16).as_pointer()), align=4)
        numbers = builder.fmul(builder.fsub(numbers, everywhere(shift)), everywhere(factor))
        for first in range(0, 16, _LANES):
            indices = choose(nibbles, nibbles, range(first, first + _LANES))
            indices = builder.zext(indices, ir.VectorType(ir.IntType(32), _LANES))
            if _LANES == 16:
                found = permuted(numbers, indices)
            else:
                within = builder.and_(indices, constant(7, ir.IntType(32), 8))
                halves = [permuted(choose(numbers, numbers, range(i, i + 8)), within) for i in (0, 8)]
                is_low = builder.icmp_unsigned("<", indices, constant(8, ir.IntType(32), 8))
                found = builder.select(is_low, *halves)
            place = builder.add(out, ir.Constant(out.type, 4 * first))
            builder.store(found, builder.inttoptr(place, found.type.as_pointer()), align=4)
        return context.get_dummy_value()

    address, single_type = numba.types.uintp, numba.types.float32
    return numba.types.void(address, single_type, single_type, address, address), generate


@numba.njit(nogil=True, cache=True)
def _nibble_row(codes: Array, table: Array, scale: Array, offset: Array, row: Array) -> None:
    """4 bits; a block holds a multiple of 16 codes."""
    blocks = max(scale.size, 1)
    pieces = row.size // blocks // 16
    numbers, source, target = table.ctypes.data, codes.ctypes.data, row.ctypes.data
    for block in range(blocks):
        factor = scale[block] if scale.size else np.float32(1)
        shift = single(offset[block]) if offset.size else np.float32(0)
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
    if scale.size:
        _scale_row(row, columns, scale, offset, row)


@numba.njit(nogil=True, cache=True)
def _scale_row(numbers: Array, columns: int, scale: Array, offset: Array, row: Array) -> None:
    size = columns // scale.size
    for block in range(scale.size):
        factor = scale[block]
        shift = single(offset[block]) if offset.size else np.float32(0)
        # Slices: an index that can't be negative is what lets the loop vectorise.
        source, target = numbers[block * size : (block + 1) * size], row[block * size : (block + 1) * size]
        for i in range(size):
            target[i] = factor * (np.float32(source[i]) - shift)


@numba.njit(nogil=True, cache=True)
def _spread(
    codes: Array, bits: int, columns: int, tables: Array, scales: Array, offsets: Array,
    n: int, wide: Array, indices: Array, row: Array,
) -> None:  # fmt: skip
    """Row `n` of the weight, dense, into `row`."""
    rows = codes.shape[0]
    group, block = n * scales.shape[0] // rows, max(scales.shape[1], 1)
    scale = wide[: scales.shape[1]]
    for i in range(scale.size):
        scale[i] = single(scales[group, i])
    offset = offsets[group] if offsets.size else offsets.reshape(-1)
    if tables.size == 0:
        _scale_row(codes[n], columns, scale, offset, row)
        return
    table = tables[n * tables.shape[0] // rows]
    if bits == 4 and (block == 1 or columns // block % 16 == 0):
        _nibble_row(codes[n], table, scale, offset, row)
    else:
        _any_row(codes[n], bits, columns, table, scale, offset, indices, row)


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
    wide, indices = np.empty(scales.shape[1], np.float32), np.empty(x.size, np.uint8)
    row = np.zeros(x.size, np.float32)
    for i in range(y.size):
        _spread(codes, bits, columns, tables, scales, offsets, first + i, wide, indices, row)
        y[i] = _dot(row, x)


@numba.njit(nogil=True, cache=True)
def spread(
    codes: Array, bits: int, columns: int, tables: Array, scales: Array, offsets: Array,
    first: int, dense: Array,
) -> None:  # fmt: skip
    """The rows of the weight from `first` on, as many as `dense` has; it starts as zeros."""
    wide, indices = np.empty(scales.shape[1], np.float32), np.empty(dense.shape[1], np.uint8)
    for i in range(dense.shape[0]):
        _spread(codes, bits, columns, tables, scales, offsets, first + i, wide, indices, dense[i])
