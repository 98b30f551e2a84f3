"""`constexpr_*` operations of both generations, to and from the values of `corepress.weights`.

The first generation (iOS16, iOS17) holds its parameters as attributes, the second (iOS18) as inputs. Operations
and parameters: coremltools documentation, MIL ops, `iOS16.constexpr_ops` and `iOS18.compression`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corepress.errors import FormatError, UnsupportedError
from corepress.formats.dtypes import BY_MIL, BY_NAME, DType, dtype_of, named
from corepress.formats.mlprogram.program import Node, Operand
from corepress.formats.mlprogram.values import (
    BlobSource,
    read_string,
    read_tensor,
    scalar,
    set_tensor_type,
    string_value,
    tensor_type,
    with_inputs,
)
from corepress.formats.schema import Operation
from corepress.weights import (
    CompressedWeight,
    Palettized,
    Quantized,
    Sparse,
    decompress,
    index_mask,
    kept_values,
    pack_bits,
    unpack_bits,
)

Array = NDArray[Any]
# Stores an array (packed to `bits` when given) and returns the MIL value that refers to it.
Store = Callable[[Array, int | None], Any]


def read_weight(node: Node, blobs: BlobSource) -> Array | CompressedWeight:
    """The value that a `const` or `constexpr_*` node produces."""
    if node.is_const:
        return _read(node, "val", blobs)
    reader = _READERS.get(node.type)
    if reader is None:
        raise UnsupportedError(f"{node}: corepress does not know this operation")
    try:
        return reader(node, blobs)
    except (ValueError, IndexError, TypeError) as error:
        # Shapes that do not fit each other surface in NumPy; the file is at fault.
        raise FormatError(f"{node}: its parameters do not fit each other: {error}") from error


def _need(node: Node, argument: str) -> Operand:
    operand = node.operand(argument)
    if operand is None or (operand.value is None and operand.node is None):
        raise FormatError(f"{node}: parameter {argument!r} is missing or not a constant")
    return operand


def _read(node: Node, argument: str, blobs: BlobSource) -> Array:
    operand = _need(node, argument)
    if operand.node is not None:
        return decompress(read_weight(operand.node, blobs))
    return read_tensor(operand.value, blobs, f"{node}, {argument}")


def _read_form(node: Node, argument: str, blobs: BlobSource) -> Array | CompressedWeight:
    operand = _need(node, argument)
    return _read(node, argument, blobs) if operand.node is None else read_weight(operand.node, blobs)


def _bits(node: Node, argument: str) -> int:
    """Stored bits of an integer operand."""
    operand = _need(node, argument)
    if operand.node is not None and operand.node.is_const:
        operand = _need(operand.node, "val")
    kind = tensor_type(operand.value) if operand.node is None else None
    return kind[0].bits if kind else 8


def _optional(node: Node, argument: str, blobs: BlobSource) -> Array | None:
    return None if node.operand(argument) is None else _read(node, argument, blobs)


def _vector_axis(node: Node, lut: Any, rank: int, blobs: BlobSource) -> int | None:
    return None if lut.shape[-1] == 1 else _axis(node, "vector_axis", rank, blobs)


def _axis(node: Node, argument: str, rank: int, blobs: BlobSource) -> int:
    axis = int(_read(node, argument, blobs))
    if not -rank <= axis < rank:
        raise FormatError(f"{node}: {argument} {axis} does not exist in a tensor of rank {rank}")
    return axis % rank


def _read_lut_to_dense(node: Node, blobs: BlobSource) -> Palettized:
    if node.operand("shape") is not None:  # first generation
        shape = tuple(int(size) for size in _read(node, "shape", blobs))
        table = _read(node, "lut", blobs).reshape(*(1 for _ in shape), -1, 1)
        bits = int(table.size).bit_length() - 1
        count = math.prod(shape)
        indices = unpack_bits(_read(node, "indices", blobs), bits, count).reshape(shape)
        return _checked(node, Palettized(indices, table))
    lut = _lut(node, blobs)
    indices = _read(node, "indices", blobs)
    return _checked(node, Palettized(indices, lut, _vector_axis(node, lut, indices.ndim, blobs)))


def _lut(node: Node, blobs: BlobSource) -> Array | Quantized:
    lut = _read_form(node, "lut", blobs)
    if isinstance(lut, (Palettized, Sparse)) or (isinstance(lut, Quantized) and not isinstance(lut.data, np.ndarray)):
        return decompress(lut)
    return lut


def _checked(node: Node, weight: Palettized) -> Palettized:
    """Refuse indices that point outside the LUT and groups that do not divide."""
    groups = weight.lut.shape[:-2]
    if len(groups) != weight.indices.ndim or any(
        n == 0 or size % n for size, n in zip(weight.indices.shape, groups, strict=True)
    ):
        raise FormatError(f"{node}: a LUT of shape {weight.lut.shape} does not fit indices {weight.indices.shape}")
    if (
        not weight.cluster_dim
        or weight.lut.shape[-2] != 1 << weight.bits
        or (weight.indices.size and int(weight.indices.max()) >= weight.lut.shape[-2])
    ):
        raise FormatError(f"{node}: an index points outside its LUT of {weight.lut.shape[-2]} entries")
    return weight


def _read_affine_dequantize(node: Node, blobs: BlobSource) -> Quantized:
    data = _read(node, "quantized_data", blobs)
    scale = _read(node, "scale", blobs)
    zero_point = _read(node, "zero_point", blobs)
    axis = _axis(node, "axis", data.ndim, blobs)
    shape = [1] * data.ndim
    shape[axis] = max(scale.size, zero_point.size)
    scale = np.broadcast_to(scale.reshape(-1), shape[axis]).reshape(shape)
    zero_point = np.broadcast_to(zero_point.reshape(-1), shape[axis]).reshape(shape)
    return _fitting(node, Quantized(data, scale, zero_point if zero_point.any() else None))


def _fitting(node: Node, weight: Quantized) -> Quantized:
    """Refuse scales that do not divide the data into whole blocks, and offsets of another shape."""
    shape, scale = weight.shape, weight.scale
    if (
        len(shape) != scale.ndim
        or any(count == 0 or size % count for size, count in zip(shape, scale.shape, strict=True))
        or scale.dtype.kind != "f"
        or (weight.offset is not None and weight.offset.shape != scale.shape)
    ):
        raise FormatError(f"{node}: scales of shape {scale.shape} do not fit data of shape {shape}")
    return weight


def _read_blockwise_shift_scale(node: Node, blobs: BlobSource) -> Array | Quantized:
    data, bias = _read_form(node, "data", blobs), _optional(node, "bias", blobs)
    if isinstance(data, (Sparse, Quantized)):
        data = decompress(data)
    offset = _optional(node, "offset", blobs)
    scale, exponents = _scale(node, blobs)
    form = _fitting(node, Quantized(data, scale, offset, _bits(node, "data"), exponents))
    if bias is None:
        return form
    # Core AI's operation adds one more number to each block, for which there is no form here.
    ones = Quantized(np.ones(form.shape, np.int8), bias.astype(np.float32))
    dense = Quantized(data, scale.astype(np.float32), offset, form.bits).decompress() + ones.decompress()
    return dense.astype(scale.dtype)


def _scale(node: Node, blobs: BlobSource) -> tuple[Array, bool]:
    """Scales; where only exponents are stored (E8M0, in Core AI), in the type of the weight, and True."""
    scale = _read(node, "scale", blobs)
    if scale.dtype.kind == "f":
        return scale, False
    kind = BY_MIL.get(node.op.outputs[-1].type.tensorType.dataType)
    return scale.astype(np.float32 if kind is None else kind.numpy), True


def _read_sparse_to_dense(node: Node, blobs: BlobSource) -> Sparse:
    shape = _optional(node, "shape", blobs)
    values = _need(node, "nonzero_data")
    if values.node is not None and values.node.type in _SPARSE_VALUES:
        return _read_sparse_values(values.node, blobs)
    mask = _read(node, "mask", blobs)
    if shape is not None:  # first generation
        count = math.prod(int(size) for size in shape)
        mask = unpack_bits(mask, 1, count).reshape([int(size) for size in shape])
    mask = mask != 0
    return Sparse(mask, _scatter(node, mask, _read(node, "nonzero_data", blobs)))


_SPARSE_VALUES = ("constexpr_lut_to_sparse", "constexpr_sparse_blockwise_shift_scale")


def _read_sparse_values(node: Node, blobs: BlobSource) -> Sparse:
    """The mask and the values that one of the joint operations produces."""
    if node.type == "constexpr_lut_to_sparse":
        mask = _read(node, "indices_mask", blobs) != 0
        indices = _scatter(node, mask, _read(node, "indices_nonzero_data", blobs))
        lut = _lut(node, blobs)
        axis = _vector_axis(node, lut, mask.ndim, blobs)
        if axis is not None:
            mask = np.repeat(mask, lut.shape[-1], axis)
        return Sparse(mask, _checked(node, Palettized(indices, lut, axis)))
    offset = _optional(node, "offset", blobs)
    scale, exponents = _scale(node, blobs)
    inner = _need(node, "nonzero_data").node
    if inner is not None and inner.type in _SPARSE_VALUES:
        sparse = _read_sparse_values(inner, blobs)
        data = sparse.values if isinstance(sparse.values, Palettized) else decompress(sparse.values)
        return Sparse(sparse.mask, _fitting(node, Quantized(data, scale, offset, exponents=exponents)))
    mask = _read(node, "data_mask", blobs) != 0
    data = _scatter(node, mask, _read(node, "nonzero_data", blobs))
    return Sparse(mask, _fitting(node, Quantized(data, scale, offset, _bits(node, "nonzero_data"), exponents)))


def _scatter(node: Node, mask: NDArray[np.bool_], values: Array) -> Array:
    if values.ndim != 1 or values.size != np.count_nonzero(mask):
        raise FormatError(f"{node}: the mask keeps {np.count_nonzero(mask)} values, but {values.size} are stored")
    dense = np.zeros(mask.shape, values.dtype)
    dense.reshape(-1)[np.flatnonzero(mask)] = values  # in half the time that an assignment by the mask takes
    return dense


def _read_cast(node: Node, blobs: BlobSource) -> Array:
    name = read_string(_need(node, "output_dtype").value) or ""
    dtype = named(name)
    if dtype is None:
        raise UnsupportedError(f"{node}: unknown output_dtype {name!r}")
    return _read(node, "source_val", blobs).astype(dtype.numpy)


_READERS: dict[str, Callable[[Node, BlobSource], Array | CompressedWeight]] = {
    "constexpr_lut_to_dense": _read_lut_to_dense,
    "constexpr_affine_dequantize": _read_affine_dequantize,
    "constexpr_blockwise_shift_scale": _read_blockwise_shift_scale,
    "constexpr_sparse_to_dense": _read_sparse_to_dense,
    "constexpr_cast": _read_cast,
}


def write_weight(weight: Array | CompressedWeight, output: str, *, generation: int, store: Store) -> list[Any]:
    """The operations that produce `weight` under the name `output`, the last one being its producer.

    `generation`: 1 for the opsets of iOS16 and iOS17, 2 from iOS18 on.
    """
    if isinstance(weight, np.ndarray):
        operation = _operation("const", output, [(output, dtype_of(weight.dtype), weight.shape)])
        operation.attributes.add(key="val").value.CopyFrom(store(weight, None))
        return [operation]
    return _first_generation(weight, output, store) if generation == 1 else _second_generation(weight, output, store)


def set_name(operation: Any, name: str) -> None:
    """Name an operation, whatever its outputs are called."""
    for entry in operation.attributes:
        if entry.key == "name":
            entry.value.CopyFrom(string_value(name))


def _operation(kind: str, name: str, outputs: list[tuple[str, DType, tuple[int, ...]]]) -> Any:
    operation = Operation(type=kind)
    for output, dtype, shape in outputs:
        named = operation.outputs.add(name=output)
        set_tensor_type(named.type, dtype, shape)
    operation.attributes.add(key="name").value.CopyFrom(string_value(name))
    return operation


def _first_generation(weight: CompressedWeight, name: str, store: Store) -> list[Any]:
    shape = np.array(weight.shape, np.uint32)
    if isinstance(weight, Palettized):
        assert isinstance(weight.lut, np.ndarray)
        kind = "constexpr_lut_to_dense"
        parameters = {
            "indices": store(pack_bits(weight.indices, weight.bits), None),
            "lut": store(weight.lut.reshape(-1), None),
            "shape": store(shape, None),
        }
    elif isinstance(weight, Quantized):
        assert isinstance(weight.data, np.ndarray)
        kind = "constexpr_affine_dequantize"
        axis = next((i for i, size in enumerate(weight.scale.shape) if size > 1), 0)
        offset = np.zeros_like(weight.scale, weight.data.dtype) if weight.offset is None else weight.offset
        parameters = {
            "quantized_data": store(weight.data, None),
            "zero_point": store(offset.squeeze(), None),
            "scale": store(weight.scale.squeeze(), None),
            "axis": scalar(axis),
        }
    else:
        kind = "constexpr_sparse_to_dense"
        parameters = {
            "nonzero_data": store(kept_values(decompress(weight.values), weight.mask), None),
            "mask": store(pack_bits(weight.mask, 1), None),
            "shape": store(shape, None),
        }
    operation = _operation(kind, name, [(name, dtype_of(weight.dtype), weight.shape)])
    for key, value in parameters.items():
        operation.attributes.add(key=key).value.CopyFrom(value)
    return [operation]


def _second_generation(weight: CompressedWeight, name: str, store: Store) -> list[Any]:
    if isinstance(weight, Sparse):
        return _write_sparse(weight, name, store)
    operations: list[Any] = []
    inputs: dict[str, Any] = {}
    if isinstance(weight, Palettized):
        kind = "constexpr_lut_to_dense"
        inputs["indices"] = store(weight.indices, weight.bits)
        inputs["lut"] = _write_lut(weight.lut, name, operations, store)
        if weight.vector_axis is not None:
            inputs["vector_axis"] = scalar(weight.vector_axis)
    else:
        kind = "constexpr_blockwise_shift_scale"
        if isinstance(weight.data, Palettized):
            operations += _second_generation(weight.data, f"{name}_unscaled", store)
            inputs["data"] = f"{name}_unscaled"
        else:
            inputs["data"] = store(weight.data, weight.bits)
        inputs["scale"] = store(weight.stored_scale, None)
        if weight.offset is not None:
            inputs["offset"] = _store_offset(weight.offset, weight.bits, store)
    operation = _operation(kind, name, [(name, dtype_of(weight.dtype), weight.shape)])
    return [*operations, with_inputs(operation, inputs)]


def _store_offset(offset: Array, bits: int, store: Store) -> Any:
    """An offset has the type of the integers, or is a number with a fraction."""
    return store(offset, bits if offset.dtype.kind in "iu" else None)


def _write_lut(lut: Array | Quantized, name: str, operations: list[Any], store: Store) -> Any:
    if isinstance(lut, np.ndarray):
        return store(lut, None)
    operations += _second_generation(lut, f"{name}_lut", store)
    return f"{name}_lut"


def _write_sparse(weight: Sparse, name: str, store: Store) -> list[Any]:
    operations: list[Any] = []
    mask: Any
    if isinstance(weight.values, np.ndarray):
        values, mask = store(kept_values(weight.values, weight.mask), None), store(weight.mask.view(np.uint8), 1)
    else:
        values, mask = _write_sparse_values(weight.mask, weight.values, name, operations, store)
    operation = _operation("constexpr_sparse_to_dense", name, [(name, dtype_of(weight.dtype), weight.shape)])
    return [*operations, with_inputs(operation, {"nonzero_data": values, "mask": mask})]


def _write_sparse_values(
    mask: NDArray[np.bool_], weight: Palettized | Quantized, name: str, operations: list[Any], store: Store
) -> tuple[str, str]:
    """Append the joint operations; returns the names of their outputs (values, mask)."""
    inputs: dict[str, Any] = {}
    if isinstance(weight, Palettized):
        kind, label = "constexpr_lut_to_sparse", "palettized"
        kept = index_mask(mask, weight)
        inputs["indices_mask"] = store(kept.view(np.uint8), 1)
        inputs["indices_nonzero_data"] = store(kept_values(weight.indices, kept), weight.bits)
        inputs["lut"] = _write_lut(weight.lut, name, operations, store)
        if weight.vector_axis is not None:
            inputs["vector_axis"] = scalar(weight.vector_axis)
    else:
        kind, label = "constexpr_sparse_blockwise_shift_scale", "quantized"
        if isinstance(weight.data, Palettized):
            inputs["nonzero_data"], inputs["data_mask"] = _write_sparse_values(
                mask, weight.data, name, operations, store
            )
        else:
            inputs["data_mask"] = store(mask.view(np.uint8), 1)
            inputs["nonzero_data"] = store(kept_values(weight.data, mask), weight.bits)
        inputs["scale"] = store(weight.stored_scale, None)
        if weight.offset is not None:
            inputs["offset"] = _store_offset(weight.offset, weight.bits, store)
    values_name, mask_name = f"{name}_{label}_values", f"{name}_{label}_mask"
    outputs = [
        (mask_name, BY_NAME["uint1"], mask.shape),
        (values_name, dtype_of(weight.dtype), (int(np.count_nonzero(mask)),)),
    ]
    operations.append(with_inputs(_operation(kind, f"{name}_{label}", outputs), inputs))
    return values_name, mask_name
