"""Quantization of activations (iOS17): `scale` and `zero_point` are scalars, or vectors along `axis`."""

from __future__ import annotations

import torch
from torch import Tensor

from corepress.runtime import limits
from corepress.runtime.dtypes import torch_dtype
from corepress.runtime.registry import operation


@operation
def quantize(
    input: Tensor, scale: Tensor, output_dtype: str, zero_point: Tensor | None = None, axis: int | None = None
) -> Tensor:
    # Half-way cases go to the even neighbour; the sum is in the type of the input, as it is in coremltools.
    steps = (input / along(axis, scale, input)).round()
    if zero_point is not None:
        steps = steps + along(axis, zero_point, input).to(steps.dtype)
    dtype = torch_dtype(output_dtype)
    if dtype.is_floating_point or dtype == torch.bool:
        raise ValueError(f"output_dtype {output_dtype!r} is not an integer type")
    return steps.clamp(torch.iinfo(dtype).min, torch.iinfo(dtype).max).to(dtype)


@operation
def dequantize(input: Tensor, scale: Tensor, zero_point: Tensor | None = None, axis: int | None = None) -> Tensor:
    # Differences of 8-bit numbers are exact in every type of scale.
    steps = input.to(scale.dtype)
    if zero_point is not None:
        steps = steps - along(axis, zero_point, input).to(scale.dtype)
    return steps * along(axis, scale, input)


def along(axis: int | None, parameter: Tensor, data: Tensor) -> Tensor:
    """A vector in the shape that broadcasts along an axis of the data."""
    if parameter.ndim == 0:
        return parameter
    if axis is None:
        raise ValueError("a vector of scales needs an axis")
    shaped = parameter.reshape([-1 if i == axis % data.ndim else 1 for i in range(data.ndim)])
    limits.check_broadcast(shaped, data)
    return shaped
