"""A literal reading of the documentation of `WeightParams` in NeuralNetwork.proto, slow, and without corepress."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from google.protobuf.message import Message
from numpy.typing import NDArray

Array = NDArray[Any]


def weights_of(message: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every `WeightParams` below a message of coremltools, with the path of fields to it."""
    for field, value in message.ListFields():
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            continue
        one = isinstance(value, Message)
        for number, part in enumerate([value] if one else value):
            name = f"{path}.{field.name}{'' if one else number}"
            if field.message_type.name == "WeightParams":
                yield name, part
            else:
                yield from weights_of(part, name)


def values_of(weight: Any, count: int, run: int | None = None) -> Array:
    """The `count` values of a weight, flat. `run`: neighbours that share a scale, where channels aren't outermost."""
    if weight.floatValue:
        return np.array(weight.floatValue, np.float32)
    if weight.float16Value:
        return np.frombuffer(weight.float16Value, "<f2").astype(np.float32)
    quantization = weight.quantization
    if weight.int8RawValue:
        (scale,) = quantization.linearQuantization.scale
        return (np.frombuffer(weight.int8RawValue, np.int8) * np.float64(scale)).astype(np.float32)
    bits = quantization.numberOfBits
    stream = "".join(f"{byte:08b}" for byte in weight.rawValue)
    assert len(weight.rawValue) == -(-count * bits // 8)
    integers = np.array([int(stream[i * bits : (i + 1) * bits], 2) for i in range(count)])
    if quantization.WhichOneof("QuantizationType") == "lookupTableQuantization":
        lut = np.array(quantization.lookupTableQuantization.floatValue, np.float32)
        assert lut.size == 2**bits
        return lut[integers]
    scale, bias = (np.array(getattr(quantization.linearQuantization, name)) for name in ("scale", "bias"))
    assert scale.size == bias.size
    if scale.size > 1:
        channel = (np.arange(count) // (run or count // scale.size)) % scale.size
        scale, bias = scale[channel], bias[channel]
    return (scale * integers + bias).astype(np.float32)
