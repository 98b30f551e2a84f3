"""Activations of 8 bits: Core AI's own quantization, to the same integers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import corepress
from corepress import runtime
from corepress.coreml import (
    OpLinearQuantizerConfig,
    OptimizationConfig,
    linear_quantize_activations,
    linear_quantize_weights,
)
from tests.packages import saved

pytest.importorskip("coreai_torch")
DIGITS = "examples/digits.mlpackage"


def operations(asset: Path) -> dict[str, int]:
    """How many operations of a kind a Core AI model has, as Apple's library counts them."""
    from coreai.authoring import AIModelAsset

    return {name.rpartition(".")[2]: n for name, n in AIModelAsset.load(asset).summary().operation_distribution}


def rounding(folder: Path, dtype: str) -> Path:
    """Numbers as integers, and these as numbers again; once with one scale, once with one for each channel."""
    import coremltools as ct
    from coremltools.converters.mil.mil import Builder as mb
    from coremltools.converters.mil.mil import types

    signed = dtype == "int8"
    zero = np.int8(-3) if signed else np.uint8(128)
    zeros = np.array([0, 5, -7, 20] if signed else [0, 5, 7, 200], dtype)

    @mb.program(input_specs=[mb.TensorSpec((64, 4), types.fp32)], opset_version=ct.target.iOS17)
    def program(x):
        one = mb.quantize(input=x, scale=np.float32(0.5), zero_point=zero, output_dtype=dtype)
        scales = np.array([0.25, 0.5, 1, 2], np.float32)
        each = mb.quantize(input=x, scale=scales, zero_point=zeros, axis=1, output_dtype=dtype)
        plain = mb.quantize(input=x, scale=np.float32(0.5), output_dtype=dtype)
        return (
            mb.dequantize(input=one, scale=np.float32(0.5), zero_point=zero, name="one"),
            mb.dequantize(input=each, scale=scales, zero_point=zeros, axis=1, name="each"),
            mb.dequantize(input=plain, scale=np.float32(0.5), name="plain"),
        )

    return saved(program, folder / "rounding.mlpackage")


@pytest.mark.parametrize("dtype", ["int8", pytest.param("uint8", marks=pytest.mark.slow)])
def test_the_same_integers_half_way_and_beyond_the_ends(dtype: str, tmp_path: Path) -> None:
    package = rounding(tmp_path, dtype)
    corepress.migrate(package, tmp_path / "out.aimodel")
    found = operations(tmp_path / "out.aimodel")
    assert found["quantize"] == found["dequantize"] == 3
    # Eighths, of which every fourth is half-way between two integers of the finest scale; and numbers far outside.
    x = np.arange(-128, 128, dtype=np.float32).reshape(64, 4) / 8
    x[:2] *= 1000
    ours, theirs = (runtime.load(path).predict({"x": x}) for path in (package, tmp_path / "out.aimodel"))
    for name in ("one", "each", "plain"):
        np.testing.assert_array_equal(theirs[name], ours[name], err_msg=name)


@pytest.mark.parametrize("mode", [pytest.param("linear_symmetric", marks=pytest.mark.slow), "linear"])
def test_weights_and_activations_of_8_bits(mode: str, tmp_path: Path) -> None:
    images = np.load("examples/digits_test.npz")["images"][:40, None].astype(np.float16)
    samples = [{"image": image} for image in images]
    config = OptimizationConfig(OpLinearQuantizerConfig(mode=mode, weight_threshold=0))
    small = linear_quantize_weights(linear_quantize_activations(DIGITS, config, samples[:20]), config)
    small.save(tmp_path / "small.mlpackage")
    found = corepress.migrate(small, tmp_path / "small.aimodel")
    assert found.compressed == sum(bool(weight.compression) for weight in small.weights())
    assert operations(tmp_path / "small.aimodel")["quantize"] >= 3
    # A sum that is rounded otherwise in float16 may fall on the next integer; a dense copy of digits has 57 dB.
    verified = corepress.verify(tmp_path / "small.mlpackage", tmp_path / "small.aimodel", samples[20:])
    assert verified.worst.snr > 40 and verified.worst.top1 == 1
