"""The form of a stored weight without its numbers: shapes, types and counts of tables and scales. Whether an offset of
the first generation of operations is zero is such a number, too: none is told.

Rules look at the values of `corepress.weights`. An outline is such a value whose arrays have the right shape and type
but take no memory, so that nothing is read from the weight file.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corepress.formats.dtypes import BY_MIL, DType
from corepress.formats.mlprogram import Weight
from corepress.formats.mlprogram.program import Node
from corepress.formats.mlprogram.values import tensor_type
from corepress.weights import CompressedWeight, Palettized, Quantized, Sparse

_SCALED = ("constexpr_blockwise_shift_scale", "constexpr_sparse_blockwise_shift_scale")
_LUT = ("constexpr_lut_to_dense", "constexpr_lut_to_sparse")


def outline(weight: Weight) -> CompressedWeight | None:
    """The form of a compressed weight; None for a plain one, and for what does not fit together."""
    return None if weight.argument is not None else _form(weight.node, weight.shape)


def outlines(weights: list[Weight]) -> list[tuple[Weight, CompressedWeight]]:
    """The compressed ones among some weights, each with its form."""
    return [(weight, form) for weight in weights if (form := outline(weight)) is not None]


def _form(node: Node, shape: tuple[int, ...]) -> CompressedWeight | None:
    if node.type in _LUT:
        return _palettized(node, shape)
    if node.type in _SCALED:
        return _scaled(node, shape)
    if node.type == "constexpr_affine_dequantize":
        return _by_axis(node, shape)
    if node.type == "constexpr_sparse_to_dense":
        return _sparse(node, shape)
    return None


def _palettized(node: Node, shape: tuple[int, ...]) -> Palettized | None:
    lut = _type(node, "lut")
    if lut is None:
        return None
    dtype, sizes = lut
    if len(sizes) == 1:  # first generation: one table for all
        sizes = (*(1 for _ in shape), sizes[0], 1)
    if len(sizes) != len(shape) + 2 or min(sizes) < 1:
        return None
    # Rules ask for the length of a table's entries only, so that any axis will do which they divide.
    length = sizes[-1]
    vectors = None if length == 1 else next((axis for axis, size in enumerate(shape) if size % length == 0), 0)
    indices = tuple(size // length if axis == vectors else size for axis, size in enumerate(shape))
    below = _producer(node, "lut")
    scaled = _scaled(below, sizes) if below is not None and below.type in _SCALED else None
    table = scaled if isinstance(scaled, Quantized) else _empty(dtype.unpacked, sizes)
    return Palettized(_empty("uint8", indices), table, vectors)


def _scaled(node: Node, shape: tuple[int, ...]) -> CompressedWeight | None:
    sparse = node.type == "constexpr_sparse_blockwise_shift_scale"
    argument = "nonzero_data" if sparse else "data"
    scale, data = _type(node, "scale"), _type(node, argument)
    if scale is None or data is None or len(scale[1]) != len(shape) or min(scale[1], default=1) < 1:
        return None
    scales = _empty(scale[0].unpacked, scale[1])
    offset = _type(node, "offset")
    offsets = None if offset is None else _empty(offset[0].unpacked, scale[1])
    below = _producer(node, argument)
    if below is not None and below.type in _LUT:
        palettized = _palettized(below, shape)
        return None if palettized is None else Quantized(palettized, scales, offsets)
    return Quantized(_empty(data[0].unpacked, shape), scales, offsets, min(data[0].bits, 8))


def _by_axis(node: Node, shape: tuple[int, ...]) -> Quantized | None:
    data, scale, zero = (_type(node, name) for name in ("quantized_data", "scale", "zero_point"))
    if data is None or scale is None:
        return None
    count = max(math.prod(scale[1]), math.prod(zero[1]) if zero else 1)
    axis = next((axis for axis, size in enumerate(shape) if size == count), None)
    counts = tuple(count if i == axis else 1 for i in range(len(shape)))
    return Quantized(_empty(data[0].unpacked, shape), _empty(scale[0].unpacked, counts))


def _sparse(node: Node, shape: tuple[int, ...]) -> Sparse | None:
    mask = _empty("bool", shape)
    below = _producer(node, "nonzero_data")
    if below is not None and below.is_constexpr:
        inner = _form(below, shape)
        return None if inner is None or isinstance(inner, Sparse) else Sparse(mask, inner)
    data = _type(node, "nonzero_data")
    return None if data is None else Sparse(mask, _empty(data[0].unpacked, shape))


def _producer(node: Node, argument: str) -> Node | None:
    """The node that an argument comes from, unless that is a plain constant."""
    operand = node.operand(argument)
    below = operand.node if operand is not None else None
    return None if below is None or below.is_const else below


def _type(node: Node, argument: str) -> tuple[DType, tuple[int, ...]] | None:
    """The type and shape of an argument, wherever it is given."""
    operand = node.operand(argument)
    if operand is None:
        return None
    if operand.value is not None:
        return tensor_type(operand.value)
    if operand.node is None or operand.output >= len(operand.node.op.outputs):
        return None
    return type_of(operand.node.op.outputs[operand.output])


def quantizes_activation(node: Node) -> bool:
    """Whether an operation makes small integers of what is computed of the inputs."""
    return node.type == "quantize" and not node.fixed


def type_of(output: Any) -> tuple[DType, tuple[int, ...]] | None:
    """The type and shape of what an operation gives; None where they are unknown or not fixed."""
    return tensor_type(output) if BY_MIL.get(output.type.tensorType.dataType) is not None else None


def _empty(dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """An array of that shape and type that takes no memory."""
    zero = np.zeros((), dtype) if dtype != "bfloat16" else np.zeros((), "float16")
    return np.broadcast_to(zero, shape)
