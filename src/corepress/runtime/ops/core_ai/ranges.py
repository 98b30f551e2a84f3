"""Quantization of activations: q = round((x - minimum) / scale) + offset, within the range of its type."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from corepress.runtime.dtypes import range_of, torch_dtype
from corepress.runtime.ops.quantization import along
from corepress.runtime.registry import Ints, core_ai


@core_ai("quantize")
def quantize(input: Tensor, scale: Tensor, offset: Tensor, minimum: Tensor, axis: Ints, output_dtype: str) -> Tensor:
    spread = spread_over(input, axis)
    steps = (input - spread(minimum)) / spread(scale).to(input.dtype)
    shift, limits = spread(offset).to(steps.dtype), range_of(output_dtype)
    steps = steps + shift if limits is None else (steps.round() + shift).clamp(*limits)
    return steps.to(torch_dtype(output_dtype))


@core_ai("dequantize")
def dequantize(input: Tensor, scale: Tensor, offset: Tensor, minimum: Tensor, axis: Ints) -> Tensor:
    spread = spread_over(input, axis)
    steps = input.to(minimum.dtype) - spread(offset).to(minimum.dtype)
    return steps * spread(scale).to(minimum.dtype) + spread(minimum)


def spread_over(data: Tensor, axis: Ints) -> Callable[[Tensor], Tensor]:
    """Lets parameters, which are single numbers or vectors along one axis, broadcast to the data."""
    return lambda parameter: along(axis[0] if len(axis) == 1 else None, parameter, data)
