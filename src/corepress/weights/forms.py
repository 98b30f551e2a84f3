"""The three forms of a compressed weight, and how each becomes dense again.

A form is a small tree that mirrors the chain of `constexpr_*` operations that stores it, so the joint forms are
compositions, not classes of their own:

- an int8 LUT is `Palettized(indices, lut=Quantized(...))`;
- a per-channel scale on a palettized weight is `Quantized(data=Palettized(...), scale)`;
- the non-zero values of a sparse weight, palettized or quantized, are `Sparse(mask, Palettized | Quantized)`.

The arithmetic is that of the MIL operations (coremltools documentation, "MIL ops: constexpr", iOS16 and iOS18
opsets) and gives the same bits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Union

import numpy as np
from numpy.typing import NDArray

from corepress.errors import FormatError
from corepress.kernels.linear import shift_scale_rows
from corepress.kernels.lookup import look_up_rows
from corepress.weights.blocks import from_rows, to_rows
from corepress.weights.packing import packed_size

Array = NDArray[Any]
CompressedWeight = Union["Palettized", "Quantized", "Sparse"]

# Of an index into a look-up table, in Core ML and in Core AI.
INDEX_BITS = (1, 2, 3, 4, 6, 8)


def index_bits(entries: int) -> int:
    """The fewest bits that indices into a table of so many entries, up to 256, can have."""
    return next(bits for bits in INDEX_BITS if entries <= 1 << bits)


def decompress(weight: Array | CompressedWeight) -> Array:
    """The dense value of a weight in any form; an array is its own dense value."""
    return weight if isinstance(weight, np.ndarray) else weight.decompress()


def stored_bytes(weight: Array | CompressedWeight) -> int:
    """Payload bytes of a weight in any form, without the headers and the alignment of a file."""
    return weight.nbytes


@dataclass(frozen=True, eq=False)
class Palettized:
    """Indices into one or more look-up tables (LUT).

    `indices`: uint8, of the weight's shape; with vector entries, its `vector_axis` is `cluster_dim` times shorter.
    `lut`: (groups on each axis of `indices`..., 2**bits, cluster_dim), float16, float32, int8 or uint8; or a
    `Quantized` whose dense value has that shape. Axis i holds `lut.shape[i]` equal groups of indices.
    `vector_axis`: the axis that the entries of a vector LUT lie along; None for scalar entries.
    """

    indices: NDArray[np.uint8]
    lut: Array | Quantized
    vector_axis: int | None = None

    @property
    def bits(self) -> int:
        return int(math.log2(self.lut.shape[-2]))

    @property
    def cluster_dim(self) -> int:
        return int(self.lut.shape[-1])

    @property
    def shape(self) -> tuple[int, ...]:
        shape = list(self.indices.shape)
        if self.cluster_dim > 1:
            assert self.vector_axis is not None
            shape[self.vector_axis] *= self.cluster_dim
        return tuple(shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.lut.dtype

    @property
    def nbytes(self) -> int:
        return packed_size(self.indices.size, self.bits) + self.lut.nbytes

    def decompress(self) -> Array:
        lut = decompress(self.lut)
        counts, (entries, dim) = lut.shape[:-2], lut.shape[-2:]
        if entries < 256 and self.indices.max(initial=0) >= entries:
            raise FormatError(f"an index is {self.indices.max()}, but the look-up table has {entries} entries")
        rows = to_rows(self.indices, counts)
        dense = look_up_rows(rows, lut.reshape(len(rows), entries, dim))
        dense = from_rows(dense, (*self.indices.shape, dim), (*counts, 1))
        if dim == 1:
            return dense.reshape(self.indices.shape)
        assert self.vector_axis is not None
        axis = self.vector_axis % self.indices.ndim
        return np.moveaxis(dense, -1, axis + 1).reshape(self.shape)


@dataclass(frozen=True, eq=False)
class Quantized:
    """`scale * (data - offset)`, each scale serving one block of the data.

    `data`: int8 or uint8 numbers of `bits` bits (2, 4 or 8), or floating point of 4 or 8; or a `Palettized`, then the
    LUT holds those integers, or floating-point values that only need a scale.
    `scale`: float16 or float32, of the rank of `data`; each of its dimensions divides that of `data`.
    `offset`: of the shape of `scale` and of the type of `data` (or floating point); None for zero.
    `exponents`: scales are powers of two, of which the exponents alone are stored, in 8 bits (E8M0).
    """

    data: Array | Palettized
    scale: Array
    offset: Array | None = None
    bits: int = 8
    exponents: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.data.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.scale.dtype

    @property
    def nbytes(self) -> int:
        data = self.data.nbytes if isinstance(self.data, Palettized) else self._array_bytes(self.data)
        return data + self.stored_scale.nbytes + (0 if self.offset is None else self._array_bytes(self.offset))

    @property
    def stored_scale(self) -> Array:
        """The scales in the type in which they are stored."""
        if not self.exponents:
            return self.scale
        import ml_dtypes

        return self.scale.astype(ml_dtypes.float8_e8m0fnu)

    def _array_bytes(self, array: Array) -> int:
        return packed_size(array.size, self.bits) if array.dtype.itemsize == 1 else int(array.nbytes)

    def decompress(self) -> Array:
        data = decompress(self.data)
        if data.dtype.kind not in "iuf":  # floating point of 4 or 8 bits
            data = data.astype(self.scale.dtype)
        rows = to_rows(data, self.scale.shape)
        offset = np.zeros_like(self.scale) if self.offset is None else self.offset.astype(self.scale.dtype)
        dense = shift_scale_rows(rows, self.scale.reshape(-1), offset.reshape(-1))
        return from_rows(dense, data.shape, self.scale.shape)


@dataclass(frozen=True, eq=False)
class Sparse:
    """A weight of which only the values under `mask` are stored; the others are zero.

    `mask`: bool, of the weight's shape. Under a vector LUT a whole vector is kept or left out together.
    `values`: the dense array, or a `Palettized` or `Quantized` of the weight's shape, whatever it holds outside
    the mask being ignored.
    """

    mask: NDArray[np.bool_]
    values: Array | Palettized | Quantized

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.mask.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.values.dtype

    @property
    def nbytes(self) -> int:
        inner = self.values.data if isinstance(self.values, Quantized) else self.values
        vector = inner.cluster_dim if isinstance(inner, Palettized) else 1  # one bit for each vector
        kept = int(np.count_nonzero(self.mask))
        return packed_size(self.mask.size // vector, 1) + _kept_bytes(self.values, kept)

    def decompress(self) -> Array:
        dense = decompress(self.values)
        # Times 0 or 1 on the bits: np.where takes 20 times as long on float16, and a value left out may be NaN.
        return (dense.view(f"u{dense.itemsize}") * self.mask).view(dense.dtype)


def _kept_bytes(values: Array | Palettized | Quantized, kept: int) -> int:
    """Bytes of the `kept` stored values; LUT, scale and offset count whole."""
    if isinstance(values, Palettized):
        return packed_size(kept // values.cluster_dim, values.bits) + values.lut.nbytes
    if isinstance(values, Quantized):
        if isinstance(values.data, Palettized):
            return values.nbytes - values.data.nbytes + _kept_bytes(values.data, kept)
        return values.nbytes - values._array_bytes(values.data) + packed_size(kept, values.bits)
    return kept * values.dtype.itemsize


def index_mask(mask: NDArray[np.bool_], weight: Palettized) -> NDArray[np.bool_]:
    """The mask at the granularity of the indices: one entry for each vector."""
    if weight.vector_axis is None:
        return mask
    every = [slice(None)] * mask.ndim
    every[weight.vector_axis] = slice(None, None, weight.cluster_dim)
    return np.ascontiguousarray(mask[tuple(every)])
