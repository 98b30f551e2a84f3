"""The weights of a model: every constant tensor, compressed or not, with what reads it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from corepress.errors import FormatError
from corepress.formats.dtypes import BY_MIL, BY_NAME, DType
from corepress.formats.mlprogram.constexpr import read_weight
from corepress.formats.mlprogram.program import Node, nodes
from corepress.formats.mlprogram.values import MIN_BLOB_ELEMENTS, BlobSource, read_tensor, tensor_type
from corepress.weights import CompressedWeight, packed_size

_COMPRESSION = {
    "constexpr_lut_to_dense": "palettized",
    "constexpr_lut_to_sparse": "palettized",
    "constexpr_affine_dequantize": "quantized",
    "constexpr_blockwise_shift_scale": "quantized",
    "constexpr_sparse_blockwise_shift_scale": "quantized",
    "constexpr_sparse_to_dense": "sparse",
    "constexpr_cast": "cast",
}
# Parameters that hold a weight's numbers, as opposed to its LUT, scale, mask.
_DATA = ("val", "indices", "indices_nonzero_data", "quantized_data", "data", "nonzero_data", "source_val")


class Consumer(NamedTuple):
    """An operation that reads a weight, and under which argument."""

    op_type: str
    name: str
    argument: str


class Holder(BlobSource, Protocol):
    """The `Model` that a weight belongs to."""

    spec: Any

    def release(self, file: str, offset: int) -> None: ...


@dataclass(frozen=True, eq=False)
class Weight:
    """A constant tensor of a model.

    `name` is that of its operation, `output` that of its value: mostly the same, the latter unique in the function.
    `compression`: "" for a plain one, else its forms from the outside in, such as "sparse+palettized".
    `bits`: of one stored number (4 for an int4 or a 16-entry LUT). `stored_bytes`: LUT, scales and mask included.
    `node` is the operation that produces it; for a tensor given in place as an argument, the one that reads it.
    """

    name: str
    output: str
    function: str
    shape: tuple[int, ...]
    dtype: str
    compression: str
    bits: int
    stored_bytes: int
    consumers: tuple[Consumer, ...]
    is_output: bool
    node: Node = field(repr=False)
    argument: str | None = field(repr=False)
    model: Holder = field(repr=False)

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def bits_per_weight(self) -> float:
        """Stored bits, all parameters included, for each element."""
        return 8 * self.stored_bytes / max(self.size, 1)

    def read(self) -> NDArray[Any] | CompressedWeight:
        """The value, compressed as it is stored. A plain array may be a view of the file: don't write to it."""
        if self.argument is None:
            value = read_weight(self.node, self.model)
            if value.shape != self.shape:
                raise FormatError(f"{self.node}: it says shape {self.shape}, but its parameters give {value.shape}")
            return value
        return read_tensor(self.value, self.model, f"{self.node}, {self.argument}")

    def dense(self) -> NDArray[Any]:
        """The value as a dense array."""
        value = self.read()
        return value if isinstance(value, np.ndarray) else value.decompress()

    @property
    def value(self) -> Any:
        """The MIL value of a plain tensor."""
        operand = self.node.operand("val" if self.argument is None else self.argument)
        assert operand is not None
        return operand.value

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal for weights of one opset that share their data in the weight file."""
        held = [item for item in _held(self.node) if self.argument in (None, item[1])]
        if any(value.WhichOneof("value") == "blobFileValue" for _, _, value in held):
            parts = (
                (kind, argument, value.SerializeToString()) for kind, argument, value in held if argument != "name"
            )
            return (self.node.function.opset, *parts)
        return (id(self.node), self.argument)

    @property
    def file(self) -> str | None:
        """The weight file that holds it, as the program names it; None when all of it is inline."""
        return next((str(reference.fileName) for reference in references(self.node)), None)

    def chain(self) -> list[Node]:
        """The producing nodes, from the outside in: the last operation first, then those only it reads."""
        return _chain(self.node) if self.argument is None else []

    def release(self) -> None:
        """Let go of the memory that reading took."""
        release(self.node, self.model)


def release(node: Node, model: Holder) -> None:
    """Let go of the memory that reading the constant of a node took."""
    for reference in references(node):
        model.release(reference.fileName, reference.offset)


def references(node: Node) -> Iterator[Any]:
    """The references into weight files of a node and of those below it."""
    return (value.blobFileValue for _, _, value in _held(node) if value.WhichOneof("value") == "blobFileValue")


def _held(node: Node) -> Iterator[tuple[str, str, Any]]:
    """Every value that a node and those below it hold: operation type, argument, value."""
    for link in _chain(node):
        for argument, operands in sorted(link.operands.items()):
            for operand in operands:
                if operand.value is not None:
                    yield link.type, argument, operand.value


def find_weights(model: Holder, given: list[Node] | None = None) -> list[Weight]:
    """All weights of a model, in program order; `given`: its nodes, where they are listed already."""
    found = []
    for node in nodes(model.spec) if given is None else given:
        if node.is_const or node.is_constexpr:
            weight = _produced(node, model)
            if weight is not None:
                found.append(weight)
        else:
            found += _in_place(node, model)
    return found


def _produced(node: Node, model: Holder) -> Weight | None:
    readers = [use for use in node.uses if use.node is None or not use.node.is_constexpr]
    if not readers and node.uses:  # only a parameter of a compressed weight
        return None
    if not node.op.outputs or (node.is_const and _data_type(node) is None):
        return None
    output = node.op.outputs[0]
    kind = output.type.tensorType
    dtype = BY_MIL.get(kind.dataType)
    if output.type.WhichOneof("type") != "tensorType" or dtype is None:
        return None
    shape = tuple(d.constant.size for d in kind.dimensions)
    if math.prod(shape) < MIN_BLOB_ELEMENTS:
        return None
    chain = _chain(node)
    data = _data_type(chain[-1]) or dtype
    consumers = tuple(Consumer(use.node.type, use.node.name, use.argument) for use in readers if use.node is not None)
    return Weight(
        name=node.name,
        output=output.name,
        function=str(node.function),
        shape=shape,
        dtype=dtype.name,
        compression="+".join(_labels(chain)),
        bits=data.bits,
        stored_bytes=sum(_parameter_bytes(link) for link in chain),
        consumers=consumers,
        is_output=any(use.node is None for use in node.uses),
        node=node,
        argument=None,
        model=model,
    )


def _in_place(node: Node, model: Holder) -> list[Weight]:
    """Tensors that are given in place as arguments of an ordinary operation."""
    found = []
    for entry in node.op.inputs:
        operand = node.operand(entry.key)
        if operand is None or operand.value is None or len(entry.value.arguments) != 1:
            continue
        kind = tensor_type(operand.value)
        if kind is None or math.prod(kind[1]) < MIN_BLOB_ELEMENTS:
            continue
        dtype, shape = kind
        name = f"{node.name}_{entry.key}"
        found.append(
            Weight(
                name=name,
                output=name,
                function=str(node.function),
                shape=shape,
                dtype=dtype.name,
                compression="",
                bits=dtype.bits,
                stored_bytes=packed_size(math.prod(shape), dtype.bits),
                consumers=(Consumer(node.type, node.name, entry.key),),
                is_output=False,
                node=node,
                argument=entry.key,
                model=model,
            )
        )
    return found


def _chain(node: Node) -> list[Node]:
    """`node`, then the constant and constexpr nodes below it that only it reads, the weight's numbers last."""
    chain = [node]
    others = [argument for argument in node.operands if argument not in _DATA]
    numbers = [argument for argument in node.operands if argument in _DATA]
    for argument in (*others, *numbers):
        for operand in node.operands[argument]:
            below = operand.node
            if below is None or below in chain or not (below.is_const or below.is_constexpr):
                continue
            if node.is_constexpr and all(use.node in chain for use in below.uses):
                chain += _chain(below)
    return chain


def _labels(chain: list[Node]) -> list[str]:
    labels: list[str] = []
    for node in chain:
        label = _COMPRESSION.get(node.type)
        if label and label not in labels:
            labels.append(label)
    return labels


def _data_type(node: Node) -> DType | None:
    """The stored type of a weight's numbers."""
    for argument in _DATA:
        operand = node.operand(argument)
        kind = tensor_type(operand.value) if operand is not None and operand.value is not None else None
        if kind is None:
            continue
        if argument == "indices" and node.operand("shape") is not None:
            # The first generation stores packed bytes; the LUT tells how many bits an index has.
            lut = node.operand("lut")
            table = tensor_type(lut.value) if lut is not None and lut.value is not None else None
            return BY_NAME.get(f"uint{math.prod(table[1]).bit_length() - 1}", kind[0]) if table else kind[0]
        return kind[0]
    return None


def _parameter_bytes(node: Node) -> int:
    """Payload bytes of the tensors that a node holds itself."""
    total = 0
    for argument, operands in node.operands.items():
        for operand in operands:
            kind = tensor_type(operand.value) if operand.value is not None else None
            if kind is not None and argument not in ("name", "shape", "axis", "vector_axis", "output_dtype"):
                total += packed_size(math.prod(kind[1]), kind[0].bits)
    return total
