"""The data types of MIL in PyTorch."""

from __future__ import annotations

import functools

import torch

from corepress.formats.dtypes import BY_NAME

# The names that operations take as an argument; the type system itself says float16 and float32.
_SHORT = {"fp16": "float16", "fp32": "float32", "fp64": "float64"}


@functools.cache
def torch_dtype(name: str) -> torch.dtype:
    """The type that holds MIL's `name`: "fp16", "int32", "float16", "uint4" (in a uint8)... Raises ValueError."""
    lower = name.lower()
    known = BY_NAME.get(_SHORT.get(lower, lower))
    found = getattr(torch, known.numpy.name, None) if known is not None else None
    if not isinstance(found, torch.dtype):
        raise ValueError(f"PyTorch has no data type for {name!r}")
    return found
