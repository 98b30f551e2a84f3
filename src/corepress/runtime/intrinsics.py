"""The instructions behind kernels.py, as LLVM code for numba.

Of a plain loop that looks up, LLVM makes slow gathers, where AVX-512 and AVX2 have an instruction; other processors get
correct code. numba's cache doesn't look for changes in this file: after one, clear `__pycache__`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

import corepress.weights.cache  # noqa: F401  (before anything is compiled)
from corepress.weights.half import single

# Codes that are decoded at a time: eight vectors of 16.
PIECE = 128
# Bytes of codes that are asked of the memory ahead of their use.
_AHEAD = 2048
_FEATURES = binding.get_host_cpu_features()
# Lanes of the instruction that looks up: a whole table of 16 fits a register of AVX-512, half a one of AVX2.
_LANES = 16 if _FEATURES.get("avx512f") else 8
_PERMUTE = "llvm.x86.avx512.permvar.sf.512" if _LANES == 16 else "llvm.x86.avx2.permps" if _FEATURES.get("avx2") else ""
_BYTE, _INT, _SINGLE = ir.IntType(8), ir.IntType(32), ir.FloatType()
# Vectors that are multiplied at a time, as many as the registers hold sums for; see `products`.
MANY = (0, 0, 0, 0) if _LANES == 16 else (0,)


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


def _call(builder: Any, name: str, kind: Any, arguments: list[Any]) -> Any:
    function = ir.FunctionType(kind, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, function, name), arguments)


def _permuted(builder: Any, numbers: Any, indices: Any) -> Any:
    """`numbers` at some indices, of which only the lowest bits count."""
    if _PERMUTE:
        return _call(builder, _PERMUTE, numbers.type, [numbers, indices])
    result = ir.Constant(numbers.type, ir.Undefined)
    within = builder.and_(indices, _of(_INT, _LANES - 1, _LANES))
    for lane in range(_LANES):
        found = builder.extract_element(numbers, builder.extract_element(within, _INT(lane)))
        result = builder.insert_element(result, found, _INT(lane))
    return result


def _indices(builder: Any, codes: Any, bits: int) -> list[Any]:
    """The 128 codes at an address, in the order that `Packed` gives them, as eight vectors of 16 integers.

    Codes of less than 8 bits have others above them.
    """
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
            found.append(builder.lshr(words, _of(_INT, i * bits)))
    return found


def _looked_up(builder: Any, tables: list[Any], indices: Any) -> Any:
    """The numbers for 16 indices into tables of `_LANES`, one after the other."""
    parts = []
    for first in range(0, 16, _LANES):
        own = _choose(builder, indices, indices, range(first, first + _LANES))
        found, bit = [_permuted(builder, table, own) for table in tables], _LANES
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
        return _call(builder, "llvm.x86.avx512.mask.gather.dps.512", arguments[0].type, arguments)
    base, result = builder.inttoptr(table, _SINGLE.as_pointer()), ir.Constant(ir.VectorType(_SINGLE, 16), ir.Undefined)
    for lane in range(16):
        place = builder.gep(base, [builder.zext(builder.extract_element(indices, _INT(lane)), ir.IntType(64))])
        result = builder.insert_element(result, builder.load(place), _INT(lane))
    return result


def _loaded(builder: Any, table: Any, bits: int) -> list[Any]:
    """The table at an address in registers; none where it isn't needed or doesn't fit. A small one is repeated."""
    sizes = range(0, 4 * max(_LANES, 1 << bits), 4 * _LANES) if 0 < bits < 8 else ()
    parts = [builder.load(_vector(builder, table, _SINGLE, _LANES, size), align=4) for size in sizes]
    return [_choose(builder, part, part, [i % (1 << bits) for i in range(_LANES)]) for part in parts]


def _numbers(builder: Any, codes: Any, bits: int, table: Any, tables: list[Any]) -> list[Any]:
    """What the 128 codes at an address stand for; `tables`: of `_loaded`."""
    found = _indices(builder, codes, bits)
    if bits == 8:
        return [_gathered(builder, table, indices) for indices in found]
    if bits:
        return [_looked_up(builder, tables, indices) for indices in found]
    return [builder.sitofp(indices, ir.VectorType(_SINGLE, 16)) for indices in found]


def _total(builder: Any, vector: Any) -> Any:
    """The sum of 16 lanes, as a vector of one."""
    for half in (8, 4, 2, 1):
        upper = _choose(builder, vector, vector, range(half, 2 * half))
        vector = builder.fadd(_choose(builder, vector, vector, range(half)), upper)
    return vector


@intrinsic  # type: ignore[untyped-decorator]
def _wide(context: Any, stored: Any) -> Any:
    """A stored number as float32, as `single` but by F16C."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        if stored == types.uint16:
            return builder.fpext(builder.bitcast(arguments[0], ir.HalfType()), _SINGLE)
        return context.cast(builder, arguments[0], stored, types.float32)

    return types.float32(stored), generate


to_single = _wide if _FEATURES.get("f16c") else single


@intrinsic  # type: ignore[untyped-decorator]
def dot(
    context: Any, form: Any, kind: Any, codes: Any, table: Any, factors: Any, shifts: Any, x: Any, pieces: Any
) -> Any:  # fmt: skip
    """The dot product of a row, in pieces of 128 codes, with `x`; see `decode`.

    `kind`: a tuple of length 0 for table[code], 1 for factor * table[code], 2 for factor * (table[code] - shift), with
    a factor and a shift for each 32.
    """
    bits, parameters = len(form), len(kind)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, _, codes, table, factors, shifts, x, pieces = arguments
        tables = _loaded(builder, table, bits)
        # More than one sum, since the next addition to the same would wait for the last.
        totals = [cgutils.alloca_once_value(builder, _of(_SINGLE, 0.0)) for _ in range(4)]

        def plus(total: Any, one: Any, other: Any) -> Any:
            return builder.fadd(total, builder.fmul(one, other, flags=("contract",)), flags=("contract",))

        with cgutils.for_range(builder, pieces) as loop:

            def at(address: Any, size: int) -> Any:
                return builder.add(address, builder.mul(loop.index, ir.Constant(address.type, size)))

            # The codes come from memory, a while from now; past the end, this does nothing.
            later = builder.add(at(codes, 16 * (bits or 8)), ir.Constant(codes.type, _AHEAD))
            later = builder.inttoptr(later, _BYTE.as_pointer())
            _call(builder, "llvm.prefetch.p0i8", ir.VoidType(), [later, _INT(0), _INT(3), _INT(1)])
            place = at(x, 512)
            given = [builder.load(_vector(builder, place, _SINGLE, 16, 64 * i), align=4) for i in range(8)]
            numbers = _numbers(builder, at(codes, 16 * (bits or 8)), bits, table, tables)
            for i, total in enumerate(totals):
                sofar = builder.load(total)
                part = _of(_SINGLE, -0.0) if parameters else sofar
                if parameters == 2:
                    both = builder.fadd(given[2 * i], given[2 * i + 1])
                    part = builder.fneg(builder.fmul(both, _spread(builder, at(shifts, 16), 4 * i)))
                for j in (2 * i, 2 * i + 1):
                    part = plus(part, numbers[j], given[j])
                if parameters:
                    part = plus(sofar, part, _spread(builder, at(factors, 16), 4 * i))
                builder.store(part, total)
        one, two, three, four = (builder.load(total) for total in totals)
        result = _total(builder, builder.fadd(builder.fadd(one, two), builder.fadd(three, four)))
        return builder.extract_element(result, _INT(0))

    return types.float32(form, kind, *[types.uintp] * 6), generate


@intrinsic  # type: ignore[untyped-decorator]
def decode(
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
        tables = _loaded(builder, table, bits)
        with cgutils.for_range(builder, pieces) as loop:

            def at(address: Any, size: int) -> Any:
                return builder.add(address, builder.mul(loop.index, ir.Constant(address.type, size)))

            every = _numbers(builder, at(codes, 16 * (bits or 8)), bits, table, tables)
            for i, numbers in enumerate(every):
                numbers = builder.fsub(numbers, _spread(builder, at(shifts, 32), 4 * i))
                numbers = builder.fmul(numbers, _spread(builder, at(factors, 32), 4 * i))
                builder.store(numbers, _vector(builder, at(out, 512), _SINGLE, 16, 64 * i), align=4)
        return context.get_dummy_value()

    return types.void(form, *[types.uintp] * 6), generate


@intrinsic  # type: ignore[untyped-decorator]
def products(
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
            builder.store(_total(builder, builder.load(total)), _vector(builder, sums, _SINGLE, 1, 4 * i), align=4)
        return context.get_dummy_value()

    return types.void(tokens, *[types.uintp] * 6), generate
