"""What a `WeightParams` message stores, to and from arrays."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corepress.errors import DataError, FormatError, UnsupportedError
from corepress.formats.neural_network.forms import Floats, Linear, tabled
from corepress.formats.neural_network.packing import pack_first_high, unpack_first_high
from corepress.weights import Palettized, decompress, packed_size, worded_bits

_QUANTIZED = ("lut", "linear", "int8")
_FIELDS = ("floatValue", "float16Value", "rawValue", "int8RawValue")


def form(params: Any) -> str:
    """How the values are stored: "float32", "float16", "linear", "lut", "int8"; "none", or "unknown"."""
    filled = [field for field in _FIELDS if getattr(params, field)]
    if not filled:
        return "none"
    if len(filled) > 1:
        return "unknown"
    kind = params.quantization.WhichOneof("QuantizationType")
    if filled[0] == "rawValue":
        return {"linearQuantization": "linear", "lookupTableQuantization": "lut"}.get(kind, "unknown")
    if filled[0] == "int8RawValue":
        return "int8" if kind == "linearQuantization" else "unknown"
    return "float16" if filled[0] == "float16Value" else "float32"


def bits_of(params: Any) -> int:
    """Bits of each stored value; 0 if there is none."""
    fixed = {"float32": 32, "float16": 16, "int8": 8, "none": 0, "unknown": 0}.get(form(params))
    return int(params.quantization.numberOfBits) if fixed is None else fixed


def stored_bytes(params: Any) -> int:
    """Bytes of the values, tables and scales, without the framing of the protobuf."""
    table = params.quantization.lookupTableQuantization.floatValue
    line = params.quantization.linearQuantization
    chunks = (*params.floatValue, params.float16Value, params.rawValue, params.int8RawValue)
    return sum(map(len, (*chunks, *table, *line.scale, *line.bias)))


def read_values(params: Any, shape: tuple[int, ...], axis: int | None) -> Floats:
    """The dense value, float32 of `shape`; `axis` is that of the channels.

    Raises CorepressError, with the reason, for values that don't fit `shape` or that the format does not define.
    """
    kind = form(params)
    if kind == "none":
        raise FormatError("it holds no values")
    if kind == "unknown":
        raise UnsupportedError("its values are stored in a way that the format does not define")
    if kind in ("float32", "float16"):
        data = _joined(params.floatValue) if kind == "float32" else params.float16Value
        return _shaped(data, "<f4" if kind == "float32" else "<f2", shape).astype(np.float32)
    return _quantized(params, kind, shape, axis).decompress()


def stored_values(params: Any, shape: tuple[int, ...], axis: int | None) -> Linear | Palettized | Floats:
    """The value, quantized if it is stored so; errors are those of `read_values`."""
    kind = form(params)
    return _quantized(params, kind, shape, axis) if kind in _QUANTIZED else read_values(params, shape, axis)


def _quantized(params: Any, kind: str, shape: tuple[int, ...], axis: int | None) -> Linear | Palettized:
    bits = bits_of(params)
    if not 1 <= bits <= 8:
        raise FormatError(f"its values have {bits} bits each, not 1 to 8")
    if kind == "int8":
        # As unsigned integers, shifted by 128.
        scale = _floats(params.quantization.linearQuantization.scale)
        indices = _shaped(params.int8RawValue, "i1", shape).view(np.uint8) ^ np.uint8(128)
        return _checked(Linear(indices, scale, scale * np.float32(-128), 8, axis))
    count = math.prod(shape)
    if len(params.rawValue) != packed_size(count, bits):
        raise FormatError(f"its {len(params.rawValue)} bytes are not those of {count} values of {worded_bits(bits)}")
    indices = unpack_first_high(np.frombuffer(params.rawValue, np.uint8), bits, count).reshape(shape)
    if kind == "lut":
        lut = _floats(params.quantization.lookupTableQuantization.floatValue)
        if lut.size != 2**bits:
            raise FormatError(f"its look-up table has {lut.size} entries, not {2**bits}")
        return tabled(indices, lut)
    line = params.quantization.linearQuantization
    return _checked(Linear(indices, _floats(line.scale), _floats(line.bias), bits, axis))


def _checked(weight: Linear) -> Linear:
    channels = 1 if weight.axis is None else weight.indices.shape[weight.axis]
    if weight.scale.size not in (1, channels) or weight.bias.size != weight.scale.size:
        raise FormatError(
            f"its {weight.scale.size} scales and {weight.bias.size} biases don't fit its {channels} channels"
        )
    return weight


def write_floats(params: Any, values: Floats) -> None:
    """Store float32 values as they are."""
    _clear(params)
    params.floatValue.append(values.astype("<f4", copy=False).tobytes())


def write_halves(params: Any, values: Floats) -> None:
    """Store values as float16. Raises CorepressError if one of them is too large for that."""
    with np.errstate(over="ignore"):
        halves = values.astype("<f2")
    if not np.isfinite(halves).all():
        raise DataError("it holds values that float16 can't, beyond 65504")
    _clear(params)
    params.float16Value = halves.tobytes()


def write_quantized(params: Any, weight: Linear | Palettized) -> None:
    """Store indices, packed, and their scales or table."""
    packed = pack_first_high(weight.indices, weight.bits).tobytes()
    _clear(params)
    params.rawValue = packed
    params.quantization.numberOfBits = weight.bits
    if isinstance(weight, Palettized):
        lut = decompress(weight.lut).astype("<f4")
        params.quantization.lookupTableQuantization.floatValue.append(lut.tobytes())
    else:
        params.quantization.linearQuantization.scale.append(weight.scale.astype("<f4").tobytes())
        params.quantization.linearQuantization.bias.append(weight.bias.astype("<f4").tobytes())


def write_int8(params: Any, integers: NDArray[np.int8], scale: np.float32) -> None:
    """Store signed integers with one scale, for products of int8 by int8."""
    _clear(params)
    params.int8RawValue = integers.tobytes()
    params.quantization.numberOfBits = 8
    params.quantization.linearQuantization.scale.append(np.float32(scale).astype("<f4").tobytes())


def _clear(params: Any) -> None:
    for field in (*_FIELDS, "quantization"):
        params.ClearField(field)


def _joined(chunks: Any) -> bytes:
    # A packed field may come in several pieces.
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _shaped(data: bytes, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    size, count = np.dtype(dtype).itemsize, math.prod(shape)
    if len(data) != size * count:
        raise FormatError(f"its {len(data) // size} values don't fit the shape {shape} that its layer names")
    return np.frombuffer(data, dtype).reshape(shape)


def _floats(chunks: Any) -> Floats:
    data = _joined(chunks)
    if len(data) % 4:
        raise FormatError("its scales or its look-up table are cut off")
    return np.frombuffer(data, "<f4").astype(np.float32, copy=False)
