"""The layers of a network as the steps of a plan: each with the arguments of the function that computes it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import corepress.runtime.networks.layers  # noqa: F401 - fills the registry
from corepress.errors import CorepressError, FormatError, UnsupportedError
from corepress.formats.neural_network.layers import weights_of_layer
from corepress.formats.neural_network.values import form, read_values
from corepress.runtime.networks.control import CONTROL, control_step
from corepress.runtime.networks.custom import custom_function, parameters_of, raw_values
from corepress.runtime.networks.fields import fields_of, weights_of
from corepress.runtime.networks.needed import Node
from corepress.runtime.networks.registry import IMPLIED, LAYERS, SHAPES, STACKED
from corepress.runtime.plan import Computed, Held, Step
from corepress.runtime.precision import Precision


@dataclass
class NetworkPlanner:
    """Makes steps of layers.

    `rank5`: arrays have five dimensions throughout; `custom`: the functions of custom layers, by class name. `held`
    collects the constants by the name of their buffer; `buffers` these names by that of the weight.
    """

    precision: Precision
    rank5: bool
    custom: Mapping[str, Callable[..., Any]]
    held: dict[str, Tensor] = field(default_factory=dict)
    buffers: dict[str, str] = field(default_factory=dict)

    @property
    def dtype(self) -> torch.dtype:
        return self.precision.tensor(torch.empty(0)).dtype

    def hold(self, name: str, array: Any) -> Held:
        """Keep an array of numbers; bytes stay what they are."""
        own = np.array(array, None if getattr(array, "dtype", None) == np.uint8 else np.float32, order="C")
        buffer = f"constant_{len(self.held)}"
        self.held[buffer] = self.precision.tensor(torch.from_numpy(own))
        self.buffers[name] = buffer
        return Held(buffer)

    def steps(self, nodes: Sequence[Node]) -> list[Step]:
        """The steps of these layers, in order. Raises FormatError, naming the layer, for what can't be run."""
        return [self._step(node) for node in nodes]

    def _step(self, node: Node) -> Step:
        if node.kind in CONTROL:
            return control_step(node, [self.steps(network) for network in node.inner])
        layer, kind, message = node.layer, node.kind, node.message
        if kind == "activation":
            kind = message.WhichOneof("NonlinearityType") or "unknown"
            kind, message = f"activation_{kind}", getattr(message, kind, None)
        if kind not in LAYERS and kind != "custom":
            raise UnsupportedError(f"layer {layer.name!r}: the runtime does not know layers of the type {kind}")
        try:
            if kind == "custom":
                function, arguments = self._custom(layer, message)
            else:
                function, arguments = LAYERS[kind], self._arguments(layer, kind, message)
                inspect.signature(function).bind(**arguments)
        except (CorepressError, TypeError) as error:
            raise FormatError(f"layer {layer.name!r} ({kind}): {error}") from error
        return Step(kind, layer.name, arguments, tuple(layer.output), function=function)

    def _custom(self, layer: Any, message: Any) -> tuple[Callable[..., Any], dict[str, Any]]:
        function, takes = custom_function(self.custom, layer, message)
        arguments: dict[str, Any] = {"values": [Computed(name) for name in layer.input]}
        if "parameters" in takes:
            arguments["parameters"] = parameters_of(message)
        if "weights" in takes:
            arguments["weights"] = [
                self.hold(f"{layer.name}.weights[{number}]", raw_values(params))
                for number, params in enumerate(message.weights)
            ]
        return function, arguments

    def _arguments(self, layer: Any, kind: str, message: Any) -> dict[str, Any]:
        parameters = inspect.signature(LAYERS[kind]).parameters
        positional = [p.name for p in parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD and _is_input(p)]
        given = [Computed(name) for name in layer.input]
        if positional[:1] == ["values"]:
            if not given:
                raise FormatError("it has no input")
            arguments: dict[str, Any] = {"values": given}
        elif len(given) > len(positional):
            raise UnsupportedError(f"it has {len(given)} inputs, more than the runtime knows of")
        else:
            arguments = dict(zip(positional, given, strict=False))
        for name, array in _weights(layer, kind, message).items():
            arguments[name] = self.hold(f"{layer.name}.{name}", array)
        needed = [name for name, p in parameters.items() if p.default is p.empty and name not in arguments]
        for name, value in fields_of(message, needed).items():
            if name in parameters:
                arguments[name] = value
            elif name not in IMPLIED:
                raise UnsupportedError(f"the runtime does not know its {name}")
        extra = {"outputs": len(layer.output), "rank5": self.rank5}
        arguments |= {name: value for name, value in extra.items() if name in needed}
        if "empty" in needed:
            arguments["empty"] = self.hold("empty", [])
        return arguments


def _is_input(parameter: inspect.Parameter) -> bool:
    """Operations of MIL, which serve as layers, too, have their other arguments among the positional ones."""
    return parameter.annotation is parameter.empty or "Tensor" in str(parameter.annotation)


def _weights(layer: Any, kind: str, message: Any) -> dict[str, NDArray[Any]]:
    """The weights of a layer, decompressed, by the names of the parameters that take them."""
    found = {weight.field: weight.dense() for weight in weights_of_layer(layer)}
    shapes = SHAPES[kind](message) if kind in SHAPES else {}
    for name, params in weights_of(message).items():
        if name not in found and form(params) != "none":
            found[name] = read_values(params, shapes[name], None) if name in shapes else raw_values(params)
            if found[name].dtype == np.uint8:
                raise FormatError("a weight is quantized that must not be")
    if "hasBias" in message.DESCRIPTOR.fields_by_name and not message.hasBias:
        found.pop("bias", None)
    return STACKED[kind](found) if kind in STACKED else found
