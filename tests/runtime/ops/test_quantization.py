from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import corepress.runtime.ops.quantization  # noqa: F401 - fills the registry
from tests.runtime.oracle_ops import check, numbers, run, same

SHAPES = st.lists(st.integers(1, 4), min_size=1, max_size=4)
FLOATS = st.sampled_from(["float16", "float32"])
INTEGERS = st.sampled_from(["int8", "uint8"])


@st.composite
def parameters(draw, shape, real, whole):
    """scale, and sometimes zero_point and axis: for the whole tensor or along an axis."""
    axis = draw(st.none() | st.integers(-len(shape), len(shape) - 1))
    count = [] if axis is None else [shape[axis]]
    seed = draw(st.integers(0, 999))
    found = {"scale": numbers(seed, count, real, 0.01, 2)}
    if axis is not None:
        found["axis"] = np.int32(axis)
    if draw(st.booleans()):
        found["zero_point"] = numbers(seed, count, whole, *((-128, 127) if whole == "int8" else (0, 255)))
    return found


@settings(max_examples=80, deadline=None)
@given(st.data(), SHAPES, FLOATS, INTEGERS)
def test_quantize(data, shape, real, whole):
    given_ones = data.draw(parameters(shape, real, whole))
    check("quantize", input=numbers(1, shape, real, -300, 300), output_dtype=whole, **given_ones)


@settings(max_examples=80, deadline=None)
@given(st.data(), SHAPES, FLOATS, INTEGERS)
def test_dequantize(data, shape, real, whole):
    given_ones = data.draw(parameters(shape, real, whole))
    x = numbers(1, shape, whole, *((-128, 127) if whole == "int8" else (0, 255)))

    def along(parameter):
        axis = given_ones.get("axis")
        return (
            parameter
            if axis is None
            else np.moveaxis(np.broadcast_to(parameter, (*np.delete(shape, axis), shape[axis])), -1, axis)
        )

    offset = along(given_ones.get("zero_point", np.zeros_like(given_ones["scale"])))
    expected = along(given_ones["scale"]).astype(np.float64) * (x.astype(np.float64) - offset.astype(np.float64))
    np.testing.assert_array_equal(run("dequantize", input=x, **given_ones), expected.astype(real))


def test_halves_go_to_the_even_neighbour_and_ends_saturate():
    halves = np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5], np.float32)
    scale = np.float32(1)
    same(run("quantize", input=halves, scale=scale, output_dtype="int8"), np.array([-2, -2, 0, 0, 2, 2], np.int8))
    far = np.array([-1e9, -128.6, 127.6, np.inf], np.float32)
    same(run("quantize", input=far, scale=scale, output_dtype="int8"), np.array([-128, -128, 127, 127], np.int8))
    same(run("quantize", input=far, scale=scale, output_dtype="uint8"), np.array([0, 0, 128, 255], np.uint8))
    shifted = run("quantize", input=halves, scale=scale, zero_point=np.int8(127), output_dtype="int8")
    same(shifted, np.array([125, 125, 127, 127, 127, 127], np.int8))


def test_a_vector_needs_an_axis():
    with pytest.raises(ValueError, match="needs an axis"):
        run("quantize", input=numbers(0, [2, 2]), scale=np.ones(2, np.float32), output_dtype="int8")
    with pytest.raises(ValueError, match="no data type"):
        run("quantize", input=numbers(0, [2, 2]), scale=np.float32(1), output_dtype="whole")
