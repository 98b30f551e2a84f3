"""Operations of a package that are exported in a form of their own: as one operation of Core AI, or with lengths that
only an input tells. One more is one more entry of the table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from corepress.runtime.dtypes import torch_dtype
from corepress.runtime.registry import Bools, Ints


def _quantize(
    input: Tensor, scale: Tensor, output_dtype: str, zero_point: Tensor | None = None, axis: int | None = None
) -> Tensor:
    dtype = torch_dtype(output_dtype)
    if dtype not in (torch.int8, torch.uint8):
        raise ValueError(f"Core AI quantizes activations to int8 or uint8, not to {output_dtype}")
    found: Tensor = torch.ops.coreai.quantize(input, scale, dtype, zero_point, None, axis or 0)
    return found


def _dequantize(input: Tensor, scale: Tensor, zero_point: Tensor | None = None, axis: int | None = None) -> Tensor:
    found: Tensor = torch.ops.coreai.dequantize(input, scale, zero_point, None, axis or 0, None, None)
    return found


def _slice_update(
    x: Tensor,
    update: Tensor,
    begin: Ints,
    end: Ints,
    stride: Ints | None = None,
    begin_mask: Bools | None = None,
    end_mask: Bools | None = None,
    squeeze_mask: Bools | None = None,
) -> Tensor:
    """Axis by axis, without reading what is replaced: Core AI's runtime for CPUs loses a state of which a part with a
    length that it does not know is read and then replaced."""
    bounds = []
    for axis, size in enumerate(x.shape):
        first = 0 if begin_mask and begin_mask[axis] else begin[axis]
        last = size if end_mask and end_mask[axis] else end[axis]
        if squeeze_mask and squeeze_mask[axis]:
            last = size if first == -1 else first + 1
            update = update.unsqueeze(axis) if update.ndim < x.ndim else update
        if not (isinstance(first, int) and first == 0 and last is size):
            bounds.append((axis, first, last, stride[axis] if stride else 1))
    if any(step < 0 for *_, step in bounds):
        raise ValueError("it replaces elements in reversed order")
    return _scattered(x, update, bounds)


def _scattered(x: Tensor, update: Tensor, bounds: Sequence[tuple[int, int, int, int]]) -> Tensor:
    if not bounds:
        return update.expand(x.shape)
    (axis, first, last, step), *inner = bounds
    if inner:
        update = _scattered(torch.ops.aten.slice.Tensor(x, axis, first, last, step), update, inner)
    return torch.slice_scatter(x, update, axis, first, last, step)


# By the kind of the operation; each takes what the operation takes.
EXPORTED: dict[str, Callable[..., Any]] = {
    "quantize": _quantize,
    "dequantize": _dequantize,
    "slice_update": _slice_update,
}
