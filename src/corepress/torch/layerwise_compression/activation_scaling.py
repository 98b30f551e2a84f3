"""Activation-aware scales in a model: layers are scaled up, and what makes their input is scaled down in turn.

Which module makes the input of which layers, with nothing between or beside them that minds a scale, isn't read from
the model's code but tried out: one factor for each channel, a power of two at random, goes into the layers' weights and
out of what was computed before. If all answers to the first batch stay the same, the two belong together. That holds
for any architecture and control flow, and finds out residual connections, activation functions, tied weights and layers
called twice.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from corepress.algorithms.fitted.awq import (
    Inputs,
    Layer,
    Rounding,
    Scaling,
    activation_scale,
    by_channel,
    keeps_rows,
    spread,
    trial_scale,
    unchanged,
)
from corepress.algorithms.fitted.layout import Layout
from corepress.errors import CorepressError
from corepress.torch.layerwise_compression.input_cacher import Call, Device, on_device
from corepress.torch.layerwise_compression.layout import is_supported, layout_of, reads, vectors_of
from corepress.torch.layerwise_compression.stages import evaluating, hooks, observe, whole
from corepress.torch.metadata import read_weight
from corepress.torch.parameters import Parameter, parameters
from corepress.weights import Sparse

log = logging.getLogger(__name__)

_NEAREST = 6  # modules that are tried: the last ones called before the layers


@dataclass(frozen=True)
class Pair:
    """Layers that read one tensor, and the weight that gives its channels their scale."""

    producer: Parameter
    layers: tuple[Parameter, ...]

    @property
    def channels(self) -> int:
        return int(self.producer.value.shape[self.producer.output_axis])

    def layout(self, layer: Parameter) -> Layout | None:
        """That of a layer, by the producer's channels; None if it has others."""
        return by_channel(layout_of(layer.module)[1], self.channels)

    def apply(self, scale: Tensor) -> None:
        """Scale the layers by (channels,), and the producer by its inverse."""
        for layer in self.layers:
            layout = self.layout(layer)
            assert layout is not None
            layer.value.view(layout.shape).mul_(spread(scale, layout))
        for value in _made_by(self.producer):
            axis = self.producer.output_axis if value.ndim > 1 else 0
            value.div_(scale.reshape(-1, *[1] * (value.ndim - 1 - axis)))


@torch.no_grad()
def scale_activations(
    model: nn.Module,
    calls: Sequence[Call],
    rounding_of: Callable[[Parameter], Rounding | None],
    device: Device = None,
) -> dict[str, Scaling]:
    """Scale a model, in place, so that rounding its weights changes the outputs of its layers less.

    `calls`: of the model. `rounding_of`: how a weight will be rounded, None if it won't.
    What the model answers stays the same but for rounding errors of its type. Layers whose input nothing before them
    can scale are left as they are; a warning says how many. Gives the scalings by the keys of the weights.
    """
    roundings = {p.key: rounding for p in _layers(model) if (rounding := rounding_of(p)) is not None}
    found: dict[str, Scaling] = {}
    if not roundings or not calls:
        return found
    with evaluating(model), on_device(model.modules(), device):
        pairs = {pair.layers[0].key: pair for pair in _pairs(model, calls[0].to(device), roundings)}
        for stage in whole(model, list(calls), [pair.layers[0] for pair in pairs.values()], device):
            own = {parameter.key: _Inputs(pairs[parameter.key]) for parameter in stage.parameters}
            with hooks(p.module.register_forward_pre_hook(own[p.key].hook) for p in stage.parameters):
                for call in stage.calls:
                    stage.forward(call)
            for key, inputs in own.items():
                with contextlib.suppress(CorepressError):  # which the compression will find as well, and say
                    scaling = inputs.scaling(roundings)
                    pairs[key].apply(scaling.scale)
                    found |= {layer.key: scaling for layer in pairs[key].layers if layer.key in roundings}
    if without := len(roundings) - len(found):
        log.warning(
            "activation_aware_scale: %d of %d layers do without, since no single weight before them could take up the "
            "inverse of their scale", without, len(roundings),
        )  # fmt: skip
    return found


def _layers(model: nn.Module) -> list[Parameter]:
    return [parameter for parameter in parameters(model) if is_supported(parameter.module)]


class _Inputs:
    """Statistics of the input of a pair's layers, one for each way in which they read it."""

    def __init__(self, pair: Pair):
        self.pair = pair
        self.by_reads: dict[Any, tuple[nn.Module, Layout, Inputs]] = {}
        for layer in pair.layers:
            parameter, layout = layout_of(layer.module)
            entry = layer.module, layout, Inputs(layout, parameter.value.device)
            self.by_reads.setdefault(reads(layer.module, layout), entry)

    def hook(self, _: nn.Module, args: tuple[Any, ...]) -> None:
        """Of the first layer, which is called with the tensor that all of them read."""
        for module, layout, inputs in self.by_reads.values():
            for vectors in vectors_of(module, layout, args[0]):
                inputs.add(vectors)

    def scaling(self, roundings: Mapping[str, Rounding]) -> Scaling:
        layers = []
        for layer in self.pair.layers:
            if layer.key in roundings:
                _, _, inputs = self.by_reads[reads(layer.module, layout_of(layer.module)[1])]
                layout = self.pair.layout(layer)
                assert layout is not None
                weight = layer.value.view(layout.shape)
                layers.append(Layer(weight, layout, inputs.hessian.matrix, roundings[layer.key]))
        _, _, inputs = next(iter(self.by_reads.values()))
        return activation_scale(layers, inputs.magnitude.reshape(self.pair.channels, -1).mean(1))


def _pairs(model: nn.Module, call: Call, roundings: Mapping[str, Rounding]) -> Iterator[Pair]:
    """The layers, some of which are rounded, whose input can be scaled, with what scales it."""
    layers = {parameter.module_name: parameter for parameter in _layers(model)}
    candidates = layers | {p.module_name: p for p in _norms(model)}
    order = observe(list(candidates.values()), lambda: model(*call.args, **call.kwargs))
    groups: dict[Any, list[str]] = {}
    for name in order:
        if name in layers:
            groups.setdefault(tuple(tensor for _, tensor in order[name]), []).append(name)
    names, answers = list(order), _answers(model, layers, call)
    for group in groups.values():
        if not any(layers[name].key in roundings for name in group) or not all(_plain(layers[name]) for name in group):
            continue
        first = names.index(group[0])
        compared = {None, *(name for name in names[first:] if name in layers)}
        for name in reversed(names[max(0, first - _NEAREST) : first]):
            pair = Pair(candidates[name], tuple(layers[each] for each in group))
            if None in map(pair.layout, pair.layers) or not _plain(pair.producer):
                continue
            with _scaled_at_random(pair):
                tried = _answers(model, layers, call)
            if all(_same(answers[name], tried.get(name, [])) for name in compared):
                if _keeps_rows(pair.producer, roundings):
                    yield pair
                break


def _norms(model: nn.Module) -> Iterator[Parameter]:
    """The weights of layer norms, batch norms and others of their kind: one number to a channel, maybe with a bias."""
    for name, module in model.named_modules():
        own = dict(module.named_parameters(recurse=False))
        if "weight" in own and own.keys() <= {"weight", "bias"} and {value.ndim for value in own.values()} == {1}:
            yield Parameter(module, name, "weight", 0, module, name)


def _made_by(producer: Parameter) -> list[Tensor]:
    bias = getattr(producer.module, "bias", None)
    return [producer.value] if bias is None else [producer.value, bias]


def _plain(parameter: Parameter) -> bool:
    """Whether it may be scaled: buffers of a compressed weight wouldn't agree with it any more."""
    if parameter.value.is_meta or not parameter.value.is_floating_point():
        return False
    value = read_weight(parameter)
    return isinstance(value.values if isinstance(value, Sparse) else value, np.ndarray)


def _keeps_rows(producer: Parameter, roundings: Mapping[str, Rounding]) -> bool:
    if producer.key not in roundings:
        return True
    _, layout = layout_of(producer.module)
    return keeps_rows(Layer(producer.value, layout, producer.value, roundings[producer.key]))


def _answers(model: nn.Module, layers: Mapping[str, Parameter], call: Call) -> dict[str | None, list[Tensor]]:
    """The outputs of the layers in one run, by name; those of the model under None."""
    found: dict[str | None, list[Tensor]] = {}

    def keeping(name: str) -> Callable[..., None]:
        return lambda module, args, output: found.setdefault(name, []).extend(_tensors(output))

    with hooks(layer.module.register_forward_hook(keeping(name)) for name, layer in layers.items()):
        found[None] = list(_tensors(model(*call.args, **call.kwargs)))
    return found


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors(item)


def _same(before: list[Tensor], after: list[Tensor]) -> bool:
    return len(before) == len(after) and all(map(unchanged, before, after))


@contextlib.contextmanager
def _scaled_at_random(pair: Pair) -> Iterator[None]:
    """The pair with a power of two for each channel, for a while."""
    value = pair.producer.value
    changed = [*_made_by(pair.producer), *(layer.value for layer in pair.layers)]
    before = [tensor.clone() for tensor in changed]
    try:
        pair.apply(trial_scale(pair.channels, value.dtype).to(value.device))
        yield
    finally:
        for tensor, old in zip(changed, before, strict=True):
            tensor.copy_(old)
