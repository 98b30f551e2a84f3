"""The data types of MIL in PyTorch."""

from __future__ import annotations

import functools

import torch

from corepress.formats.dtypes import named


@functools.cache
def torch_dtype(name: str) -> torch.dtype:
    """The type that holds MIL's `name`: "fp16", "int32", "float16", "uint4" (in a uint8)... Raises ValueError."""
    known = named(name)
    found = getattr(torch, known.numpy.name, None) if known is not None else None
    if not isinstance(found, torch.dtype):
        raise ValueError(f"PyTorch has no data type for {name!r}")
    return found
