"""The loops behind packed weights on a CPU, compiled by numba; imported on first use, since numba loads slowly.

Four rows at a time, a span of columns that stays in the cache is made dense, then multiplied. The intrinsics write LLVM
code: of a plain loop that looks up, LLVM makes slow gathers, but it knows the shapes below as single instructions of
AVX-512 or AVX2, and finds correct ones on any other processor. They are in this file because numba's cache only looks
for changes in the file of a function.

`form`: see `_decode`. `codes`, `tables`, `scales`, `offsets`: those of a `Packed`, with float16 as its bits.
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
# Columns of four rows that are dense at a time: 16 KB.
_SPAN = 1024
# Codes that are decoded at a time: eight vectors of 16.
_PIECE = 128
# Lanes of the instruction that looks up: a whole table of 16 fits a register of AVX-512, half a one of AVX2.
_LANES = 16 if binding.get_host_cpu_features().get("avx512f") else 8
_BYTE, _INT, _SINGLE = ir.IntType(8), ir.IntType(32), ir.FloatType()
# Vectors that are multiplied at a time, as many as the registers hold sums for; see `_products`.
_MANY = (0, 0, 0, 0) if _LANES == 16 else (0,)


def _of(kind: Any, value: Any, lanes: int = 16) -> Any:
    return ir.Constant(ir.VectorType(kind, lanes), [value] * lanes)


def _choose(builder: Any, one: Any, other: Any, lanes: Iterable[int]) -> Any:
    chosen = list(lanes)
    return builder.shuffle_vector(one, other, ir.Constant(ir.VectorType(_INT, len(chosen)), chosen))


def _vector(builder: Any, address: Any, kind: Any, lanes: int, offset: int = 0) -> Any:
    """A pointer to a vector that need not be aligned, some bytes after an address."""
    place = builder.add(address, ir.Constant(address.type, offset))
    return builder.inttoptr(place, ir.VectorType(kind, lanes).as_pointer())


def _spread(builder: Any, address: Any, offset: int) -> Any:
    """One number at an address, in all lanes."""
    one = builder.load(_vector(builder, address, _SINGLE, 1, offset), align=4)
    return _choose(builder, one, one, [0] * 16)


def _permuted(builder: Any, numbers: Any, indices: Any) -> Any:
    # LLVM knows this shape: one vpermps.
    result = ir.Constant(ir.VectorType(_SINGLE, _LANES), ir.Undefined)
    for lane in range(_LANES):
        found = builder.extract_element(numbers, builder.extract_element(indices, _INT(lane)))
        result = builder.insert_element(result, found, _INT(lane))
    return result


def _indices(builder: Any, codes: Any, bits: int) -> list[Any]:
    """The 128 codes at an address, in the order that `Packed` gives them, as eight vectors of 16 integers."""
    if bits in (0, 8):
        octets = [builder.load(_vector(builder, codes, _BYTE, 16, 16 * i), align=1) for i in range(8)]
        widen = builder.zext if bits else builder.sext
        return [widen(part, ir.VectorType(_INT, 16)) for part in octets]
    octets = builder.load(_vector(builder, codes, _BYTE, 16 * bits), align=1)
    count = 8 if bits <= 4 else 4  # codes that a word of 32 bits can hold
    size = bits * count // 8
    found = []
    for first in range(0, bits, size):
        lanes = [lane * bits + first + i if i < size else 16 * bits for lane in range(16) for i in range(4)]
        octet_lanes = _choose(builder, octets, _of(_BYTE, 0, 16 * bits), lanes)
        words = builder.bitcast(octet_lanes, ir.VectorType(_INT, 16))
        for i in range(count):
            shifted = builder.lshr(words, _of(_INT, i * bits))
            found.append(builder.and_(shifted, _of(_INT, (1 << bits) - 1)))
    return found


def _looked_up(builder: Any, tables: list[Any], indices: Any) -> Any:
    """The numbers for 16 indices into tables of `_LANES`, one after the other."""
    parts = []
    for first in range(0, 16, _LANES):
        own = _choose(builder, indices, indices, range(first, first + _LANES))
        within = builder.and_(own, _of(_INT, _LANES - 1, _LANES))
        found, bit = [_permuted(builder, table, within) for table in tables], _LANES
        while len(found) > 1:  # each further bit of the index halves the candidates
            high = builder.icmp_unsigned("!=", builder.and_(own, _of(_INT, bit, _LANES)), _of(_INT, 0, _LANES))
            found = [builder.select(high, b, a) for a, b in zip(found[::2], found[1::2], strict=True)]
            bit *= 2
        parts += found
    return parts[0] if len(parts) == 1 else _choose(builder, parts[0], parts[1], range(16))


def _gathered(builder: Any, table: Any, indices: Any) -> Any:
    """The numbers for 16 indices into a table that registers can't hold."""
    if _LANES == 16:
        base, mask = builder.inttoptr(table, _BYTE.as_pointer()), _of(ir.IntType(1), 1)
        arguments = [_of(_SINGLE, 0.0), base, indices, mask, _INT(4)]
        kind = ir.FunctionType(arguments[0].type, [argument.type for argument in arguments])
        name = "llvm.x86.avx512.mask.gather.dps.512"
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)
    base, result = builder.inttoptr(table, _SINGLE.as_pointer()), ir.Constant(ir.VectorType(_SINGLE, 16), ir.Undefined)
    for lane in range(16):
        place = builder.gep(base, [builder.zext(builder.extract_element(indices, _INT(lane)), ir.IntType(64))])
        result = builder.insert_element(result, builder.load(place), _INT(lane))
    return result


@intrinsic  # type: ignore[untyped-decorator]
def _decode(
    context: Any, form: Any, codes: Any, table: Any, factors: Any, shifts: Any, out: Any, pieces: Any
) -> Any:  # fmt: skip
    """Pieces of 128 codes become factor * (table[code] - shift), with a factor and a shift for each 16.

    `form`: a tuple as long as a code has bits, so that LLVM sees constants; one of no bits says that the codes are
    signed 8-bit numbers themselves. The others are addresses: arrays would be counted as references, which takes
    longer than what is done with them.
    """
    bits = len(form)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, codes, table, factors, shifts, out, pieces = arguments
        sizes = range(0, 4 * max(16, 1 << bits), 4 * _LANES) if 0 < bits < 8 else ()
        tables = [builder.load(_vector(builder, table, _SINGLE, _LANES, size), align=4) for size in sizes]
        with cgutils.for_range(builder, pieces) as loop:

            def at(address: Any, size: int) -> Any:
                return builder.add(address, builder.mul(loop.index, ir.Constant(address.type, size)))

            for i, indices in enumerate(_indices(builder, at(codes, 16 * (bits or 8)), bits)):
                if bits == 8:
                    numbers = _gathered(builder, table, indices)
                elif bits:
                    numbers = _looked_up(builder, tables, indices)
                else:
                    numbers = builder.sitofp(indices, ir.VectorType(_SINGLE, 16))
                numbers = builder.fsub(numbers, _spread(builder, at(shifts, 32), 4 * i))
                numbers = builder.fmul(numbers, _spread(builder, at(factors, 32), 4 * i))
                builder.store(numbers, _vector(builder, at(out, 512), _SINGLE, 16, 64 * i), align=4)
        return context.get_dummy_value()

    return types.void(form, *[types.uintp] * 6), generate


@intrinsic  # type: ignore[untyped-decorator]
def _products(
    context: Any, tokens: Any, rows: Any, row_step: Any, x: Any, x_step: Any, count: Any, sums: Any
) -> Any:  # fmt: skip
    """The dot products of some vectors at `x`, as many as `tokens` is long, with four at `rows`, to `sums`.

    `count`: the length of the vectors in pieces of 16. `row_step`, `x_step`: bytes from one vector to the next.
    """
    many = len(tokens)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, rows, row_step, x, x_step, count, sums = arguments

        def starts(address: Any, step: Any, number: int) -> list[Any]:
            return [builder.add(address, builder.mul(step, ir.Constant(step.type, i))) for i in range(number)]

        def vectors(addresses: list[Any], index: Any) -> list[Any]:
            offset = builder.shl(index, ir.Constant(index.type, 6))
            return [builder.load(_vector(builder, builder.add(a, offset), _SINGLE, 16), align=4) for a in addresses]

        weights, given = starts(rows, row_step, 4), starts(x, x_step, many)
        totals = [cgutils.alloca_once_value(builder, _of(_SINGLE, 0.0)) for _ in range(4 * many)]
        with cgutils.for_range(builder, count) as loop:
            own = vectors(weights, loop.index)
            for i, token in enumerate(vectors(given, loop.index)):
                for total, row in zip(totals[4 * i : 4 * i + 4], own, strict=True):
                    product = builder.fmul(row, token, flags=("contract",))
                    builder.store(builder.fadd(builder.load(total), product, flags=("contract",)), total)
        for i, total in enumerate(totals):
            part, half = builder.load(total), 8
            while half:
                upper = _choose(builder, part, part, range(half, 2 * half))
                part = builder.fadd(_choose(builder, part, part, range(half)), upper)
                half //= 2
            builder.store(part, _vector(builder, sums, _SINGLE, 1, 4 * i), align=4)
        return context.get_dummy_value()

    return types.void(tokens, *[types.uintp] * 6), generate


@numba.njit(nogil=True, cache=True)
def multiply(
    form: Any, columns: int, codes: Array, tables: Array, scales: Array, offsets: Array, first: int, x: Array, y: Array
) -> None:
    """y[t, i] = row `first + i` of the weight times x[t], which is zero beyond `columns`."""
    padded, bits, whole = x.shape[1], len(form) if len(form) else 8, _whole(columns, scales)
    factors, shifts, places = _ones(4, padded), np.zeros((4, padded // 16), np.float32), np.zeros(4, np.uintp)
    dense, sums = _aligned(4, _SPAN), np.empty((4, 4), np.float32)
    y[:] = 0
    for i in range(0, y.shape[1], 4):
        height = min(4, y.shape[1] - i)
        _parameters(first + i, height, len(codes), columns, scales, offsets, factors, shifts)
        _tables(first + i, height, len(codes), tables, places)
        for start in range(0, padded, _SPAN):
            width = min(_SPAN, padded - start)
            for r in range(height):
                parameter = 4 * (r * factors.shape[1] + start // 16)
                _decode(
                    form, codes.ctypes.data + (first + i + r) * codes.shape[1] + start // 8 * bits, places[r],
                    factors.ctypes.data + parameter, shifts.ctypes.data + parameter,
                    dense.ctypes.data + 4 * r * _SPAN, width // _PIECE,
                )  # fmt: skip
            if not whole:
                _scale(first + i, height, len(codes), columns, scales, offsets, start, dense)
            t = 0
            while t < len(x):
                taken = len(_MANY) if len(x) - t >= len(_MANY) else 1
                rows, place = dense.ctypes.data, x.ctypes.data + 4 * (t * padded + start)
                if taken == len(_MANY):
                    _products(_MANY, rows, 4 * _SPAN, place, 4 * padded, width // 16, sums.ctypes.data)
                else:
                    _products((0,), rows, 4 * _SPAN, place, 4 * padded, width // 16, sums.ctypes.data)
                for j in range(taken):
                    for r in range(height):
                        y[t + j, i + r] += sums[j, r]
                t += taken


@numba.njit(nogil=True, cache=True)
def spread(
    form: Any, columns: int, codes: Array, tables: Array, scales: Array, offsets: Array, first: int, dense: Array
) -> None:
    """The rows of the weight from `first` on, as many as `dense` has."""
    padded = dense.shape[1]
    factors, shifts, places = _ones(1, padded), np.zeros((1, padded // 16), np.float32), np.zeros(1, np.uintp)
    for i in range(len(dense)):
        _parameters(first + i, 1, len(codes), columns, scales, offsets, factors, shifts)
        _tables(first + i, 1, len(codes), tables, places)
        _decode(
            form, codes.ctypes.data + (first + i) * codes.shape[1], places[0],
            factors.ctypes.data, shifts.ctypes.data, dense.ctypes.data + 4 * i * padded, padded // _PIECE,
        )  # fmt: skip
    if not _whole(columns, scales):
        _scale(first, len(dense), len(codes), columns, scales, offsets, 0, dense)


@numba.njit(nogil=True, cache=True)
def _ones(rows: int, padded: int) -> Array:
    return np.ones((rows, padded // 16), np.float32)


@numba.njit(nogil=True, cache=True)
def _aligned(rows: int, columns: int) -> Array:
    """Rows that start with a line of the cache: a vector across two lines is slow."""
    room = np.zeros(rows * columns + 16, np.float32)
    first = (16 - room.ctypes.data // 4 % 16) % 16
    return room[first : first + rows * columns].reshape(rows, columns)


@numba.njit(nogil=True, cache=True)
def _whole(columns: int, scales: Array) -> bool:
    """Whether the scale changes only after a multiple of 16 columns."""
    return bool(scales.shape[1] <= 1 or columns // scales.shape[1] % 16 == 0)


@numba.njit(nogil=True, cache=True)
def _tables(first: int, height: int, rows: int, tables: Array, places: Array) -> None:
    """Where the tables of some of the `rows` start."""
    for r in range(height):
        places[r] = tables.ctypes.data + 4 * tables.shape[1] * ((first + r) * len(tables) // rows)


@numba.njit(nogil=True, cache=True)
def _parameters(
    first: int, height: int, rows: int, columns: int, scales: Array, offsets: Array, factors: Array, shifts: Array
) -> None:
    """Scales and offsets of some of the `rows`, for each 16 columns; where there are none, what was there stays."""
    if scales.size and _whole(columns, scales):
        for r in range(height):
            group = (first + r) * len(scales) // rows
            _repeat(scales, group, columns, factors, r)
            if offsets.size:
                _repeat(offsets, group, columns, shifts, r)


@numba.njit(nogil=True, cache=True)
def _repeat(values: Array, group: int, columns: int, out: Array, r: int) -> None:
    blocks = values.shape[1]
    times = columns // blocks // 16
    if blocks == 1:
        out[r] = single(values[group, 0])
    elif times == 2:  # the usual one, as a constant, which lets the loop vectorise
        for i in range(blocks):
            out[r, 2 * i] = out[r, 2 * i + 1] = single(values[group, i])
    else:
        for i in range(blocks):
            out[r, i * times : (i + 1) * times] = single(values[group, i])


@numba.njit(nogil=True, cache=True)
def _scale(
    first: int, height: int, rows: int, columns: int, scales: Array, offsets: Array, start: int, dense: Array
) -> None:
    """Scale what `dense` holds of some of the `rows`, the columns from `start` on; for blocks of any size."""
    size = columns // scales.shape[1]
    for r in range(height):
        group = (first + r) * len(scales) // rows
        for i in range(min(dense.shape[1], columns - start)):
            block = (start + i) // size
            shift = single(offsets[group, block]) if offsets.size else np.float32(0)
            dense[r, i] = (dense[r, i] - shift) * single(scales[group, block])
