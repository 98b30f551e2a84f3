"""Where a program gets its pairs of `quantize` and `dequantize`: before which operations, and after which."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from corepress.coreml.op_configs import OpLinearQuantizerConfig
from corepress.formats.coreai.view import OWN_NAME
from corepress.formats.dtypes import BY_MIL
from corepress.formats.mlprogram.program import Node, Operand

# Operations that work on integers, with the arguments that are activations.
CORE = {"conv": ("x",), "linear": ("x",), "avg_pool": ("x",), "max_pool": ("x",), "add": ("x", "y")}
# An operation of these that follows is computed in one go with the one before it. coremltools converts ReLU6 of PyTorch
# to `clip`.
ACTIVATIONS = frozenset({"relu", "relu6", "clip", "leaky_relu", "sigmoid", "sigmoid_hard", "tanh", "scaled_tanh"})
# What only moves numbers: an activation function behind it may as well be computed before it.
MOVES = frozenset({"reshape", "transpose", "expand_dims", "squeeze", "pad"})
_FLOATS = ("float16", "float32")
# Of those, what works on windows: in Core AI another operation pads for it.
_WINDOWS = frozenset({"conv", "avg_pool", "max_pool"})

Chosen = dict[Node, OpLinearQuantizerConfig]
Types = dict[str, Any]


class Reading(NamedTuple):
    """Where an operation gets an activation from: which operation reads it, as which argument, and what it is."""

    reader: Node
    argument: str
    operand: Operand


def activations(node: Node) -> Iterator[Reading]:
    """Of an operation of `CORE` what it works on."""
    for argument in CORE[node.type]:
        operand = node.operand(argument)
        if operand is not None:
            padded = operand.node if operand.node is not None and _pads_for(operand.node) is node else None
            inner = padded.operand("x") if padded is not None else None
            yield Reading(node, argument, operand) if padded is None or inner is None else Reading(padded, "x", inner)


def _pads_for(node: Node) -> Node | None:
    """Of a `pad` of Core AI the operation that it is a part of; None for anything else."""
    if node.type != "pad" or node.operand(OWN_NAME) is None or len(node.uses) != 1:
        return None
    [use] = node.uses
    return use.node if use.node is not None and use.node.type in _WINDOWS else None


def input_types(function: Any) -> Types:
    """The types of the inputs of a function and of the blocks inside it, by name."""
    found: Types = {value.name: value.type for value in function.inputs}

    def collect(block: Any) -> None:
        found.update((value.name, value.type) for value in block.inputs)
        for op in block.operations:
            for inner in op.blocks:
                collect(inner)

    for specialization in function.block_specializations:
        collect(specialization.value)
    return found


def name_of(operand: Operand) -> str:
    """The name of the value that an operation reads."""
    return str(operand.node.op.outputs[operand.output].name) if operand.node is not None else operand.name


def type_of(operand: Operand, inputs: Types) -> Any:
    """The type of the value that an operation reads; None when it is not known."""
    return operand.node.op.outputs[operand.output].type if operand.node is not None else inputs.get(operand.name)


def is_float(kind: Any) -> bool:
    """Whether a type is that of a tensor of floating-point numbers that can be quantized."""
    if kind is None or kind.WhichOneof("type") != "tensorType":
        return False
    dtype = BY_MIL.get(kind.tensorType.dataType)
    return dtype is not None and dtype.name in _FLOATS


def gets_pair(operand: Operand) -> bool:
    """Whether what a chosen operation reads is not quantized yet."""
    return operand.node is None or operand.node.type != "dequantize"


def before(
    nodes: Iterable[Node],
    inputs: Types,
    config_for: Callable[[Node], OpLinearQuantizerConfig | None],
    usable: Callable[[str], bool] = lambda name: True,
) -> Chosen:
    """The operations whose activations are quantized, with their configuration.

    They are those of `CORE` whose activations are all computed, in floating point and `usable` by name.
    """
    found = {}
    for node in nodes:
        if node.type not in CORE:
            continue
        operands = [reading.operand for reading in activations(node)]
        known = len(operands) == len(CORE[node.type])
        if known and all(_is_activation(o, inputs) and usable(name_of(o)) for o in operands):
            config = config_for(node)
            if config is not None:
                found[node] = config
    return found


def _is_activation(operand: Operand, inputs: Types) -> bool:
    node = operand.node
    if operand.value is not None or not is_float(type_of(operand, inputs)):
        return False
    return node is None or not (node.is_const or node.is_constexpr)


def after(
    chosen: Chosen, usable: Callable[[str], bool] = lambda name: True, exceptions: Collection[Node] = frozenset()
) -> Chosen:
    """The operations after which a pair follows: a chosen one, or the activation function on its result, also where
    its numbers are moved first.

    None follows on a result that nothing reads, or nothing but another chosen operation, which brings its own pair;
    those of `exceptions` read what has no pair.
    """
    found = {}
    for node, config in chosen.items():
        last, readers = node, _readers(node, chosen)
        function = _moved(readers, chosen)
        if function is not None and (following := _readers(function, chosen)):
            last, readers = function, following
        readers = [reader for reader in readers if reader not in exceptions]
        alone = len(readers) == 1 and (readers[0] in chosen or readers[0].type == "quantize")
        if readers and not alone and usable(str(last.op.outputs[0].name)):
            found[last] = config
    return found


def _moved(readers: Sequence[Node], chosen: Chosen) -> Node | None:
    """The activation function that reads a result, at once or when nothing but moving came before."""
    while len(readers) == 1 and readers[0].type in MOVES and all(use.node for use in readers[0].uses):
        readers = _readers(readers[0], chosen)
    return readers[0] if readers and readers[0].type in ACTIVATIONS else None


def spared(view: Iterable[Node], exceptions: Collection[str]) -> set[Node]:
    """The operations that read nothing rounded: those of these names, and what only moves numbers for them."""
    found = {node for node in view if node.name in exceptions and node.type in CORE}
    waiting = list(found)
    while waiting:
        for operand in itertools.chain.from_iterable(waiting.pop().operands.values()):
            before = operand.node
            if before is None or before in found or before.type not in MOVES:
                continue
            if all(use.node in found for use in before.uses):
                found.add(before)
                waiting.append(before)
    return found


def _readers(node: Node, chosen: Chosen) -> list[Node]:
    """The operations that read a result, those that are chosen themselves at the end."""
    readers = list(dict.fromkeys(_pads_for(use.node) or use.node for use in node.uses if use.node is not None))
    return sorted(readers, key=lambda reader: reader in chosen)


def concat_groups(nodes: Sequence[Node]) -> list[set[str]]:
    """The names of values that must share a range: what goes into and comes out of a `concat`, unless that is an output
    of the model. Groups with a name in common are one."""
    groups: list[set[str]] = []
    for node in nodes:
        if node.type != "concat" or any(use.node is None for use in node.uses):
            continue
        group = {name_of(operand) for operand in node.operands.get("values", []) if operand.value is None}
        group |= {str(output.name) for output in node.op.outputs}
        for known in [known for known in groups if known & group]:
            groups.remove(known)
            group |= known
        groups.append(group)
    return groups
