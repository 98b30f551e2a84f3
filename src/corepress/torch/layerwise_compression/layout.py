"""Which layers of a model are linear in their input, and what vectors their weights multiply in it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from corepress.algorithms.fitted.layout import Layout
from corepress.errors import ConfigError
from corepress.torch.parameters import Parameter, parameters

SUPPORTED: tuple[type[nn.Module], ...] = (nn.Linear, nn.Conv1d, nn.Conv2d)


def is_supported(module: nn.Module) -> bool:
    """Whether it is one of `SUPPORTED`, or Hugging Face's Conv1D."""
    return isinstance(module, SUPPORTED) or (type(module).__name__ == "Conv1D" and hasattr(module, "nf"))


def layout_of(layer: nn.Module) -> tuple[Parameter, Layout]:
    """The weight of a layer, and how it is a matrix; ConfigError for a layer of another kind."""
    if not is_supported(layer):
        raise ConfigError(f"a {type(layer).__name__} is not supported: only Linear, Conv1d and Conv2d are")
    parameter = next(found for found in parameters(layer) if found.module is layer)
    groups: Any = getattr(layer, "groups", 1)
    return parameter, Layout(tuple(parameter.value.shape), groups, parameter.output_axis == 1)


def vectors_of(layer: Any, layout: Layout, inputs: Tensor) -> Iterator[Tensor]:
    """What a layer reads in an input, in parts: (groups, vectors, columns)."""
    if not isinstance(layer, (nn.Conv1d, nn.Conv2d)):
        yield layout.vectors(inputs)
        return
    inputs = inputs if inputs.ndim == layer.weight.ndim else inputs[None]
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    padded = F.pad(inputs, layer._reversed_padding_repeated_twice, mode=mode)
    yield from layout.windows(padded, layer.stride, layer.dilation)


def reads(layer: nn.Module, layout: Layout) -> tuple[Any, ...]:
    """Layers of which this is equal see the same vectors in one tensor."""
    windows = ("kernel_size", "stride", "padding", "dilation", "padding_mode")
    return layout.groups, layout.columns, *(getattr(layer, name, None) for name in windows)
