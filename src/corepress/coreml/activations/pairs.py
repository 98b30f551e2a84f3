"""Writes `quantize` and `dequantize` into a program."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from corepress.coreml.activations.patterns import Chosen, Types, activations, gets_pair, name_of, type_of
from corepress.coreml.op_configs import OpLinearQuantizerConfig
from corepress.coreml.rewrite import fresh
from corepress.formats.dtypes import BY_MIL, BY_NAME, DType
from corepress.formats.mlprogram.program import Node, edit
from corepress.formats.mlprogram.values import immediate_value, string_value
from corepress.formats.schema import Operation

Limits = tuple[float, float]


@dataclass(frozen=True)
class Parameters:
    """`value = scale * (integer - zero_point)`; `scale` is exact in the type of the activation."""

    scale: float
    zero_point: int
    dtype: str


def parameters(limits: Limits, config: OpLinearQuantizerConfig, dtype: DType) -> Parameters:
    """The scale, in the floating-point type of the activation, and the zero point, so that integers cover `limits`."""
    least, most = (-128, 127) if config.signed else (0, 255)
    low, high = min(limits[0], 0.0), max(limits[1], 0.0)
    if config.mode == "LINEAR_SYMMETRIC":
        least, most = (-127, 127) if config.signed else (0, 254)
        low, high = -max(-low, high), max(-low, high)
    name = "int8" if config.signed else "uint8"
    if low == high:
        return Parameters(1.0, 0 if config.signed else least + (most - least) // 2, name)
    kind = np.finfo(dtype.numpy)
    scale = max(dtype.numpy.type((high - low) / (most - least)), kind.smallest_subnormal)
    zero_point = round(min(max(least - low * (most - least) / (high - low), least), most))
    # The scale may have been rounded up: the outermost steps must not overflow.
    if float(scale) * max(most - zero_point, zero_point - least) > float(kind.max):
        scale = np.nextafter(scale, dtype.numpy.type(0))
    return Parameters(float(scale), zero_point, name)


class Writer:
    """Gathers the pairs of one program view. Equal pairs of one value in one block are written once."""

    def __init__(self, nodes: Sequence[Node], inputs: Types):
        self.insertions: list[tuple[Node, list[Any]]] = []
        self._following = {(id(node.block), node.index - 1): node for node in nodes}
        self._taken = {output.name for node in nodes for output in node.op.outputs} | set(inputs)
        self._known: dict[tuple[str, Parameters, int], str] = {}

    def after(self, node: Node, parameters: Parameters) -> str:
        """A pair on the result of an operation, right behind it; returns the name of what comes out."""
        output = node.op.outputs[0]
        return self.before(self._following[id(node.block), node.index], output.name, output.type, parameters)

    def before(self, node: Node, value: str, kind: Any, parameters: Parameters) -> str:
        """A pair on a value, before an operation that reads it; returns the name of what comes out."""
        key = (value, parameters, id(node.block))
        if key not in self._known:
            integers, self._known[key] = (
                fresh(f"{value}_{ending}", self._taken) for ending in ("quantized", "dequantized")
            )
            dtype = BY_MIL[kind.tensorType.dataType]
            quantize = _operation("quantize", value, integers, kind, parameters, dtype)
            quantize.outputs[0].type.tensorType.dataType = BY_NAME[parameters.dtype].mil
            _add_argument(quantize, "output_dtype", string_value(parameters.dtype))
            dequantize = _operation("dequantize", integers, self._known[key], kind, parameters, dtype)
            self.insertions.append((node, [quantize, dequantize]))
        return self._known[key]


def _operation(name: str, source: str, output: str, kind: Any, parameters: Parameters, dtype: DType) -> Any:
    operation = Operation(type=name)
    operation.inputs.add(key="input").value.arguments.add().name = source
    _add_argument(operation, "scale", immediate_value(np.array(parameters.scale, dtype.numpy)))
    if parameters.zero_point:
        _add_argument(operation, "zero_point", immediate_value(np.array(parameters.zero_point, parameters.dtype)))
    operation.outputs.add(name=output).type.CopyFrom(kind)
    operation.attributes.add(key="name").value.CopyFrom(string_value(output))
    return operation


def _add_argument(operation: Any, name: str, value: Any) -> None:
    operation.inputs.add(key=name).value.arguments.add().value.CopyFrom(value)


def write(
    nodes: Sequence[Node],
    inputs: Types,
    before: Chosen,
    after: Chosen,
    limits: Callable[[str, bool], Limits],
    exceptions: Collection[Node] = frozenset(),
) -> None:
    """Put a pair before the activations of the operations `before`, and behind the operations `after`.

    `limits(name, symmetric)`: the range of a value. Outputs of blocks keep reading what they read, and so do the
    operations `exceptions`.
    """

    def parameters_of(value: str, kind: Any, config: OpLinearQuantizerConfig) -> Parameters:
        symmetric = config.mode == "LINEAR_SYMMETRIC"
        return parameters(limits(value, symmetric), config, BY_MIL[kind.tensorType.dataType])

    writer = Writer(nodes, inputs)
    behind: dict[Node, tuple[str, Parameters]] = {}
    for node, config in after.items():
        output = node.op.outputs[0]
        chosen = parameters_of(output.name, output.type, config)
        behind[node] = writer.after(node, chosen), chosen
    wanting = {
        (reading.reader, reading.argument): config for node, config in before.items() for reading in activations(node)
    }
    for node in nodes:
        for entry in node.op.inputs:
            for operand, binding in zip(node.operands[entry.key], entry.value.arguments, strict=True):
                source, held = binding.name, None
                if operand.node in behind and operand.output == 0 and node not in exceptions:
                    source, held = behind[operand.node]
                if (node, entry.key) in wanting and gets_pair(operand):
                    kind = type_of(operand, inputs)
                    wanted = parameters_of(name_of(operand), kind, wanting[node, entry.key])
                    if wanted != held:
                        source = writer.before(node, source, kind, wanted)
                if source != binding.name:
                    binding.name = source
    edit([], writer.insertions)
