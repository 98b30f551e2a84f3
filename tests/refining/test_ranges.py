"""Ranges of quantized activations learn, by the gradient of LSQ, and are written where they stood."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import corepress
import corepress.coreml as cto
from corepress.algorithms.learned.stored import LearnedNumbers
from corepress.formats.mlprogram.program import nodes
from corepress.formats.mlprogram.values import immediate_value, read_tensor
from corepress.refining.ranges import ranges_of
from corepress.refining.student import _quantized
from corepress.runtime.ops.quantization import dequantize
from tests.oracle import peer_program
from tests.refining.test_refine import DIGITS, SAMPLES, TEST, shapes


def w8a8(mode="linear_symmetric", dtype="int8"):
    config = cto.experimental.OpActivationLinearQuantizerConfig(mode=mode, dtype=dtype)
    small = cto.linear_quantize_weights(DIGITS, cto.OptimizationConfig(cto.OpLinearQuantizerConfig()), target="iOS18")
    return cto.experimental.linear_quantize_activations(small, cto.OptimizationConfig(config), SAMPLES)


def narrowed(model, factor):
    """The model with ranges that cut off much: each scale is smaller."""
    model = model.copy()
    for node in nodes(model.spec):
        if node.type in ("quantize", "dequantize"):
            value = node.operand("scale").value
            scale = scale_of(node)
            value.CopyFrom(immediate_value((scale * np.float16(factor)).astype(scale.dtype)))
    return model


def scale_of(node):
    return read_tensor(node.operand("scale").value, None, "scale")


@pytest.mark.parametrize("zero_point", [None, 3])
def test_the_gradient_is_that_of_lsq(zero_point):
    random = torch.Generator().manual_seed(0)
    x, scale = torch.randn(200, generator=random) * 2, torch.tensor(0.013, requires_grad=True)
    zero = None if zero_point is None else torch.tensor(zero_point, dtype=torch.int8)
    taken = dequantize(_quantized(x, scale, "int8", zero), scale, zero)
    weights = torch.randn(200, generator=random)
    (taken * weights).sum().backward()
    # Equation 3 of the paper, with the ends moved by the zero point.
    step, offset = 0.013, zero_point or 0
    low, high = -128 - offset, 127 - offset
    v = x / step
    each = torch.where(
        v <= low, torch.tensor(float(low)), torch.where(v >= high, torch.tensor(float(high)), v.round() - v)
    )
    assert (v <= low).any() and (v >= high).any()
    torch.testing.assert_close(scale.grad, (each * weights).sum(), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("mode", "dtype"), [("linear_symmetric", "int8"), pytest.param("linear", "uint8", marks=pytest.mark.slow)]
)
def test_ranges_that_cut_off_too_much_grow(mode, dtype, tmp_path):
    small = narrowed(w8a8(mode, dtype), 0.6)
    better = corepress.refine(DIGITS, small, SAMPLES, test_data=TEST, steps=30)
    assert better.after.worst.snr > better.before.worst.snr + 3
    assert shapes(better.model) == shapes(small)
    pairs = [node for node in nodes(better.model.spec) if node.type in ("quantize", "dequantize")]
    before = [node for node in nodes(small.spec) if node.type in ("quantize", "dequantize")]
    for one, other in zip(pairs[::2], pairs[1::2], strict=True):
        assert (one.type, other.type) == ("quantize", "dequantize") and scale_of(one) == scale_of(other) > 0
    assert np.mean([scale_of(one) > scale_of(two) for one, two in zip(pairs, before, strict=True)]) > 0.5
    # coremltools loads it, checks types, and has our scales.
    saved = better.model.save(tmp_path / "better.mlpackage")
    program = peer_program(saved.path).functions["main"]
    theirs = [op.scale.val for op in program.operations if op.op_type in ("quantize", "dequantize")]
    np.testing.assert_array_equal(np.array(theirs), np.array([scale_of(node) for node in pairs]))


def test_the_weights_may_be_dense():
    config = cto.experimental.OpActivationLinearQuantizerConfig()
    rounded = cto.experimental.linear_quantize_activations(DIGITS, cto.OptimizationConfig(config), SAMPLES)
    better = corepress.refine(DIGITS, narrowed(rounded, 0.5), SAMPLES, steps=10)
    assert better.improved


def test_scales_that_belong_to_others_stay():
    small = w8a8()
    program = corepress.runtime.load(small, precision="float32")
    every, none = ranges_of(small, {"main": program})
    assert every and not none and all(isinstance(part.module, LearnedNumbers) for part in every)
    first = next(node for node in nodes(small.spec) if node.type == "dequantize")
    value = first.operand("scale").value
    value.CopyFrom(immediate_value((scale_of(first) * np.float16(2)).astype(np.float16)))
    some, frozen = ranges_of(small, {"main": corepress.runtime.load(small, precision="float32")})
    assert len(some) == len(every) - 1
    assert [*frozen.values()] == ["it is dequantized by another scale"]
