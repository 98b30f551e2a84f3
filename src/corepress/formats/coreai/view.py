"""A Core AI program, seen as the ML program that everything which compresses knows.

Each operation stands under the name that ML programs have for it (`words.py`), and a compressed constant as the
`constexpr_*` operations that mean the same (`reading.py`). The view is never run and never written: what becomes of a
weight in it is carried into Core AI's own program (`writing.py`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from corepress.errors import UnsupportedError
from corepress.formats.coreai import library
from corepress.formats.coreai.reading import Constants, constexpr, is_part
from corepress.formats.coreai.words import PRODUCTS, words
from corepress.formats.dtypes import DType
from corepress.formats.mlprogram.program import MAX_DEPTH
from corepress.formats.mlprogram.values import set_tensor_type, string_value
from corepress.formats.schema import Model as ModelProto
from corepress.formats.schema import ModelDescription, Operation

# The name of Core AI's operations as a set, beside "CoreML8" and the like; the version is that of no package.
OPSET = "CoreAI1"
VERSION = 1000
# By `dtypes`, of the enumeration in Apple's FeatureTypes.proto.
_ARRAY_TYPES = {"float16": 65552, "float32": 65568, "float64": 65600, "int8": 131080, "int32": 131104}
# In the debugging information of an operation: the name by which the converter knew it.
_SOURCE = re.compile(r'identifiers = \["([^"]+)"')


@dataclass
class View:
    """`spec`: the message `Model`. `constants`: what it refers to. `places`: by function and output, the number of the
    operation that makes a weight."""

    spec: Any
    constants: Constants = field(default_factory=Constants)
    places: dict[tuple[str, str], int] = field(default_factory=dict)


def view_of(program: Any) -> View:
    """The view of a program of coreai-core."""
    view = View(ModelProto(specificationVersion=VERSION))
    numbers = {operation: number for number, operation in enumerate(library.operations(program))}
    view.spec.mlProgram.version = 1
    description = ModelDescription()
    for graph in library.functions(program):
        name = library.function_name(graph)
        entry = view.spec.mlProgram.functions.add(key=name)
        entry.value.opset = OPSET
        block = entry.value.block_specializations.add(key=OPSET).value
        _Function(view, name, numbers).fill(block, graph)
        if not library.is_private(graph):
            _describe(graph, description.functions.add(name=name))
    if len(description.functions) == 1:
        _as_only(description)
    view.spec.description = description.SerializeToString()
    return view


class _Function:
    """Fills the block of one function, and gives names to its values: those of a program have none."""

    def __init__(self, view: View, function: str, numbers: dict[Any, int]):
        self.view, self.function, self.numbers = view, function, numbers
        self.taken: set[str] = set()
        self.names: dict[Any, str] = {}  # of operations
        self.values: dict[Any, str] = {}

    def fill(self, block: Any, graph: Any) -> None:
        for index, (value, name) in enumerate(library.arguments(graph)):
            self.values[value] = self._fresh(name or f"input_{index}")
            block.inputs.add(name=self.values[value])
        [operations] = library.within(graph)
        # Readers first: a constant is called after the operation that reads it.
        computed = [one for one in _flat(operations) if one.name != "coreai.constant" and not is_part(one)]
        for operation in sorted(computed, key=lambda one: words(one.name).type not in PRODUCTS):
            source = _source(operation)
            free = source not in self.taken
            self._name(operation, source if free else f"{source}_{words(operation.name).type}")
        self._fill(block, operations, 0)

    def _fill(self, block: Any, operations: list[Any], depth: int) -> None:
        if depth > MAX_DEPTH:
            raise UnsupportedError(f"function {self.function}: blocks are nested deeper than {MAX_DEPTH}")
        for operation in operations:
            if operation.name in ("coreai.output", "coreai.yield"):
                block.outputs.extend(self.values[value] for value in operation.operands if value in self.values)
            elif operation.name == "coreai.constant" or is_part(operation):
                self._weight(block, operation)
            elif not _is_turned_weight(operation):
                block.operations.append(self._operation(operation, depth))

    def _weight(self, block: Any, operation: Any) -> None:
        """A constant, compressed or not; nothing for one that is only a part of a compressed one."""
        value = operation.results[0]
        readers = sorted(
            ((use.owner, use.operand_number) for use in value.uses), key=lambda use: self.numbers[library.plain(use[0])]
        )
        outside = [(library.plain(reader), index) for reader, index in readers if not is_part(library.plain(reader))]
        if readers and not outside:
            return
        self._name(operation, self._called_after(outside))
        made = constexpr(operation, self.values[value], self.view.constants, self.numbers)
        if made:
            _set_name(made[-1], self.names[operation])
            block.operations.extend(made)
            self.view.places[self.function, self.values[value]] = self.numbers[operation]

    def _called_after(self, readers: list[tuple[Any, int]]) -> str:
        if not readers:
            return "unused"
        reader, index = readers[0]
        if index == 0 and _is_turned_weight(reader):
            return f"{self.names[library.plain(next(iter(reader.results[0].uses)).owner)]}_weight"
        return f"{self.names[reader]}_{_argument(reader, index)}"

    def _operation(self, operation: Any, depth: int) -> Any:
        kind, operands = words(operation.name).type, list(operation.operands)
        arguments = {_argument(operation, index): value for index, value in enumerate(operands)}
        if kind == "matmul" and _is_turned_weight(library.owner(operands[1])):
            kind, weight = "linear", library.owner(operands[1]).operands[0]
            arguments = {"x": operands[0], "weight": weight}
        made = Operation(type=kind)
        _set_name(made, self.names[operation])
        for argument, value in arguments.items():
            if value in self.values:
                made.inputs.add(key=argument).value.arguments.add().name = self.values[value]
        for value in operation.results:
            output = made.outputs.add(name=self.values[value])
            found = library.tensor(value.type)
            if found is not None and found.dtype is not None and found.is_fixed:
                set_tensor_type(output.type, found.dtype, found.shape)
        for inner in library.within(operation):
            self._fill(made.blocks.add(), inner, depth + 1)
        return made

    def _name(self, operation: Any, name: str) -> None:
        self.names[operation] = own = self._fresh(name)
        for index, value in enumerate(operation.results):
            self.values[value] = own if index == 0 else self._fresh(f"{own}_{index}")

    def _fresh(self, name: str) -> str:
        candidate, number = name, 1
        while candidate in self.taken:
            candidate, number = f"{name}_{number}", number + 1
        self.taken.add(candidate)
        return candidate


def _flat(operations: list[Any]) -> Iterator[Any]:
    for operation in operations:
        yield operation
        for inner in library.within(operation):
            yield from _flat(inner)


def _source(operation: Any) -> str:
    found = _SOURCE.findall(str(operation.location))
    return found[-1] if found else words(operation.name).type


def _argument(operation: Any, index: int) -> str:
    known = words(operation.name).arguments
    return known[index] if index < len(known) else f"input_{index}"


def _is_turned_weight(operation: Any) -> bool:
    """Whether it is the transpose of a constant matrix that products alone read, as a linear layer has it."""
    if operation is None or operation.name != "coreai.transpose":
        return False
    weight, found = library.owner(operation.operands[0]), library.tensor(operation.results[0].type)
    if weight is None or not (weight.name == "coreai.constant" or is_part(weight)):
        return False
    readers = [(library.plain(use.owner), use.operand_number) for use in operation.results[0].uses]
    products = all(words(reader.name).type == "matmul" and index == 1 for reader, index in readers)
    return found is not None and len(found.shape) == 2 and bool(readers) and products


def _set_name(operation: Any, name: str) -> None:
    for entry in operation.attributes:
        if entry.key == "name":
            entry.value.CopyFrom(string_value(name))
            return
    operation.attributes.add(key="name").value.CopyFrom(string_value(name))


def _describe(graph: Any, function: Any) -> None:
    """What a function takes and gives, as the description of a model says it."""
    for index, (value, name) in enumerate(library.arguments(graph)):
        features = function.state if library.is_state(value.type) else function.input
        _feature(features.add(name=name or f"input_{index}"), value.type, library.is_state(value.type))
    for index, (kind, name) in enumerate(library.outputs(graph)):
        if library.tensor(kind) is not None:
            _feature(function.output.add(name=name or f"output_{index}"), kind, False)


def _feature(feature: Any, kind: Any, state: bool) -> None:
    found = library.tensor(kind)
    if found is None:
        return
    array = feature.type.stateType.arrayType if state else feature.type.multiArrayType
    name = found.dtype.name if isinstance(found.dtype, DType) else ""
    array.dataType = _ARRAY_TYPES.get(name, 0)
    array.shape.extend(max(size, 1) for size in found.shape)
    if not found.is_fixed:
        for size in found.shape:
            limits = array.shapeRange.sizeRanges.add()
            limits.lowerBound, limits.upperBound = (1, -1) if size < 0 else (size, size)


def _as_only(description: Any) -> None:
    """A model of one function is described as that function."""
    [only] = description.functions
    description.input.extend(only.input)
    description.output.extend(only.output)
    description.state.extend(only.state)
    description.defaultFunctionName = only.name
    del description.functions[:]
