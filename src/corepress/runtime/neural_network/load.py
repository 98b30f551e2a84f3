"""A neural network as a plan: what its inputs become, its layers, what its outputs become."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from torch import Tensor

from corepress.errors import CorepressError, FormatError
from corepress.neural_network.layers import find_weights
from corepress.neural_network.values import form, read_values
from corepress.runtime.executor import Executor
from corepress.runtime.features import Interface, interface_of
from corepress.runtime.neural_network import arrays, channels, elementwise, images, recurrent  # noqa: F401 - LAYERS
from corepress.runtime.neural_network.boundary import as_array, as_image, as_output, described, preparation
from corepress.runtime.neural_network.fields import fields_of, weights_of
from corepress.runtime.neural_network.layers import LAYERS
from corepress.runtime.neural_network.schema import Model, NeuralNetwork
from corepress.runtime.plan import Block, Computed, Held, Step, check_names, mark_last_uses
from corepress.runtime.precision import Precision
from corepress.runtime.program import Program
from corepress.runtime.registry import OPERATIONS

# Fields that only say how large a weight is, or that a file repeats.
_IMPLIED = {
    "hasBias",
    "inputChannels",
    "outputChannels",
    "kernelChannels",
    "kernelSize",
    "inputDim",
    "vocabSize",
    "embeddingSize",
    "channels",
    "weightMatrixFirstDimension",
    "weightMatrixSecondDimension",
    "inputVectorSize",
    "outputVectorSize",
    "int8DynamicQuantize",
}


@dataclass
class _Plan:
    """The steps so far. `held`: constants by the name of their buffer; `buffers`: these names by that of the weight;
    `rank5`: whether arrays have five dimensions throughout.
    """

    precision: Precision
    rank5: bool
    steps: list[Step] = field(default_factory=list)
    held: dict[str, Tensor] = field(default_factory=dict)
    buffers: dict[str, str] = field(default_factory=dict)

    @property
    def dtype(self) -> torch.dtype:
        return self.precision.tensor(torch.empty(0)).dtype

    def hold(self, name: str, array: Any) -> Held:
        buffer = f"constant_{len(self.held)}"
        self.held[buffer] = self.precision.tensor(torch.from_numpy(np.array(array, np.float32, order="C")))
        self.buffers[name] = buffer
        return Held(buffer)

    def add(self, kind: str, name: str, function: Any, arguments: Mapping[str, Any], outputs: tuple[str, ...]) -> None:
        self.steps.append(Step(kind, name, dict(arguments), outputs, function=function))


def load_network(path: Any, spec: Any, device: torch.device, precision: Precision) -> Program:
    """The network that `spec` is, a model message of any of our schemas; `path` stands in errors, if it has one."""
    content = getattr(spec, str(spec.WhichOneof("Type")))
    try:
        network = NeuralNetwork.FromString(content if isinstance(content, bytes) else content.SerializeToString())
    except (DecodeError, ValueError) as error:
        raise FormatError(f"{path or 'the model'}: its neural network is damaged: {error}") from error
    interface = interface_of(spec.description, "")
    plan = _Plan(precision, network.arrayInputShapeMapping == 0)
    interface = replace(interface, inputs=tuple(described(feature, plan.rank5) for feature in interface.inputs))
    try:
        _add_inputs(plan, network, interface)
        for layer in network.layers:
            _add_layer(plan, layer)
        outputs = _add_outputs(plan, network, interface)
        names = tuple(feature.name for feature in interface.inputs)
        block = Block(names, plan.steps, tuple(map(Computed, outputs.values())), tuple(outputs))
        check_names(block, ())
    except CorepressError as error:
        raise FormatError(f"{path or 'the model'}: {error}") from error
    mark_last_uses(block)
    return Program(interface, Executor(block, plan.held), device, precision, "", plan.buffers)


def _add_inputs(plan: _Plan, network: Any, interface: Interface) -> None:
    pictures = [feature for feature in interface.inputs if feature.kind == "image"]
    for feature in interface.inputs:
        arguments: dict[str, Any] = {"x": Computed(feature.name), "dtype": plan.dtype}
        if feature.kind == "image":
            arguments["rank5"] = network.imageInputShapeMapping == 0
            for key, array in preparation(feature, network.preprocessing, len(pictures) == 1).items():
                arguments[key] = plan.hold(f"{feature.name}.{key}", array)
            plan.add("image", feature.name, as_image, arguments, (feature.name,))
        elif feature.kind == "array":
            plan.add("input", feature.name, as_array, arguments | {"rank5": plan.rank5}, (feature.name,))
        else:
            raise FormatError(f"the input {feature.name!r} is a {feature.kind}, which a neural network can't take")


def _add_outputs(plan: _Plan, network: Any, interface: Interface) -> dict[str, str]:
    """By the names of the outputs, those of their values."""
    names = {feature.name: feature.name for feature in interface.outputs}
    if interface.label:
        _add_classes(plan, network, interface)
    for feature in interface.outputs:
        image = feature.kind == "image"
        if (plan.rank5 or image) and feature.name not in (interface.label, interface.probabilities):
            names[feature.name] = f"{feature.name} (output)"
            arguments = {"x": Computed(feature.name), "shape": feature.shape, "image": image}
            plan.add("output", feature.name, as_output, arguments, (names[feature.name],))
    return names


def _add_classes(plan: _Plan, network: Any, interface: Interface) -> None:
    kind = network.WhichOneof("ClassLabels")
    if kind is None:
        raise FormatError("the classifier has no class labels")
    last = network.layers[-1].output if network.layers else []
    scores = network.labelProbabilityLayerName or next(iter(last), "")
    arguments = {"probabilities": Computed(scores), "classes": list(getattr(network, kind).vector)}
    names = (interface.label, interface.probabilities or f"{scores}_by_class")
    plan.add("classify", interface.label, OPERATIONS["classify"].function, arguments, names)


def _add_layer(plan: _Plan, layer: Any) -> None:
    kind = layer.WhichOneof("layer") or "unknown"
    message = getattr(layer, kind, None)
    if message is not None and kind == "activation":
        kind = message.WhichOneof("NonlinearityType") or "unknown"
        kind, message = f"activation_{kind}", getattr(message, kind, None)
    if kind not in LAYERS:
        raise FormatError(f"layer {layer.name!r}: the runtime does not know layers of the type {kind}")
    try:
        arguments = _arguments(plan, layer, kind, message)
        inspect.signature(LAYERS[kind]).bind(**arguments)
    except (CorepressError, TypeError) as error:
        raise FormatError(f"layer {layer.name!r} ({kind}): {error}") from error
    plan.add(kind, layer.name, LAYERS[kind], arguments, tuple(layer.output))


def _arguments(plan: _Plan, layer: Any, kind: str, message: Any) -> dict[str, Any]:
    """The arguments of the function that computes a layer."""
    parameters = inspect.signature(LAYERS[kind]).parameters
    positional = [p.name for p in parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    given = [Computed(name) for name in layer.input]
    if positional[:1] == ["values"]:
        arguments: dict[str, Any] = {"values": given}
    elif len(given) > len(positional):
        raise FormatError(f"it has {len(given)} inputs, more than the runtime knows of")
    else:
        arguments = dict(zip(positional, given, strict=False))
    for name, array in _weights(layer, kind, message).items():
        arguments[name] = plan.hold(f"{layer.name}.{name}", array)
    needed = [name for name, p in parameters.items() if p.default is p.empty and name not in arguments]
    for name, value in fields_of(message, needed).items():
        if name in parameters:
            arguments[name] = value
        elif name not in _IMPLIED:
            raise FormatError(f"the runtime does not know its {name}")
    extra = {"outputs": len(layer.output), "rank5": plan.rank5}
    arguments |= {name: value for name, value in extra.items() if name in needed}
    if "empty" in needed:
        arguments["empty"] = plan.hold("empty", [])
    return arguments


def _weights(layer: Any, kind: str, message: Any) -> dict[str, NDArray[Any]]:
    """The weights of a layer, decompressed, by the names of the parameters that take them."""
    model = Model()
    model.neuralNetwork.layers.append(layer)
    found = {weight.name.removeprefix(f"{layer.name}."): weight.dense() for weight in find_weights(model)}
    for name, params in weights_of(message).items():
        if name not in found and form(params) != "none":
            found[name] = _vector(params)
    if "hasBias" in message.DESCRIPTOR.fields_by_name and not message.hasBias:
        found.pop("bias", None)
    return recurrent.STACKED[kind](found) if kind in recurrent.STACKED else found


def _vector(params: Any) -> NDArray[Any]:
    """A weight that is never quantized, whose size its layer does not say."""
    sizes = {"float32": 4, "float16": 2}
    kind = form(params)
    if kind not in sizes:
        raise FormatError("a weight is quantized that must not be")
    stored = sum(map(len, params.floatValue)) or len(params.float16Value)
    return read_values(params, (stored // sizes[kind],), None)
