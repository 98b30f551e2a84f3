"""The two small values that a configuration holds, and what may be given for them."""

from __future__ import annotations

from enum import Enum
from typing import Any, Literal

import numpy as np

from corepress.errors import ConfigError

GranularityName = Literal["per_tensor", "per_grouped_channel", "per_channel", "per_block"]
DtypeName = Literal[
    "int8", "uint8", "int4", "uint4", "int2", "uint2", "fp8_e4m3fn", "fp8_e5m2", "fp4_e2m1fn"
]  # fmt: skip


class CompressionGranularity(Enum):
    """How many elements of a weight share one set of parameters (a scale, or a look-up table). Its words do as well.

    Examples:
        >>> from corepress.coreml import CompressionGranularity, OpPalettizerConfig
        >>> OpPalettizerConfig(nbits=4, granularity=CompressionGranularity.PER_GROUPED_CHANNEL).group_size
        32
    """

    PER_TENSOR = 1
    PER_GROUPED_CHANNEL = 2
    PER_CHANNEL = 3
    PER_BLOCK = 4


class WeightDtype(str, Enum):
    """The type of a linearly quantized weight; each member is also its name as a string. Core AI alone has those of 2
    bits and of floating point."""

    INT8 = "int8"
    UINT8 = "uint8"
    INT4 = "int4"
    UINT4 = "uint4"
    INT2 = "int2"
    UINT2 = "uint2"
    FP8_E4M3FN = "fp8_e4m3fn"
    FP8_E5M2 = "fp8_e5m2"
    FP4_E2M1FN = "fp4_e2m1fn"

    __str__ = str.__str__

    @property
    def nbits(self) -> int:
        return int(self.value.removeprefix("u").removeprefix("int").removeprefix("fp")[0])

    @property
    def signed(self) -> bool:
        return not self.value.startswith("u")

    @property
    def floating(self) -> bool:
        return self.value.startswith("fp")


def granularity_of(value: GranularityName | Enum) -> CompressionGranularity:
    """Read `"per_channel"` and the like, or an enum member of that name (coremltools' too)."""
    name = str(getattr(value, "name", value)).upper()
    if name not in CompressionGranularity.__members__:
        allowed = ", ".join(member.lower() for member in CompressionGranularity.__members__)
        raise ConfigError(f'"granularity" must be one of {allowed}, but got {value!r}.')
    return CompressionGranularity[name]


def dtype_of(value: DtypeName | type | np.dtype[Any] | None) -> WeightDtype:
    """Read a name, a NumPy or ml_dtypes type or dtype, or a coremltools type such as `types.int4`."""
    name = _dtype_name(value).replace("float8_", "fp8_").replace("float4_", "fp4_")
    if name not in {member.value for member in WeightDtype}:
        raise ConfigError(
            f"Invalid dtype {name}. Only support int8/uint8/int4/uint4, by name or as a type; "
            "Core AI models also int2/uint2/fp8_e4m3fn/fp8_e5m2/fp4_e2m1fn."
        )
    return WeightDtype(name)


def scale_dtype_of(value: Any) -> str | None:
    """Read the type of scales: None, or a name or type of E8M0."""
    if value is None:
        return None
    name = _dtype_name(value).removeprefix("torch.").replace("float8_", "fp8_")
    if name.removesuffix("fnu") != "fp8_e8m0":
        raise ConfigError(f'scale_dtype must be None or "fp8_e8m0fnu", not {value!r}')
    return "fp8_e8m0fnu"


def _dtype_name(value: Any) -> str:
    if isinstance(value, str):
        return str(value)
    # coremltools' types are classes that answer these two; asking so spares its import of seconds.
    width, unsigned = getattr(value, "get_bitwidth", None), getattr(value, "is_unsigned", None)
    if callable(width) and callable(unsigned):
        return f"{'u' if unsigned() else ''}int{width()}"
    try:
        return repr(value) if value is None else np.dtype(value).name
    except TypeError:
        return repr(value)
