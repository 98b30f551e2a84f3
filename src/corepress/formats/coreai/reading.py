"""Core AI's constants, compressed or not, as operations of ML programs that mean the same.

The documentation of coreai-core's operations is the source: `lut_to_dense`, `blockwise_shift_scale` and the four for
sparse tensors. Numbers stay where they are until somebody reads a weight.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from corepress.formats.coreai import library
from corepress.formats.dtypes import BY_MIL, DType
from corepress.formats.mlprogram.values import (
    MIN_BLOB_ELEMENTS,
    elements,
    from_bytes,
    immediate_value,
    scalar,
    set_tensor_type,
    string_value,
    typed_value,
    with_inputs,
)
from corepress.formats.schema import Operation

# Of values in the view, the file that holds constants; their offset is the number of an operation.
CONSTANTS = "@model_path/constants"
_LOOKED_UP, _SCALED = "coreai.lut_to_dense", "coreai.blockwise_shift_scale"
_BUILT, _MADE_DENSE = "coreai.build_sparse_with_bitmask", "coreai.sparse_with_bitmask_to_dense"
_PARTS = frozenset({_LOOKED_UP, _SCALED, _BUILT, _MADE_DENSE, "coreai.lut_to_sparse_with_bitmask"})


class Held(NamedTuple):
    """A constant of the program: its operation, its type, its shape."""

    operation: Any
    dtype: DType
    shape: tuple[int, ...]

    def array(self) -> NDArray[Any]:
        """Its numbers, unpacked."""
        data = library.constant_bytes(self.operation, self.dtype, self.shape)
        return from_bytes(data, self.dtype, self.shape)


Constants = dict[int, Held]
"""By the number of their operation, those that a view refers to."""


def is_part(operation: Any) -> bool:
    """Whether an operation makes a constant of constants: it decompresses, or casts what does so."""
    if operation.name == "coreai.cast":
        inner = library.owner(operation.operands[0])
        return inner is not None and inner.name in _PARTS and is_part(inner)
    if operation.name not in _PARTS:
        return False
    owners = [library.owner(value) for value in operation.operands]
    return all(owner is not None and (owner.name == "coreai.constant" or is_part(owner)) for owner in owners)


def held(operation: Any) -> Held | None:
    """A constant of a type that weights can have."""
    found = library.tensor(operation.results[0].type)
    if found is None or found.dtype is None or not found.is_fixed:
        return None
    elements(found.shape, f"a constant of {found.dtype.name}")
    return Held(operation, found.dtype, found.shape)


def constexpr(operation: Any, name: str, constants: Constants, numbers: Mapping[Any, int]) -> list[Any]:
    """The operations that give what `operation` does under `name`, the last one being its producer; none where it has a
    type that no weight has."""
    return _Reader(constants, numbers).read(operation, name)


class _Reader:
    """Gathers in `made` the operations for one constant, its parts before it."""

    def __init__(self, constants: Constants, numbers: Mapping[Any, int]):
        self.constants, self.numbers = constants, numbers
        self.made: list[Any] = []

    def read(self, operation: Any, name: str) -> list[Any]:
        if operation.name != "coreai.constant":
            self._part(operation, name)
        elif (value := self._value(operation)) is not None:
            made = self._add("const", name, operation)
            made.attributes.add(key="val").value.CopyFrom(value)
        return self.made

    def _part(self, operation: Any, name: str) -> str:
        """Add the operations of a compressed constant; returns `name`, which the last one gives."""
        operation = _uncast(operation)
        parts: dict[str, Any]
        if operation.name == _LOOKED_UP:
            indices, lut = (self._operand(value, name) for value in operation.operands[:2])
            parts = {"indices": indices, "lut": lut, **_vector_axis(operation)}
            with_inputs(self._add("constexpr_lut_to_dense", name, operation), parts)
        elif operation.name == _SCALED and (values := self._scaled_values(operation, name)) is None:
            parts = {"data": self._operand(operation.operands[0], name), **self._scales(operation, name)}
            with_inputs(self._add("constexpr_blockwise_shift_scale", name, operation), parts)
        else:
            if operation.name != _SCALED:
                values = self._values(library.owner(operation.operands[0]), name)
            assert values is not None
            with_inputs(
                self._add("constexpr_sparse_to_dense", name, operation), {"nonzero_data": values[0], "mask": values[1]}
            )
        return name

    def _scaled_values(self, operation: Any, name: str) -> tuple[Any, Any] | None:
        """The values and the mask of a sparse constant under scales; None for another, and for one with offsets, whose
        zeros don't stay zeros."""
        data, scales = _uncast(library.owner(operation.operands[0])), self._scales(operation, name)
        if data.name != _MADE_DENSE or len(scales) > 1:
            return None
        inner = self._values(library.owner(data.operands[0]), name)
        names = self._add_values(f"{name}_scaled", operation)
        with_inputs(self.made[-1], {"nonzero_data": inner[0], "data_mask": inner[1], **scales})
        self.made[-1].type = "constexpr_sparse_blockwise_shift_scale"
        return names

    def _scales(self, operation: Any, name: str) -> dict[str, Any]:
        _, scale, offset, bias = operation.operands
        parts = {"scale": self._operand(scale, name)}
        for argument, value in (("offset", offset), ("bias", bias)):
            if not _is_zero(library.owner(value)):
                parts[argument] = self._operand(value, name)
        return parts

    def _values(self, operation: Any, name: str) -> tuple[Any, Any]:
        """The values of a sparse tensor and its mask, as arguments."""
        if operation.name == _BUILT:
            looked_up, mask = library.owner(operation.operands[0]), operation.operands[1]
            if looked_up.name != _LOOKED_UP:
                return self._operand(operation.operands[0], name), self._operand(mask, name)
        else:  # a look-up of a sparse tensor of indices
            looked_up, mask = operation, library.owner(operation.operands[0]).operands[1]
        indices = looked_up.operands[0]
        if operation.name != _BUILT:
            indices = library.owner(indices).operands[0]
        rank = len(library.type_of(operation).shape)
        table = self._operand(looked_up.operands[1], name)
        if not isinstance(table, str):
            _to_rank(table, rank + 2)
        parts = {"indices_nonzero_data": self._operand(indices, name), "indices_mask": self._operand(mask, name)}
        names = self._add_values(f"{name}_palettized", operation)
        with_inputs(self.made[-1], {**parts, "lut": table, **_vector_axis(looked_up)})
        self.made[-1].type = "constexpr_lut_to_sparse"
        return names

    def _operand(self, value: Any, name: str) -> Any:
        """What an argument holds: a value in place, or the name of what other operations give."""
        operation = library.owner(value)
        if operation.name == "coreai.constant":
            return self._value(operation)
        return self._part(operation, f"{name}_{len(self.made)}")

    def _value(self, operation: Any) -> Any:
        constant = held(operation)
        if constant is None:
            return None
        if int(np.prod(constant.shape)) < MIN_BLOB_ELEMENTS:
            return immediate_value(constant.array(), dtype=constant.dtype)
        number = self.numbers[operation]
        self.constants[number] = constant
        value = typed_value(constant.dtype, constant.shape)
        value.blobFileValue.fileName, value.blobFileValue.offset = CONSTANTS, number
        return value

    def _add(self, kind: str, name: str, operation: Any) -> Any:
        made = Operation(type=kind)
        made.attributes.add(key="name").value.CopyFrom(string_value(name))
        found = library.type_of(operation)
        output = made.outputs.add(name=name)
        if found.dtype is not None:
            set_tensor_type(output.type, found.dtype, found.shape)
        self.made.append(made)
        return made

    def _add_values(self, name: str, operation: Any) -> tuple[str, str]:
        """Add an operation that gives the mask and the values of a sparse tensor; returns the names of both."""
        made = self._add("", f"{name}_mask", operation)
        made.outputs.add(name=f"{name}_values").type.CopyFrom(made.outputs[0].type)
        return f"{name}_values", f"{name}_mask"


def as_vector(made: list[Any]) -> None:
    """Let a constant, as `constexpr` gives it, have one axis only."""
    for one in made:
        for kind in (one.attributes[-1].value.type, one.outputs[0].type):
            sizes = [dimension.constant.size for dimension in kind.tensorType.dimensions]
            del kind.tensorType.dimensions[:]
            set_tensor_type(kind, BY_MIL[kind.tensorType.dataType], [math.prod(sizes)])


def _uncast(operation: Any) -> Any:
    return library.owner(operation.operands[0]) if operation.name == "coreai.cast" else operation


def _is_zero(operation: Any) -> bool:
    constant = held(operation)
    return constant is not None and not constant.array().any()


def _vector_axis(operation: Any) -> dict[str, Any]:
    """The axis along which the entries of a table lie, where they are vectors."""
    table = library.type_of(library.owner(operation.operands[1]))
    axis = held(library.owner(operation.operands[2]))
    if table.shape[-1] == 1 or axis is None:
        return {}
    return {"vector_axis": scalar(int(axis.array().reshape(())))}


def _to_rank(value: Any, rank: int) -> None:
    """Axes of one element before those of a table, in the type of its value."""
    kind = value.type.tensorType
    sizes = [dimension.constant.size for dimension in kind.dimensions]
    del kind.dimensions[:]
    kind.rank = rank
    for size in [1] * (rank - len(sizes)) + sizes:
        kind.dimensions.add().constant.size = size
