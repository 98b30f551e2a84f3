"""Packing, and what compressed weights decompress to."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from corepress.weights import Palettized, Quantized, Sparse, kept_values, pack_bits, unpack_bits
from corepress.weights.blocks import from_rows, to_rows
from tests.kernels.grid.cases import Case
from tests.kernels.grid.numbers import bell, every_half, integers, wide

SIZES = (0, 1, 7, 8, 9, 15, 16, 17, 1000, 4099)


def packing() -> Iterator[Case]:
    for bits in range(1, 9):
        for signed in (False, True):
            results = []
            for size in SIZES:
                low = -(1 << (bits - 1)) if signed else 0
                values = integers(size + bits, low, low + (1 << bits) - 1, (size,), "int8" if signed else "uint8")
                packed = pack_bits(values, bits)
                results += [packed, unpack_bits(packed, bits, size, signed=signed)]
            yield Case(f"{bits} bits{', signed' if signed else ''}", tuple(results))


def kept() -> Iterator[Case]:
    for dtype in ("int8", "uint8", "float16", "float32", "float64"):
        # Processors differ in what a negative number becomes as uint8, unless it is an integer before.
        between = np.int64 if "int" in dtype else np.float64
        results = []
        for size in SIZES:
            for share in (0, 1, 2, 4):
                mask = integers(size + share, 0, 4, (size,)) < share + (share == 4)
                results.append(kept_values(bell(size, (size,), 2.0**-12).astype(between).astype(dtype), mask))
        yield Case(dtype, tuple(results))


def blocks() -> Iterator[Case]:
    cases = [
        ((6, 64), (1, 4)),
        ((64, 70), (4, 70)),
        ((33, 65), (1, 65)),
        ((4, 6, 10), (2, 3, 1)),
        ((8, 3, 3, 3), (1, 3, 1, 1)),
    ]
    for shape, counts in [*cases, ((1, 1), (1, 1)), ((100, 32), (25, 32))]:
        results = []
        for dtype in ("uint8", "float16", "float32", "float64"):
            array = integers(sum(shape), 0, 255, shape, dtype)
            rows = to_rows(array, counts)
            results += [rows, from_rows(rows, shape, counts)]
        yield Case(f"{shape} in {counts}", tuple(results))


def palettized() -> Iterator[Case]:
    groupings = [
        ((12, 40), (1, 1)),
        ((12, 40), (4, 1)),
        ((12, 40), (1, 5)),
        ((12, 40), (3, 4)),
        ((8, 6, 3, 3), (4, 2, 1, 1)),
    ]
    for bits in range(1, 9):
        for dtype in ("float16", "float32", "int8", "uint8"):
            results = []
            for shape, counts in groupings:
                indices = integers(bits, 0, (1 << bits) - 1, shape, "uint8")
                lut = integers(bits + 1, -128, 127, (*counts, 1 << bits, 1), "int8")
                values = lut.view(dtype) if "int" in dtype else (lut * 0.75).astype(dtype)
                results.append(Palettized(indices, values).decompress())
            yield Case(f"{bits} bits, {dtype}", tuple(results))


def vectors() -> Iterator[Case]:
    for bits in (1, 4, 8):
        for dim in (2, 3, 4, 8):
            results = []
            for dtype in ("float16", "float32", "int8"):
                for shape, axis, counts in (((4, 20), 0, (2, 1)), ((12, 5), 1, (1, 1)), ((3, 4, 5), 0, (3, 1, 1))):
                    indices = integers(bits + dim, 0, (1 << bits) - 1, shape, "uint8")
                    lut = integers(dim, -128, 127, (*counts, 1 << bits, dim), dtype)
                    results.append(Palettized(indices, lut, axis).decompress())
            yield Case(f"{bits} bits of {dim}", tuple(results))


COUNTS = {"tensor": (1, 1), "channel": (24, 1), "columns": (1, 36), "blocks": (24, 4), "tiles": (6, 3)}


def quantized() -> Iterator[Case]:
    for name, (low, high) in {"int4": (-8, 7), "uint4": (0, 15), "int8": (-128, 127), "uint8": (0, 255)}.items():
        kind = name.rstrip("48") + "8"
        data = integers(3, low, high, (24, 36), kind)
        for scale_type in ("float16", "float32"):
            for offset_type in ("none", kind, scale_type):
                results = []
                for counts in COUNTS.values():
                    offset = None if offset_type == "none" else integers(5, low, high, counts, offset_type)
                    if offset_type == scale_type:
                        offset = (offset * 0.75).astype(scale_type)
                    for scale in (bell(7, counts, 2.0**-20), wide(8, counts, -24, 17)):
                        with np.errstate(over="ignore"):
                            scale = scale.astype(scale_type)
                        results.append(Quantized(data, scale, offset, int(name[-1])).decompress())
                yield Case(f"{name}, {scale_type} scales, {offset_type} offsets", tuple(results))


def halves() -> Iterator[Case]:
    """Every float16 through every rounding: as data, as scale, and as what a float32 is rounded to."""
    ones = np.ones((256, 256), np.int8)
    every = every_half().reshape(256, 256)
    indices = np.arange(256, dtype=np.uint8)[None].repeat(256, axis=0)
    lut = every.reshape(256, 1, 256, 1)
    with np.errstate(all="ignore"):
        for scale in (1.0, 1.5, 2.0**-10 * 1.25, 2.0**-24, -3.0, 1000.0):
            for kind in ("float16", "float32"):
                scales = np.full((256, 1), scale, kind)
                for offset in (0.0, 0.375):
                    form = Quantized(Palettized(indices, lut), scales, np.full((256, 1), offset, kind))
                    yield Case(f"data under {kind} {scale} from {offset}", (form.decompress(),))
        for factor in (1, 3, 127, -128):
            yield Case(f"scales of {factor}", (Quantized(ones * np.int8(factor), every).decompress(),))


def sparse() -> Iterator[Case]:
    mask = integers(2, 0, 2, (24, 36)) > 0
    indices, lut = integers(3, 0, 15, (24, 36), "uint8"), bell(4, (4, 1, 16, 1))
    data, scale = integers(5, -128, 127, (24, 36), "int8"), bell(6, (24, 1))
    for kind in ("float16", "float32"):
        dense, table, scales = bell(1, (24, 36)).astype(kind), lut.astype(kind), scale.astype(kind)
        dense[~mask] = np.nan
        int8_lut = Quantized(integers(7, -128, 127, (4, 1, 16, 1), "int8"), table[:, :, :1])
        yield Case(f"{kind}, dense", (Sparse(mask, dense).decompress(),))
        yield Case(f"{kind}, palettized", (Sparse(mask, Palettized(indices, table)).decompress(),))
        yield Case(f"{kind}, int8 table", (Sparse(mask, Palettized(indices, int8_lut)).decompress(),))
        yield Case(f"{kind}, quantized", (Sparse(mask, Quantized(data, scales)).decompress(),))
        both = Quantized(Palettized(indices, integers(8, -128, 127, (4, 1, 16, 1), "int8")), scales)
        yield Case(f"{kind}, quantized and palettized", (both.decompress(), Sparse(mask, both).decompress()))


GROUPS = (packing, kept, blocks, palettized, vectors, quantized, halves, sparse)
