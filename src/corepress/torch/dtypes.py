"""The integer types that configurations name: as words, or as types of PyTorch, which has none of 4 bits."""

from __future__ import annotations

import re
from typing import Any

import torch

from corepress.errors import ConfigError

_TYPES = {
    "int8": torch.int8, "uint8": torch.uint8, "qint8": torch.qint8, "quint8": torch.quint8,
    "int4": torch.int8, "uint4": torch.uint8, "qint4": torch.qint8, "quint4": torch.quint8,
    "int3": torch.int8, "uint3": torch.uint8,
    "float16": torch.float16, "float32": torch.float32,
}  # fmt: skip
_NAMES = {dtype: name for name, dtype in reversed(_TYPES.items())}


def dtype_name(dtype: str | torch.dtype) -> str:
    """ "int4" for "int4", "int8" for torch.int8; ConfigError for what is neither a known word nor a known type."""
    name = dtype.lower() if isinstance(dtype, str) else _NAMES.get(dtype)
    if name not in _TYPES:
        raise ConfigError(f"{dtype!r} is not a data type that a weight can have, which are {', '.join(_TYPES)}")
    return name


def torch_type(dtype: str | torch.dtype) -> torch.dtype:
    """The type of PyTorch that stands for it: int8 for "int4"."""
    return _TYPES[dtype_name(dtype)]


def bits(dtype: str | torch.dtype) -> int:
    return int(re.findall(r"\d+", dtype_name(dtype))[0])


def is_signed(dtype: str | torch.dtype) -> bool:
    return not dtype_name(dtype).startswith(("u", "qu"))


def lut_type(value: Any) -> Any:
    """A converter: the type that the entries of a LUT are stored as, None for the weight's own."""
    if value is None:
        return None
    if dtype_name(value) not in ("int8", "uint8"):
        raise ConfigError(f"lut_dtype must be int8, uint8 or None, not {value!r}")
    return torch_type(value)
