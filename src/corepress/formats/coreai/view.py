"""A Core AI program, seen as the ML program that everything which compresses knows.

Each operation stands under the name that ML programs have for it (`words.py`), and a compressed constant as the
`constexpr_*` operations that mean the same (`reading.py`). A bias, which Core AI adds to a product, is an argument of
the product. An attribute keeps Core AI's own name, by which the runtime knows the operation (`runtime/ops/core_ai`).
The view is never written: what becomes of a weight in it is carried into Core AI's own program (`writing.py`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from corepress.errors import UnsupportedError
from corepress.formats.coreai import library
from corepress.formats.coreai.reading import Constants, as_vector, constexpr, is_part
from corepress.formats.coreai.words import PRODUCTS, plain_name, words
from corepress.formats.dtypes import DType
from corepress.formats.features import Feature, Interface
from corepress.formats.mlprogram.program import MAX_DEPTH
from corepress.formats.mlprogram.values import set_tensor_type, string_value
from corepress.formats.schema import Model as ModelProto
from corepress.formats.schema import ModelDescription, Operation

# The name of Core AI's operations as a set, beside "CoreML8" and the like; the version is that of no package.
OPSET = "CoreAI1"
VERSION = 1000
# The attribute of an operation in the view that holds Core AI's own name of it.
OWN_NAME = "core_ai"
# By `dtypes`, of the enumeration in Apple's FeatureTypes.proto.
_ARRAY_TYPES = {"float16": 65552, "float32": 65568, "float64": 65600, "int8": 131080, "int32": 131104}
# The types that operations name by an argument, in the short form of ML programs.
_SHORT = {"float16": "fp16", "float32": "fp32", "float64": "fp64"}
# The end of a block, whose operands are what the block gives.
_ENDS = frozenset({"coreai.output", "coreai.yield", "coreai.condition"})
# They order what is done with states, as the view does by the order of its operations.
_TOKENS = frozenset({"coreai.create_token", "coreai.join_token"})
# Operations with blocks that are run; in those of others a word says as much.
_CONTROL = frozenset({"cond", "while_loop"})
# What the block of a `scatter_nd` does, by the one operation in it, where it does not only pass on the new value.
_COMBINES = {"add": "add", "sub": "sub", "mul": "mul", "divide": "div", "maximum": "max", "minimum": "min"}
# In the debugging information of an operation: the name by which the converter knew it.
_SOURCE = re.compile(r'identifiers = \["([^"]+)"')


@dataclass
class View:
    """`spec`: the message `Model`. `constants`: what it refers to. `places`: by function and output, the number of the
    operation that makes a weight. `interfaces`: of the functions that are called from outside. `values`: those of the
    program, by function and name; `operations`: what reads for the one that gives such a value."""

    spec: Any
    interfaces: dict[str, Interface] = field(default_factory=dict)
    constants: Constants = field(default_factory=Constants)
    places: dict[tuple[str, str], int] = field(default_factory=dict)
    values: dict[tuple[str, str], Any] = field(default_factory=dict)
    operations: dict[tuple[str, str], Any] = field(default_factory=dict)


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
        for given in block.inputs:
            entry.value.inputs.add().CopyFrom(given)
        if not library.is_private(graph):
            view.interfaces[name] = _describe(graph, description.functions.add(name=name))
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
        # Of sums with a bias the product, which has it as an argument; and the other way round.
        self.products: dict[Any, Any] = {}
        self.sums: dict[Any, Any] = {}

    def fill(self, block: Any, graph: Any) -> None:
        self._take(block, {value: name or f"input_{i}" for i, (value, name) in enumerate(library.arguments(graph))})
        [operations] = library.within(graph)
        self.sums = dict(_with_bias(operations))
        self.products = {total: product for product, total in self.sums.items()}
        # Readers first: a constant is called after the operation that reads it.
        computed = [
            one for one in _flat(operations)
            if one.name != "coreai.constant" and one not in self.products and not is_part(one)
        ]  # fmt: skip
        for operation in sorted(computed, key=lambda one: words(one.name).type not in PRODUCTS):
            source = _source(operation)
            free = source not in self.taken
            self._name(operation, source if free else f"{source}_{words(operation.name).type}")
        self._fill(block, operations, 0)
        # Of a product and its sum with a bias, which have the same name, the latter.
        self.view.values.update({(self.function, name): value for value, name in self.values.items()})

    def _fill(self, block: Any, operations: list[Any], depth: int) -> None:
        if depth > MAX_DEPTH:
            raise UnsupportedError(f"function {self.function}: blocks are nested deeper than {MAX_DEPTH}")
        for operation in operations:
            if operation.name in _ENDS:
                block.outputs.extend(self.values[value] for value in operation.operands if value in self.values)
            elif operation.name == "coreai.constant" or is_part(operation):
                self._weight(block, operation)
            elif not (operation.name in _TOKENS or operation in self.products or _is_turned_weight(operation)):
                if operation in self.sums:  # whose bias may come later
                    self._weight(block, library.owner(_bias(self.sums[operation])))
                block.operations.append(self._operation(operation, depth))

    def _take(self, block: Any, names: Mapping[Any, str]) -> None:
        """Let a block take values, under these names or others like them."""
        for value, name in names.items():
            self.values[value] = self._fresh(name)
            _set_type(block.inputs.add(name=self.values[value]).type, value)

    def _weight(self, block: Any, operation: Any) -> None:
        """A constant, compressed or not; nothing for one that is only a part of a compressed one."""
        value = operation.results[0]
        readers = sorted(
            ((use.owner, use.operand_number) for use in value.uses), key=lambda use: self.numbers[library.plain(use[0])]
        )
        outside = [(library.plain(reader), index) for reader, index in readers if not is_part(library.plain(reader))]
        if value in self.values or (readers and not outside):
            return
        self._name(operation, self._called_after(outside))
        made = constexpr(operation, self.values[value], self.view.constants, self.numbers)
        if outside and outside[0][0] in self.products:
            as_vector(made)
        if made:
            _set_name(made[-1], self.names[operation])
            block.operations.extend(made)
            self.view.places[self.function, self.values[value]] = self.numbers[operation]

    def _called_after(self, readers: list[tuple[Any, int]]) -> str:
        if not readers:
            return "unused"
        reader, index = readers[0]
        if reader in self.products:
            return f"{self.names[self.products[reader]]}_bias"
        if index == 0 and _is_turned_weight(reader):
            return f"{self.names[library.plain(next(iter(reader.results[0].uses)).owner)]}_weight"
        return f"{self.names[reader]}_{_argument(reader, index)}"

    def _operation(self, operation: Any, depth: int) -> Any:
        known, arguments = words(operation.name), _arguments(operation)
        made, own = Operation(type=known.type), plain_name(operation.name)
        if known.type == "matmul" and _is_turned_weight(library.owner(operation.operands[1])):
            made.type = own = "linear"
            arguments = {"x": [operation.operands[0]], "weight": [library.owner(operation.operands[1]).operands[0]]}
        if operation in self.sums:
            arguments["bias"] = [_bias(self.sums[operation])]
        _set_name(made, self.names[operation])
        made.attributes.add(key=OWN_NAME).value.CopyFrom(string_value(own))
        for argument, values in arguments.items():
            names = [self.values[value] for value in values if value in self.values]
            if names or not values:
                bindings = made.inputs.add(key=argument).value.arguments
                for name in names:
                    bindings.add().name = name
        for argument, text in _texts(operation).items():
            made.inputs.add(key=argument).value.arguments.add().value.CopyFrom(string_value(text))
        for value in _results(operation):
            _set_type(made.outputs.add(name=self.values[value]).type, value)
            self.view.operations.setdefault((self.function, self.values[value]), operation)
        for values, inner in library.blocks(operation) if known.type in _CONTROL else ():
            block = made.blocks.add()
            self._take(block, dict.fromkeys(values, f"{self.names[operation]}_value"))
            self._fill(block, inner, depth + 1)
        return made

    def _name(self, operation: Any, name: str) -> None:
        self.names[operation] = own = self._fresh(name)
        for index, value in enumerate(_results(operation)):
            self.values[value] = own if index == 0 else self._fresh(f"{own}_{index}")
        if operation in self.sums:
            self.values[self.sums[operation].results[0]] = own

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


def _results(operation: Any) -> list[Any]:
    """What an operation gives, but for tokens."""
    return [value for value in operation.results if library.tensor(value.type) is not None]


def _argument(operation: Any, index: int) -> str:
    known = words(operation.name).arguments
    last = known[-1] if known else ""
    if last.startswith("*") and index >= len(known) - 1:
        return last[1:]
    return known[index] if index < len(known) else f"input_{index}"


def _arguments(operation: Any) -> dict[str, list[Any]]:
    """The operands by argument."""
    found: dict[str, list[Any]] = {}
    if (last := words(operation.name).arguments[-1:]) and last[0].startswith("*"):
        found[last[0][1:]] = []
    for index, value in enumerate(operation.operands):
        found.setdefault(_argument(operation, index), []).append(value)
    found.pop("", None)
    return found


def _texts(operation: Any) -> dict[str, str]:
    """The arguments that are words."""
    known, found = words(operation.name), {}
    for attribute, argument in known.texts:
        if (text := library.text(operation, attribute)) is not None:
            found[argument] = text
    if known.dtype:
        result = library.type_of(operation).dtype
        name = "" if result is None else result.name
        found[known.dtype] = _SHORT.get(name, name)
    if known.type == "scatter_nd":
        found["mode"] = _combination(operation)
    return found


def _combination(operation: Any) -> str:
    """What is done with the two values that meet, by the block that says so."""
    [(_, operations)] = library.blocks(operation)
    inner = [plain_name(one.name) for one in operations if one.name not in _ENDS]
    return "update" if not inner else _COMBINES.get(inner[0], inner[0]) if len(inner) == 1 else "a block"


def _set_type(kind: Any, value: Any) -> None:
    found = library.tensor(value.type)
    if found is not None and found.dtype is not None:
        set_tensor_type(kind, found.dtype, found.shape)


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


def _with_bias(operations: list[Any]) -> Iterator[tuple[Any, Any]]:
    """Products with the sums that add a constant vector of their channels to what they give, and nothing else does."""
    here = set(operations)
    for operation in operations:
        for inner in library.within(operation):
            yield from _with_bias(inner)
        if plain_name(operation.name) != "add":
            continue
        product, bias = library.owner(operation.operands[0]), library.owner(_bias(operation))
        if product in here and bias is not None and bias.name == "coreai.constant":
            result, added, value = (library.tensor(one.results[0].type) for one in (operation, bias, product))
            axis = _channels(product)
            alone = all(len(list(one.results[0].uses)) == 1 for one in (product, bias))
            if axis is not None and alone and result is not None and added is not None and result == value:
                shape = [result.shape[axis] if at == axis else 1 for at in range(-len(added.shape), 0)]
                if added.dtype == result.dtype and tuple(shape) == added.shape and -axis <= len(shape):
                    yield product, operation


def _bias(total: Any) -> Any:
    return total.operands[1]


def _channels(product: Any) -> int | None:
    """The axis, from the end, of what a product gives along which a bias lies; None for what has none."""
    kind = words(product.name).type
    if kind in ("conv", "conv_transpose"):
        return 1 - len(library.type_of(product).shape)
    return -1 if kind == "matmul" and _is_turned_weight(library.owner(product.operands[1])) else None


def _set_name(operation: Any, name: str) -> None:
    for entry in operation.attributes:
        if entry.key == "name":
            entry.value.CopyFrom(string_value(name))
            return
    operation.attributes.add(key="name").value.CopyFrom(string_value(name))


def _describe(graph: Any, function: Any) -> Interface:
    """What a function takes and gives, written as the description of a model says it."""
    inputs: list[Feature] = []
    states: list[Feature] = []
    outputs: list[Feature] = []
    for index, (value, name) in enumerate(library.arguments(graph)):
        state = library.is_state(value.type)
        described = (function.state if state else function.input).add(name=name or f"input_{index}")
        (states if state else inputs).append(_feature(described, value.type, state))
    for index, (kind, name) in enumerate(library.outputs(graph)):
        if library.tensor(kind) is not None:
            outputs.append(_feature(function.output.add(name=name or f"output_{index}"), kind, False))
    return Interface(tuple(inputs), tuple(outputs), tuple(states))


def _feature(feature: Any, kind: Any, state: bool) -> Feature:
    found = library.tensor(kind)
    if found is None:
        return Feature(feature.name, "value")
    array = feature.type.stateType.arrayType if state else feature.type.multiArrayType
    name = found.dtype.name if isinstance(found.dtype, DType) else ""
    array.dataType = _ARRAY_TYPES.get(name, 0)
    array.shape.extend(max(size, 1) for size in found.shape)
    ranges = () if found.is_fixed else tuple((1, -1) if size < 0 else (size, size) for size in found.shape)
    for low, high in ranges:
        array.shapeRange.sizeRanges.add(lowerBound=low, upperBound=high)
    dtype = found.dtype.numpy if isinstance(found.dtype, DType) else "float32"
    return Feature(feature.name, "array", tuple(array.shape), np.dtype(dtype), ranges=ranges)


def _as_only(description: Any) -> None:
    """A model of one function is described as that function."""
    [only] = description.functions
    description.input.extend(only.input)
    description.output.extend(only.output)
    description.state.extend(only.state)
    description.defaultFunctionName = only.name
    del description.functions[:]
