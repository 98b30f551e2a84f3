"""One table of the data types that a weight can have: in the program, in the weight file, in NumPy.

Numbers: enum `DataType` of Apple's `MIL.proto`, and the `mil_dtype` of a blob record, read off files that
coremltools 9.0 writes.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class DType:
    """`name`: MIL's name; `mil`: number in the program; `blob`: number in the weight file (None: never there);
    `unpacked`: NumPy's name of the type of the unpacked array; `bits`: stored bits of one element; `field`: the member
    of an immediate `TensorValue` that holds it."""

    name: str
    mil: int
    blob: int | None
    unpacked: str
    bits: int
    field: str

    @functools.cached_property
    def numpy(self) -> np.dtype[Any]:
        """The type of the unpacked array."""
        if self.unpacked.startswith(("bfloat", "float8", "float4")):
            import ml_dtypes  # noqa: F401 - NumPy knows the name from then on

        return np.dtype(self.unpacked)

    @property
    def sub_byte(self) -> bool:
        return self.bits < 8

    @property
    def signed(self) -> bool:
        return not self.unpacked.startswith(("uint", "bool", "bfloat", "float8", "float4"))


TABLE = tuple(
    DType(*entry)
    for entry in (
        ("bool", 1, None, "bool", 8, "bools"),
        ("float16", 10, 1, "float16", 16, "bytes"),
        ("float32", 11, 2, "float32", 32, "floats"),
        ("float64", 12, None, "float64", 64, "doubles"),
        ("bfloat16", 13, 5, "bfloat16", 16, "bytes"),
        ("int8", 21, 4, "int8", 8, "bytes"),
        ("int16", 22, 6, "int16", 16, "ints"),
        ("int32", 23, 14, "int32", 32, "ints"),
        ("int64", 24, None, "int64", 64, "longInts"),
        ("int4", 25, 8, "int8", 4, "bytes"),
        ("uint8", 31, 3, "uint8", 8, "bytes"),
        ("uint16", 32, 7, "uint16", 16, "ints"),
        ("uint32", 33, 15, "uint32", 32, "bytes"),
        ("uint64", 34, None, "uint64", 64, "longInts"),
        ("uint4", 35, 11, "uint8", 4, "bytes"),
        ("uint2", 36, 10, "uint8", 2, "bytes"),
        ("uint1", 37, 9, "uint8", 1, "bytes"),
        ("uint6", 38, 13, "uint8", 6, "bytes"),
        ("uint3", 39, 12, "uint8", 3, "bytes"),
        # Of Core AI alone: no file of Core ML has these numbers.
        ("int2", 1025, None, "int8", 2, "bytes"),
        ("float4_e2m1fn", 1026, None, "float4_e2m1fn", 4, "bytes"),
        ("float8_e4m3fn", 1027, None, "float8_e4m3fn", 8, "bytes"),
        ("float8_e5m2", 1028, None, "float8_e5m2", 8, "bytes"),
        ("float8_e8m0fnu", 1029, None, "float8_e8m0fnu", 8, "bytes"),
    )
)

BY_NAME = {dtype.name: dtype for dtype in TABLE}
BY_MIL = {dtype.mil: dtype for dtype in TABLE}
BY_BLOB = {dtype.blob: dtype for dtype in TABLE if dtype.blob is not None}

STRING_MIL = 2
# The names that operations take as an argument; the type system itself says float16 and float32.
_SHORT = {"fp16": "float16", "fp32": "float32", "fp64": "float64"}


def named(name: str) -> DType | None:
    """The type that MIL calls `name`, also in the short form of arguments: "fp16"; None for an unknown one."""
    lower = name.lower()
    return BY_NAME.get(_SHORT.get(lower, lower))


def dtype_of(numpy: np.dtype[Any], bits: int | None = None) -> DType:
    """The stored type of an array of NumPy type `numpy`; `bits` when it is narrower than the array."""
    if bits is not None and bits < 8 and numpy.kind in "iu":
        return BY_NAME[f"{'int' if numpy.kind == 'i' else 'uint'}{bits}"]
    return BY_NAME[numpy.name]
