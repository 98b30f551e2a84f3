"""Where the weights of a neural network lie: in which layers, and of what shapes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from corepress.formats.kinds import NETWORKS, kind_of, models
from corepress.formats.neural_network import values
from corepress.formats.neural_network.forms import Floats, Linear
from corepress.formats.schema import Layer
from corepress.weights import Palettized

Shape = tuple[int, ...]
INNER = {"loop": ("conditionNetwork", "bodyNetwork"), "branch": ("ifBranch", "elseBranch")}
# Layers of which a selector is asked for the weights and the bias apart.
_BIAS_APART = ("convolution", "innerProduct", "batchedMatmul")


class Selector(Protocol):
    """Chooses layers, as the `QuantizedLayerSelector` of `corepress.neural_network.quantization_utils` does."""

    def do_quantize(self, layer: Any, **kwargs: Any) -> bool: ...


@dataclass(frozen=True, eq=False)
class LayerWeight:
    """One weight of one layer of a neural network.

    Args:
        name: That of the layer and of the field, after those of the models, loops and branches around it.
        layer: The message of its layer.
        params: Its `WeightParams` message.
        shape: Of its values.
        axis: That of the output channels; None for a vector.
        one_scale: It can only have one scale for all.

    Examples:
        >>> weight = cto.neural_network.load("net.mlmodel").weights()[0]
        >>> weight.form, weight.stored_bytes, weight.dense().dtype
        ('float32', 128, dtype('float32'))
    """

    name: str
    layer: Any
    params: Any
    shape: Shape
    axis: int | None = None
    one_scale: bool = False

    @property
    def field(self) -> str:
        """The name of its field in the layer, such as "weights"."""
        return self.name.rpartition(".")[2]

    @property
    def layer_type(self) -> str:
        return str(self.layer.WhichOneof("layer"))

    @property
    def form(self) -> str:
        """How it is stored: "float32", "float16", "linear", "lut", "int8", "none" or "unknown"."""
        return values.form(self.params)

    @property
    def bits(self) -> int:
        """Bits of each stored value."""
        return values.bits_of(self.params)

    @property
    def stored_bytes(self) -> int:
        return values.stored_bytes(self.params)

    @property
    def bits_per_weight(self) -> float:
        """Stored bits for each element, tables and scales included."""
        return 8 * self.stored_bytes / max(math.prod(self.shape), 1)

    def dense(self) -> Floats:
        """The weight as float32, of `shape`. Raises CorepressError, with the reason, if it can't be read."""
        return values.read_values(self.params, self.shape, self.axis)

    def read(self) -> Linear | Palettized | Floats:
        """The weight, quantized if it is stored so; errors are those of `dense`."""
        return values.stored_values(self.params, self.shape, self.axis)


def networks(spec: Any) -> Iterator[tuple[str, Any]]:
    """All neural networks of a model and of its pipelines, each with what the names of its weights begin with; not
    those in loops and branches."""
    for stage, model in models(spec):
        if (kind := kind_of(model)) in NETWORKS:
            yield f"{stage}/" if stage else "", getattr(model, kind)


def all_layers(spec: Any) -> Iterator[Any]:
    """The layers of all networks of a model, those in loops and branches included."""
    return layers_of(*(network for _, network in networks(spec)))


def layers_of(*given: Any) -> Iterator[Any]:
    """The layers of the networks that are given, those in loops and branches included."""
    waiting = list(given)
    while waiting:
        for layer in waiting.pop().layers:
            yield layer
            kind = layer.WhichOneof("layer")
            waiting += [getattr(getattr(layer, kind), inner) for inner in INNER.get(kind, ())]


def find_weights(spec: Any, selector: Selector | None = None) -> Iterator[LayerWeight]:
    """Every weight that is there and, if there is a selector, that it selects; in the order of the layers."""
    for prefix, network in networks(spec):
        yield from _in_network(network, prefix, selector)


def _in_network(network: Any, prefix: str, selector: Selector | None) -> Iterator[LayerWeight]:
    for layer in network.layers:
        kind = layer.WhichOneof("layer")
        if selector and not selector.do_quantize(layer):
            continue
        for inner in INNER.get(kind, ()):
            yield from _in_network(getattr(getattr(layer, kind), inner), f"{prefix}{layer.name}/", selector)
        for weight in weights_of_layer(layer, prefix):
            apart = weight.field == "bias" and kind in _BIAS_APART
            if not (selector and apart) or selector.do_quantize(layer, weight_param="bias"):
                yield weight


def weights_of_layer(layer: Any, prefix: str = "") -> Iterator[LayerWeight]:
    """Every weight that a layer itself holds; `prefix`: what their names begin with."""
    kind = layer.WhichOneof("layer")
    for field, weight, *rest in _WEIGHTS[kind](getattr(layer, kind)) if kind in _WEIGHTS else ():
        if values.form(weight) != "none":
            yield LayerWeight(f"{prefix}{layer.name}.{field}", layer, weight, *rest)


# For each type of layer: the name of each weight, its message, its shape, the axis of its channels, maybe `one_scale`.

_MAX_RANK = 8
_Found = Iterator[tuple[Any, ...]]


def _sizes(dims: Any) -> Shape:
    # The product of a million sizes, in a hostile file, would take for ever.
    return tuple(dims) if len(dims) <= _MAX_RANK else (0,)


def _convolution(p: Any) -> _Found:
    kernel, groups = _sizes(p.kernelSize) or (3, 3), p.nGroups or 1
    if p.isDeconvolution:
        # Between groups, output channels share an index on axis 1; only one scale is sure to be read alike.
        yield "weights", p.weights, (p.kernelChannels, p.outputChannels // groups, *kernel), 1, groups > 1
    else:
        yield "weights", p.weights, (p.outputChannels, p.kernelChannels, *kernel), 0
    yield "bias", p.bias, (p.outputChannels,), None


def _matrix(rows: str, columns: str) -> Callable[[Any], _Found]:
    def found(p: Any) -> _Found:
        yield "weights", p.weights, (getattr(p, rows), getattr(p, columns)), 0
        yield "bias", p.bias, (getattr(p, rows),), None

    return found


def _batchnorm(p: Any) -> _Found:
    for field in ("gamma", "beta", "mean", "variance"):
        yield field, getattr(p, field), (p.channels,), None


def _scale(p: Any) -> _Found:
    yield "scale", p.scale, (math.prod(_sizes(p.shapeScale)),), None
    yield "bias", p.bias, (math.prod(_sizes(p.shapeBias)),), None


def _bias(p: Any) -> _Found:
    yield "bias", p.bias, (math.prod(_sizes(p.shape)),), None


def _constant(p: Any) -> _Found:
    yield "data", p.data, (math.prod(_sizes(p.shape)),), None


def _recurrent(p: Any) -> _Found:
    return _gates(p, p.inputVectorSize, p.outputVectorSize)


def _lstm(p: Any) -> _Found:
    weights = p.weightParams
    if hasattr(weights, "ListFields"):
        weights = [weights]
    for number, direction in enumerate(weights):
        for field, *rest in _gates(direction, p.inputVectorSize, p.outputVectorSize):
            yield f"{field}[{number}]" if len(weights) > 1 else field, *rest


def _gates(message: Any, inputs: int, outputs: int) -> _Found:
    """The kind of a recurrent weight shows in the end of its name."""
    for field in message.DESCRIPTOR.fields:
        weight = getattr(message, field.name)
        if field.name.lower().endswith("weightmatrix"):
            yield field.name, weight, (outputs, inputs), 0
        elif field.name.lower().endswith("recursionmatrix"):
            yield field.name, weight, (outputs, outputs), 0
        elif field.name.lower().endswith("vector"):
            yield field.name, weight, (outputs,), None


_WEIGHTS: dict[str, Callable[[Any], _Found]] = {
    "convolution": _convolution,
    "innerProduct": _matrix("outputChannels", "inputChannels"),
    "embedding": _matrix("outputChannels", "inputDim"),
    "embeddingND": _matrix("embeddingSize", "vocabSize"),
    "batchedMatmul": _matrix("weightMatrixSecondDimension", "weightMatrixFirstDimension"),
    "batchnorm": _batchnorm,
    "scale": _scale,
    "bias": _bias,
    "loadConstant": _constant,
    "loadConstantND": _constant,
    "simpleRecurrent": _recurrent,
    "gru": _recurrent,
    "uniDirectionalLSTM": _lstm,
    "biDirectionalLSTM": _lstm,
}
WITH_WEIGHTS = frozenset(_WEIGHTS)
"""The types of layers with weights that can be compressed."""


def weight_names(kind: str) -> list[str]:
    """The names of the weights that a type of layer can have, whatever its sizes."""
    if kind not in _WEIGHTS:
        return []
    params = getattr(Layer(), kind)
    if kind == "biDirectionalLSTM":
        params.weightParams.add()
    return [name for name, *_ in _WEIGHTS[kind](params)]
