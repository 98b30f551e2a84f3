"""Activation-aware scales in a PyTorch model: what `algorithms/fitted/scaling.py` needs to know of its modules.

Modules that were called before are tried as what makes the input of layers; tied weights and layers that are called
twice, or in branches, are no special cases.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from corepress.algorithms.fitted.awq import Inputs, Rounding, Scaling
from corepress.algorithms.fitted.layout import Layout
from corepress.algorithms.fitted.scaling import NEAREST, Answers, Group, Reader, Source, pairs, warn_of_others
from corepress.errors import CorepressError
from corepress.torch.calls import Call, Device
from corepress.torch.layerwise_compression.input_cacher import on_device
from corepress.torch.layerwise_compression.layout import is_supported, layout_of, reads, vectors_of
from corepress.torch.layerwise_compression.stages import evaluating, hooks, observe, whole
from corepress.torch.metadata import read_weight
from corepress.torch.parameters import Parameter, Slot, parameters
from corepress.weights import Sparse


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
    layers = {parameter.key: parameter for parameter in parameters(model) if is_supported(parameter.module)}
    roundings = {key: rounding for key, p in layers.items() if (rounding := rounding_of(p)) is not None}
    scalings: dict[str, Scaling] = {}
    if not roundings or not calls:
        return scalings
    with evaluating(model), on_device(model.modules(), device):
        call = calls[0].to(device)
        found = pairs(_groups(model, layers, call), _answers(model, layers, call), roundings)
        by_first = {pair.layers[0].key: pair for pair in found}
        for stage in whole(model, list(calls), [layers[key] for key in by_first], device):
            own = {
                p.key: _Inputs([layers[each.key].module for each in by_first[p.key].layers]) for p in stage.parameters
            }
            with hooks(p.module.register_forward_pre_hook(own[p.key].hook) for p in stage.parameters):
                for call in stage.calls:
                    stage.forward(call)
            for key, inputs in own.items():
                with contextlib.suppress(CorepressError):  # which the compression will find as well, and say
                    scaling = by_first[key].best_scale(inputs.of_each, roundings)
                    by_first[key].apply(scaling.scale)
                    scalings |= {each.key: scaling for each in by_first[key].layers if each.key in roundings}
    warn_of_others(len(roundings) - len(scalings), len(roundings))
    return scalings


class _Inputs:
    """Statistics of the tensor that some layers read: `of_each` layer, shared by those that read it in one way."""

    def __init__(self, modules: Sequence[nn.Module]):
        self._by_reads: dict[Any, tuple[nn.Module, Layout, Inputs]] = {}
        self.of_each: list[Inputs] = []
        for module in modules:
            parameter, layout = layout_of(module)
            entry = module, layout, Inputs(layout, parameter.value.device)
            self.of_each.append(self._by_reads.setdefault(reads(module, layout), entry)[-1])

    def hook(self, _: nn.Module, args: tuple[Any, ...]) -> None:
        """Of the first layer, which is called with the tensor that all of them read."""
        for module, layout, inputs in self._by_reads.values():
            for vectors in vectors_of(module, layout, args[0]):
                inputs.add(vectors)


def _groups(model: nn.Module, layers: Mapping[str, Parameter], call: Call) -> Iterator[Group[Reader]]:
    """The layers that read one tensor in this call; what may make it are modules that were called before."""
    by_name = {parameter.module_name: parameter for parameter in layers.values()}
    candidates: dict[str, Slot] = {**by_name, **{norm.module_name: norm for norm in _norms(model)}}
    order = observe(list(candidates.values()), lambda: call.answer(model))
    readers: dict[Any, list[str]] = {}
    for name in order:
        if name in by_name:
            readers.setdefault(tuple(tensor for _, tensor in order[name]), []).append(name)
    names = list(order)
    for group in readers.values():
        if all(_is_plain(by_name[name]) for name in group):
            first = names.index(group[0])
            before = [candidates[name] for name in reversed(names[max(0, first - NEAREST) : first])]
            yield Group(
                tuple(_reader(by_name[name]) for name in group),
                [_source(each) for each in before if _is_plain(each)],
                [name for name in names[first:] if name in by_name],
            )


def _reader(parameter: Parameter) -> Reader:
    return Reader(parameter.key, parameter.value, layout_of(parameter.module)[1])


def _source(slot: Slot) -> Source:
    """What a layer, or a norm, gives its channels their scale with."""
    axis, layers = (slot.output_axis, (_reader(slot),)) if isinstance(slot, Parameter) else (0, ())
    bias = getattr(slot.module, "bias", None)
    return Source(((slot.value, axis), *([] if bias is None else [(bias, 0)])), layers)


def _norms(model: nn.Module) -> Iterator[Slot]:
    """The weights of layer norms, batch norms and others of their kind: one number to a channel, maybe with a bias."""
    for name, module in model.named_modules():
        own = dict(module.named_parameters(recurse=False))
        if "weight" in own and own.keys() <= {"weight", "bias"} and {value.ndim for value in own.values()} == {1}:
            yield Slot(module, name, "weight")


def _is_plain(slot: Slot) -> bool:
    """Whether it may be scaled: buffers of a compressed weight wouldn't agree with it any more."""
    if slot.value.is_meta or not slot.value.is_floating_point():
        return False
    value = read_weight(slot)
    return isinstance(value.values if isinstance(value, Sparse) else value, np.ndarray)


def _answers(model: nn.Module, layers: Mapping[str, Parameter], call: Call) -> Answers:
    """The outputs of some layers in one run, and those of the model."""
    modules = {parameter.module_name: parameter.module for parameter in layers.values()}

    def answers(names: Collection[str]) -> Mapping[str | None, list[Tensor]]:
        found: dict[str | None, list[Tensor]] = {}

        def keeping(name: str) -> Callable[..., None]:
            return lambda module, args, output: found.setdefault(name, []).extend(_tensors(output))

        with hooks(modules[name].register_forward_hook(keeping(name)) for name in names):
            found[None] = list(_tensors(call.answer(model)))
        return found

    return answers


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors(item)
