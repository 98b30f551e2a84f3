"""New numbers in the operations that hold a weight, which stay what they are: names, types, shapes, sharing."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from corepress.errors import UnsupportedError
from corepress.formats.mlprogram.constexpr import Store
from corepress.formats.mlprogram.program import Node
from corepress.formats.mlprogram.values import tensor_type
from corepress.formats.mlprogram.weight import Weight
from corepress.weights import (
    CompressedWeight,
    Palettized,
    Quantized,
    Sparse,
    decompress,
    index_mask,
    kept_values,
    pack_bits,
)

Array = NDArray[Any]


class Place(NamedTuple):
    """A MIL value in the program, and the array that it is to hold, stored with so many bits."""

    value: Any
    array: Array
    bits: int | None


def revalue(weight: Weight, form: Array | CompressedWeight, store: Store) -> None:
    """Put a form into the operations that hold a weight of the same form. UnsupportedError: see `places`."""
    for place in places(weight, form):
        place.value.CopyFrom(store(place.array, place.bits))


def places(weight: Weight, form: Array | CompressedWeight) -> list[Place]:
    """Where the numbers of a form go in the operations that hold a weight of the same form.

    Raises UnsupportedError where they can't hold them: what is computed, shared with another weight, or one number for
    all that the form has for each.
    """
    if isinstance(form, np.ndarray):
        return [_place(weight.node, "val" if weight.argument is None else weight.argument, form)]
    return _form(weight.node, form)


def _form(node: Node, form: CompressedWeight) -> list[Place]:
    if isinstance(form, Palettized):
        return _tables(node, form)
    return _integers(node, form) if isinstance(form, Quantized) else _sparse(node, form)


def _tables(node: Node, form: Palettized) -> list[Place]:
    _expect(node, "constexpr_lut_to_dense")
    if node.operand("shape") is not None:  # first generation
        indices, table = pack_bits(form.indices, form.bits), decompress(form.lut).reshape(-1)
        return [_place(node, "indices", indices), _place(node, "lut", table)]
    return [_place(node, "indices", form.indices), *_below(node, "lut", form.lut)]


def _integers(node: Node, form: Quantized) -> list[Place]:
    if node.type == "constexpr_affine_dequantize":
        assert isinstance(form.data, np.ndarray)
        return [_place(node, "quantized_data", form.data), _place(node, "scale", form.stored_scale)]
    _expect(node, "constexpr_blockwise_shift_scale")
    found = [*_below(node, "data", form.data), _place(node, "scale", form.stored_scale)]
    return found + _offset(node, form)


def _sparse(node: Node, form: Sparse) -> list[Place]:
    _expect(node, "constexpr_sparse_to_dense")
    if isinstance(form.values, np.ndarray):
        return [_place(node, "nonzero_data", kept_values(form.values, form.mask))]
    return _sparse_values(_node_of(node, "nonzero_data"), form.mask, form.values)


def _sparse_values(node: Node, mask: NDArray[np.bool_], form: Palettized | Quantized) -> list[Place]:
    if isinstance(form, Palettized):
        _expect(node, "constexpr_lut_to_sparse")
        kept = kept_values(form.indices, index_mask(mask, form))
        return [_place(node, "indices_nonzero_data", kept), *_below(node, "lut", form.lut)]
    _expect(node, "constexpr_sparse_blockwise_shift_scale")
    if isinstance(form.data, Palettized):
        data = _sparse_values(_node_of(node, "nonzero_data"), mask, form.data)
    else:
        data = [_place(node, "nonzero_data", kept_values(form.data, mask))]
    return [*data, _place(node, "scale", form.stored_scale), *_offset(node, form)]


def _offset(node: Node, form: Quantized) -> list[Place]:
    return [] if form.offset is None else [_place(node, "offset", form.offset)]


def _below(node: Node, argument: str, form: Array | CompressedWeight) -> list[Place]:
    """The places of an argument that is an array, or computed by an operation of its own."""
    return [_place(node, argument, form)] if isinstance(form, np.ndarray) else _form(_node_of(node, argument), form)


def _place(node: Node, argument: str, array: Array) -> Place:
    operand = node.operand(argument)
    while operand is not None and operand.node is not None:
        inner = operand.node
        if not inner.is_const:
            raise UnsupportedError(f"{node}: its {argument} is computed")
        if len(inner.uses) > 1 and argument != "val":
            raise UnsupportedError(f"{node}: its {argument} is shared with another operation")
        node, argument = inner, "val"
        operand = node.operand(argument)
    kind = None if operand is None else tensor_type(operand.value)
    if operand is None or kind is None:
        raise UnsupportedError(f"{node}: its {argument} is not a tensor")
    if array.size != np.prod(kind[1], dtype=int):
        raise UnsupportedError(f"{node}: its {argument} is stored in another shape")
    return Place(
        operand.value, np.ascontiguousarray(array).reshape(kind[1]), kind[0].bits if array.itemsize == 1 else None
    )


def _node_of(node: Node, argument: str) -> Node:
    operand = node.operand(argument)
    if operand is None or operand.node is None:
        raise UnsupportedError(f"{node}: its {argument} is not computed by an operation")
    if len(operand.node.uses) > 1 and argument == "lut":
        raise UnsupportedError(f"{node}: its {argument} is shared with another operation")
    return operand.node


def _expect(node: Node, kind: str) -> None:
    if node.type != kind:
        raise UnsupportedError(f"{node}: it holds its weight in another form than it reads as")
