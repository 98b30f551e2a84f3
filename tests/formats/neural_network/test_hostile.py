"""Damaged and hostile files give one sentence, or a warning; never another exception."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path
from typing import Any

import pytest

from corepress.errors import CorepressError, FormatError
from corepress.formats.schema import Model as ModelProto
from corepress.neural_network import load
from corepress.neural_network.quantization_utils import quantize_weights
from tests.formats.neural_network.networks import every_layer, inner_product


@pytest.mark.parametrize("data", [
    b"", b"\0", b"not a model", b"\x08\x04", b"\x08\x04\xa2\x1f\x00", b"\xff" * 99,
])  # fmt: skip
def test_no_models(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "bad.mlmodel"
    path.write_bytes(data)
    if data == b"\x08\x04\xa2\x1f\x00":  # a network without layers
        assert load(path).weights() == []
        return
    with pytest.raises(FormatError) as error:
        load(path)
    assert "bad.mlmodel" in str(error.value)


@pytest.mark.parametrize("source", ["float32", "linear", "kmeans"])
def test_random_damage(tmp_path: Path, source: str, caplog: Any) -> None:
    spec = every_layer()
    if source != "float32":
        spec = quantize_weights(spec, 3, source)
    data, path, rng = spec.SerializeToString(), tmp_path / "bad.mlmodel", random.Random(source)
    for _ in range(60):
        damaged = bytearray(data)
        for _ in range(rng.choice([1, 3, 20])):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        path.write_bytes(damaged[: rng.choice([len(data), len(data), rng.randrange(len(data))])])
        for nbits, mode in ((4, "kmeans"), (16, "linear"), (8, "dequantization")):
            with contextlib.suppress(CorepressError):
                quantize_weights(path, nbits, mode)


def message(**values: Any) -> Any:
    """A network of one inner product, 2 x 3, whose weights have these fields."""
    spec = ModelProto()
    spec.ParseFromString(inner_product([[1, 2, 3], [4, 5, 6]]).SerializeToString())
    params = spec.neuralNetwork.layers[0].innerProduct
    params.ClearField("weights")
    for name, value in values.items():
        target = params.weights if hasattr(params.weights, name) else params.weights.quantization
        if name in ("scale", "bias"):
            getattr(target.linearQuantization, name).append(value)
        elif name == "lut":
            target.lookupTableQuantization.floatValue.append(value)
        elif name == "floatValue":
            target.floatValue.extend(value)
        else:
            setattr(target, name, value)
    return spec


FLOATS = bytes(8)


@pytest.mark.parametrize("fields,reason", [
    ({"floatValue": [bytes(20)]}, "5 values don't fit the shape (2, 3)"),
    ({"floatValue": [bytes(23)]}, "don't fit"),
    ({"float16Value": bytes(13)}, "don't fit"),
    ({"floatValue": [bytes(24)], "float16Value": bytes(12)}, "not define"),
    ({"rawValue": bytes(6)}, "not define"),
    ({"rawValue": bytes(5), "numberOfBits": 8, "scale": FLOATS, "bias": FLOATS}, "5 bytes are not those of 6 values"),
    ({"rawValue": bytes(6), "numberOfBits": 9, "scale": FLOATS, "bias": FLOATS}, "9 bits"),
    ({"rawValue": bytes(6), "numberOfBits": 0, "scale": FLOATS, "bias": FLOATS}, "0 bits"),
    ({"rawValue": bytes(6), "numberOfBits": 1 << 63, "scale": FLOATS, "bias": FLOATS}, "bits"),
    ({"rawValue": bytes(6), "numberOfBits": 8, "scale": bytes(12), "bias": bytes(12)}, "3 scales and 3 biases"),
    ({"rawValue": bytes(6), "numberOfBits": 8, "scale": FLOATS, "bias": bytes(4)}, "2 scales and 1 biases"),
    ({"rawValue": bytes(6), "numberOfBits": 8, "scale": bytes(7), "bias": FLOATS}, "cut off"),
    ({"rawValue": bytes(6), "numberOfBits": 8, "scale": b"", "bias": b""}, "0 scales"),
    ({"rawValue": bytes(3), "numberOfBits": 4, "lut": bytes(32)}, "8 entries, not 16"),
    ({"int8RawValue": bytes(5), "scale": bytes(4)}, "don't fit"),
    ({"int8RawValue": bytes(6), "lut": bytes(4)}, "not define"),
])  # fmt: skip
def test_damaged_weights_are_left_alone(tmp_path: Path, fields: Any, reason: str, caplog: Any) -> None:
    spec, path = message(**fields), tmp_path / "bad.mlmodel"
    path.write_bytes(spec.SerializeToString())
    dense = load(path).weights()[0].form == "float32"
    result = quantize_weights(path, 8, "linear" if dense else "dequantization")
    assert reason in result.skipped["ip.weights"] and result.changed == 0
    assert result.spec == spec
    assert reason in caplog.text


def test_floats_in_pieces(tmp_path: Path) -> None:
    path = tmp_path / "pieces.mlmodel"
    path.write_bytes(message(floatValue=[bytes(8), bytes(16)]).SerializeToString())
    assert quantize_weights(path, 16).weights()[0].dense().shape == (2, 3)


def test_huge_sizes() -> None:
    spec = inner_product([[1, 2, 3]])
    spec.neuralNetwork.layers[0].innerProduct.inputChannels = (1 << 64) - 1
    bias = spec.neuralNetwork.layers.add(name="b").bias
    bias.bias.floatValue.extend([1, 2])
    bias.shape.extend([(1 << 64) - 1] * 100_000)
    assert quantize_weights(spec, 8).neuralNetwork == spec.neuralNetwork


def test_deep_nesting(tmp_path: Path) -> None:
    spec = ModelProto()
    network = spec.neuralNetwork
    for _ in range(60):
        network = network.layers.add().loop.bodyNetwork
    network.layers.add().bias.shape.append(3)
    path = tmp_path / "deep.mlmodel"
    path.write_bytes(b"\x08\x04" + spec.SerializeToString())
    with pytest.raises(FormatError, match=r"deep\.mlmodel: not a Core ML model, or a damaged one"):
        load(path)
