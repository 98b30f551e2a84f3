"""Forms of compressed weights as constants of Core AI: the other direction of `reading.py`.

What the library stores, its runtime executes, and gives our very values (`tests/formats/coreai`): indices of 1 to 8
bits, tables for groups and of vectors, scales over tables, masks over most of these. `storable` brings the others into
a form that there is.
"""

from __future__ import annotations

from dataclasses import replace
from functools import singledispatch
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corepress.formats.coreai.library import calls, make_constant
from corepress.formats.dtypes import BY_NAME, DType, dtype_of
from corepress.weights import (
    INDEX_BITS,
    CompressedWeight,
    Palettized,
    Quantized,
    Sparse,
    index_bits,
    index_mask,
    kept_values,
)
from corepress.weights.blocks import spread

Array = NDArray[Any]
_MASK = BY_NAME["uint1"]


@singledispatch
def constant(form: Any) -> Any:
    """Insert what gives the dense value of a weight, at the place where operations are being inserted; its value."""
    raise TypeError(f"{type(form).__name__} is no form of a weight")


@constant.register
def _dense(form: np.ndarray) -> Any:  # type: ignore[type-arg]
    return make_constant(form, dtype_of(form.dtype))


@constant.register
def _palettized(form: Palettized) -> Any:
    indices = make_constant(form.indices, dtype_of(form.indices.dtype, form.bits))
    return calls().lut_to_dense(indices, constant(form.lut), _axis(form))


@constant.register
def _quantized(form: Quantized) -> Any:
    if isinstance(form.data, Palettized):
        return _scaled(constant(form.data), form, dtype_of(form.data.dtype))
    dtype = dtype_of(form.data.dtype, form.bits)
    return _scaled(make_constant(form.data, dtype), form, dtype)


@constant.register
def _sparse(form: Sparse) -> Any:
    values, mask = form.values, form.mask
    if isinstance(values, np.ndarray):
        return _made_dense(_built(values, mask, dtype_of(values.dtype)))
    if isinstance(values, Palettized):
        return _made_dense(_sparse_look_up(values, mask))
    dtype = dtype_of(values.data.dtype)
    if isinstance(values.data, Palettized):
        return _scaled(_made_dense(_sparse_look_up(values.data, mask)), values, dtype)
    return _scaled(_made_dense(_built(values.data, mask, dtype)), values, dtype)


def storable(form: Array | CompressedWeight) -> Array | CompressedWeight:
    """A form with the same values that Core AI can store, mostly the form itself.

    There is no mask over numbers of 4 bits and fewer, and none over offsets, which would move the zeros: under a mask
    such numbers, less their offsets, become indices into a table of them. Where they are too many for that, and where
    it would take more, those of the zeros are stored, too. Under a mask the runtime has vectors along the last axis
    only: along another one the zeros get an entry of the table.
    """
    if not isinstance(form, Sparse) or isinstance(form.values, np.ndarray):
        return form
    values, mask = form.values, form.mask
    if isinstance(values, Palettized):
        return form if _last(values) else _with_zero_entry(values, mask)
    if isinstance(values.data, Palettized):
        if values.offset is not None:
            return Sparse(mask, values.decompress())
        if _last(values.data):
            return form
        entered = _with_zero_entry(values.data, mask)
        return entered if isinstance(entered, Sparse) else replace(values, data=entered)
    if values.offset is None and values.bits == 8:
        return form
    zero = np.zeros((), values.data.dtype) if values.offset is None else spread(values.offset, values.shape)
    whole = replace(values, data=np.where(mask, values.data, zero))
    listed = _in_a_table(values, mask)
    return whole if listed is None or listed.nbytes >= whole.nbytes else listed


def _in_a_table(values: Quantized, mask: NDArray[np.bool_]) -> Sparse | None:
    """The numbers under a mask as indices into a table of them; None where there are too many."""
    data: Any = values.data
    integers = data.dtype.kind in "iu"
    # Floating point of 4 bits and the differences of integers of 8 are numbers of float16, all of them.
    kept = data[mask].astype(np.int16 if integers else values.scale.dtype)
    if values.offset is not None:
        if values.offset.dtype.kind == "f":
            return None
        kept -= spread(values.offset.astype(np.int16), values.shape)[mask]
    entries, found = np.unique(kept, return_inverse=True)
    if not 0 < len(entries) <= 1 << INDEX_BITS[-1]:
        return None
    small = bool(integers and entries[0] >= -128 and entries[-1] <= 127)
    lut = np.zeros(1 << index_bits(len(entries)), np.int8 if small else values.dtype)
    lut[: len(entries)] = entries
    indices = np.zeros(mask.shape, np.uint8)
    indices[mask] = found
    table = Palettized(indices, lut.reshape(*[1] * mask.ndim, -1, 1))
    # The runtime has scales of 8 bits over integers only.
    return Sparse(mask, replace(values, data=table, offset=None, bits=8, exponents=values.exponents and small))


def _last(form: Palettized) -> bool:
    return form.vector_axis is None or form.vector_axis == form.indices.ndim - 1


def _with_zero_entry(form: Palettized, mask: NDArray[np.bool_]) -> Palettized | Sparse:
    """A table with zeros as a further entry, and no mask; a mask over dense values where the table is full."""
    entries = form.lut.shape[-2]
    if entries == 1 << INDEX_BITS[-1] or not isinstance(form.lut, np.ndarray):
        return Sparse(mask, form.decompress())
    widths = [(0, 0)] * form.lut.ndim
    widths[-2] = 0, (1 << index_bits(entries + 1)) - entries
    indices = np.where(index_mask(mask, form), form.indices, form.indices.dtype.type(entries))
    return Palettized(indices, np.pad(form.lut, widths), form.vector_axis)


def _scaled(data: Any, form: Quantized, dtype: DType) -> Any:
    offset = np.zeros(form.scale.shape, dtype.numpy) if form.offset is None else form.offset
    zeros = np.zeros(form.scale.shape, form.scale.dtype)
    parts = constant(form.stored_scale), make_constant(offset, dtype), constant(zeros)
    return calls().blockwise_shift_scale(data, *parts)


def _sparse_look_up(form: Palettized, mask: NDArray[np.bool_]) -> Any:
    indices = _built(form.indices, index_mask(mask, form), dtype_of(form.indices.dtype, form.bits))
    return calls().lut_to_sparse_with_bitmask(indices, constant(form.lut), _axis(form))


def _built(values: Array, mask: NDArray[np.bool_], dtype: DType) -> Any:
    kept = make_constant(kept_values(values, mask), dtype)
    return calls().build_sparse_with_bitmask(kept, make_constant(mask.view(np.uint8), _MASK))


def _made_dense(sparse: Any) -> Any:
    return calls().sparse_with_bitmask_to_dense(sparse)


def _axis(form: Palettized) -> Any:
    return constant(np.array(form.vector_axis or 0, np.int16))
