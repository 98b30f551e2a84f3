"""What in a model can take up an activation-aware scale, and which scale: a search for packages and modules alike.

Layers are scaled up, and what makes their input is scaled down in turn (`awq.py`). What belongs together isn't read
from the model but tried out: powers of two, which change no digit, go into the layers that read one value, and out of
something that was computed before. If all answers stay the same, the two belong together. That holds for any
architecture and control flow, and finds out residual connections, activation functions and weights used twice.

A model takes part by saying which layers read one value and what comes before them (`Group`), and by answering.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from corepress.algorithms.fitted.awq import Inputs, Layer, Rounding, Scaling, activation_scale, spread
from corepress.algorithms.fitted.layout import Layout
from corepress.errors import CorepressError

log = logging.getLogger(__name__)

NEAREST = 6  # sources that are tried of each group
_TOLERANCE = 1e-3

# What layers of these names answer, a tensor for each call or more; and under None what the model does.
Answers = Callable[[Collection[str]], Mapping[str | None, Sequence[Tensor]]]


@dataclass(frozen=True)
class Reader:
    """A layer that multiplies a value by its weight, a tensor of the model itself. `key`: of the weight."""

    key: str
    weight: Tensor
    layout: Layout


R = TypeVar("R", bound=Reader)


@dataclass(frozen=True)
class Source:
    """What gives the channels of a value their scale.

    `parts`: tensors of the model itself, such as weight and bias, each with the axis of these channels. `layers`: those
    whose weights are among the parts.
    """

    parts: tuple[tuple[Tensor, int], ...]
    layers: tuple[Reader, ...]

    @property
    def channels(self) -> int:
        value, axis = self.parts[0]
        return int(value.shape[axis])


@dataclass(frozen=True)
class Group(Generic[R]):
    """Layers that read one value. `sources`: what comes before them, the nearest first, `NEAREST` of them at most.

    `behind`: the names of the layers that may answer differently when these do, themselves among them.
    """

    layers: tuple[R, ...]
    sources: Iterable[Source]
    behind: Collection[str]


@dataclass(frozen=True)
class Pair(Generic[R]):
    """Layers that read one value, and what gives its channels their scale."""

    source: Source
    layers: tuple[R, ...]

    def layout(self, layer: Reader) -> Layout | None:
        """That of a layer, by the channels of the source; None if it has others."""
        return by_channel(layer.layout, self.source.channels)

    @property
    def tensors(self) -> list[Tensor]:
        """All that `apply` changes."""
        return [*(value for value, _ in self.source.parts), *(layer.weight for layer in self.layers)]

    def apply(self, scale: Tensor) -> None:
        """Multiply the layers by (channels,), and divide the source by it, in place."""
        for layer in self.layers:
            layout = self.layout(layer)
            assert layout is not None
            layer.weight.view(layout.shape).mul_(spread(scale, layout))
        for value, axis in self.source.parts:
            value.div_(scale.reshape(-1, *[1] * (value.ndim - 1 - axis)))

    def best_scale(self, inputs: Sequence[Inputs], roundings: Mapping[str, Rounding]) -> Scaling:
        """The scale of least error in what the layers make of their `inputs`, (one for each layer)."""
        layers = []
        for layer, own in zip(self.layers, inputs, strict=True):
            if layer.key in roundings:
                layout = self.layout(layer)
                assert layout is not None
                weight = layer.weight.view(layout.shape)
                layers.append(Layer(weight, layout, own.hessian.matrix, roundings[layer.key]))
        return activation_scale(layers, inputs[0].magnitude.reshape(self.source.channels, -1).mean(1))


@torch.no_grad()
def pairs(groups: Iterable[Group[R]], answers: Answers, roundings: Mapping[str, Rounding]) -> Iterator[Pair[R]]:
    """The layers, some of which are rounded, whose input can be scaled, with what scales it.

    `roundings`: how weights will be rounded, by their keys; those that won't are not there.
    """
    groups = [group for group in groups if any(layer.key in roundings for layer in group.layers)]
    before = answers({name for group in groups for name in group.behind})
    for group in groups:
        for source in group.sources:
            pair = Pair(source, group.layers)
            if None in map(pair.layout, pair.layers):
                continue
            with _scaled_at_random(pair):
                tried = answers(group.behind)
            if all(_same(before[name], tried.get(name, [])) for name in (*group.behind, None)):
                if all(_keeps_rows(layer, roundings) for layer in source.layers):
                    yield pair
                break


def warn_of_others(without: int, rounded: int) -> None:
    """Say how many of the weights that are rounded can't be scaled."""
    if without:
        log.warning(
            "activation_aware_scale: %d of %d weights are rounded without a scale, since no single norm or weight "
            "before them could take up its inverse", without, rounded,
        )  # fmt: skip


def by_channel(layout: Layout, channels: int) -> Layout | None:
    """The layout of a layer that reads so many channels, the columns of one being its elements; None if it can't.

    A linear layer behind a flattened image has several columns to each channel.
    """
    inputs = layout.groups * layout.columns // layout.elements
    if inputs == channels:
        return layout
    flat = layout.groups == layout.elements == 1 and not layout.transposed
    return Layout((layout.rows, channels, inputs // channels)) if flat and inputs % channels == 0 else None


def trial_scale(channels: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Random powers of two, 1/4096 to 4096, or 1/8 to 8 for float16: no sum or product loses a digit by them.

    What is no product with the channels, such as an activation function that saturates, changes a lot.
    """
    reach = 3 if dtype is torch.float16 else 12
    exponents = torch.randint(-reach, reach + 1, (channels,), generator=torch.Generator().manual_seed(0))
    return torch.exp2(exponents.float())


def keeps_rows(weight: Tensor, layout: Layout, rounding: Rounding) -> bool:
    """Whether its rounding takes a factor for each output channel as it is: not where channels share a scale.

    Of a layer of which this is false, nothing can be taken out for the next one without harm.
    """
    rows = trial_scale(weight.shape[1 if layout.transposed else 0], torch.float16).to(weight.device)
    rows = rows if layout.transposed else rows.reshape(-1, *[1] * (weight.ndim - 1))
    hessian = torch.eye(layout.columns, device=weight.device).repeat(layout.groups, 1, 1)
    weight = weight.float()
    try:
        return unchanged(rounding(weight, hessian), rounding(weight * rows, hessian) / rows)
    except CorepressError:  # it can't be rounded
        return False


def unchanged(before: Tensor, after: Tensor) -> bool:
    """Whether an answer is the same with a trial scale, but for numbers that left the range of their type."""
    before, after = before.float(), after.float()
    return before.shape == after.shape and bool((before - after).norm() <= _TOLERANCE * before.norm())


def _keeps_rows(layer: Reader, roundings: Mapping[str, Rounding]) -> bool:
    return layer.key not in roundings or keeps_rows(layer.weight, layer.layout, roundings[layer.key])


def _same(before: Sequence[Tensor], after: Sequence[Tensor]) -> bool:
    return len(before) == len(after) and all(map(unchanged, before, after))


@contextlib.contextmanager
def _scaled_at_random(pair: Pair[Any]) -> Iterator[None]:
    """The pair with a power of two for each channel, for a while."""
    changed = pair.tensors
    before = [value.clone() for value in changed]
    try:
        pair.apply(trial_scale(pair.source.channels, changed[0].dtype).to(changed[0].device))
        yield
    finally:
        for value, old in zip(changed, before, strict=True):
            value.copy_(old)
