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


def range_of(name: str) -> tuple[int, int] | None:
    """The lowest and the highest number of a type of integers, such as those of "int4"; None for another type."""
    known = named(name)
    if known is None or known.numpy.kind not in "iu":
        return None
    return (-(1 << known.bits - 1), (1 << known.bits - 1) - 1) if known.signed else (0, (1 << known.bits) - 1)
