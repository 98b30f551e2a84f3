from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import corepress.runtime.ops.elementwise_unary  # noqa: F401 - fills the registry
from corepress.runtime.dtypes import torch_dtype
from tests.runtime.oracle_ops import check, numbers, run, same

SHAPES = st.lists(st.integers(0, 4), max_size=4)
DTYPES = st.sampled_from(["float16", "float32"])
# Where the functions are defined.
RANGES = {
    "acos": (-1, 1), "asin": (-1, 1), "atanh": (-0.95, 0.95), "log": (0, 9), "rsqrt": (0.01, 9), "sqrt": (0, 9),
    "inverse": (0.1, 9), "tan": (-1.5, 1.5),
}  # fmt: skip
PLAIN = [
    "abs", "acos", "asin", "atan", "atanh", "ceil", "cos", "cosh", "erf", "exp", "exp2", "floor", "inverse", "log",
    "round", "rsqrt", "sign", "sin", "sinh", "sqrt", "square", "tan", "tanh",
]  # fmt: skip


@pytest.mark.parametrize("name", PLAIN)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 99), shape=SHAPES, dtype=DTYPES)
def test_plain(name, seed, shape, dtype):
    if name == "erf" and 0 in shape:
        return  # coremltools fails on an empty tensor
    check(name, x=numbers(seed, shape, dtype, *RANGES.get(name, (-3, 3))), rtol=3e-5)


@pytest.mark.parametrize("name", ["abs", "sign", "square", "exp2"])
def test_integers(name):
    check(name, x=np.array([-3, 0, 7, 30], np.int32))
    check(name, x=np.array(5, np.int32))


@pytest.mark.parametrize("name", [n for n in PLAIN if n not in ("cosh", "sinh", "sign")])
def test_special_values(name):
    check(name, x=np.array([np.nan, np.inf, -np.inf, 0.0, -0.0], np.float32))


def test_round_takes_halves_to_even():
    x = np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5], np.float16)
    same(run("round", x=x), np.array([-2, -2, -0, 0, 2, 2], np.float16))


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("name", ["inverse", "log", "rsqrt"])
def test_epsilon(name, dtype):
    x = np.array([0, 0.5, 3], dtype)
    check(name, x=x)
    check(name, x=x, epsilon=np.dtype(dtype).type(0.01))


def test_epsilon_of_another_type():
    check("rsqrt", x=np.array([0.5, 3], np.float16), epsilon=np.float32(1e-6))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 99), shape=SHAPES, dtype=DTYPES, low=st.floats(-2, 0), width=st.floats(0.01, 3))
def test_clip(seed, shape, dtype, low, width):
    kind = np.dtype(dtype).type
    check("clip", x=numbers(seed, shape, dtype), alpha=kind(low), beta=kind(low + width))


def test_clip_with_bounds_crossed():
    check("clip", opset="iOS15", x=numbers(1, (9,)), alpha=np.float32(1), beta=np.float32(-1))


@pytest.mark.parametrize("dtype", ["float16", "float32", "int32"])
def test_threshold(dtype):
    kind = np.dtype(dtype).type
    check("threshold", x=numbers(3, (4, 5), dtype), alpha=kind(1))
    check("threshold", x=np.array(-5, dtype), alpha=kind(-2))


def test_threshold_keeps_every_digit_of_an_integer():
    check("threshold", x=np.array([2**30 + 1, 3], np.int32), alpha=np.int32(2**24 + 1))


def test_logical_not():
    check("logical_not", x=np.array([[True, False]]))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "fp16", "fp32", "bool"])
@pytest.mark.parametrize("source", ["int8", "uint8", "int16", "uint16", "int32", "float16", "float32", "bool"])
def test_cast(source, dtype):
    check("cast", x=np.array([[0, 1, 100], [2.9, 0.5, 1]]).astype(source), dtype=dtype)


def test_cast_cuts_fractions_and_wraps_integers():
    check("cast", x=np.array([-2.9, 2.9, -0.5], np.float32), dtype="int32")
    check("cast", x=np.array([-1, 300, 65537], np.int32), dtype="uint8")


def test_names_of_types():
    assert torch_dtype("fp16") == torch_dtype("FLOAT16") == torch.float16
    assert torch_dtype("uint4") == torch.uint8
    for wrong in ("string", "fp7"):
        with pytest.raises(ValueError, match=wrong):
            torch_dtype(wrong)
