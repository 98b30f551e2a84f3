"""Operations of a package that are exported as one operation of Core AI, which PyTorch has none for. One more is one
more entry of the table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from corepress.runtime.dtypes import torch_dtype


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


# By the kind of the operation; each takes what the operation takes.
EXPORTED: dict[str, Callable[..., Any]] = {"quantize": _quantize, "dequantize": _dequantize}
