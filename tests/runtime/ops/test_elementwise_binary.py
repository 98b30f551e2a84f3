from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import mutually_broadcastable_shapes

import corepress.runtime.ops.elementwise_binary  # noqa: F401 - fills the registry
from tests.runtime.oracle_ops import check, numbers, run, same

ARITHMETIC = ["add", "sub", "mul", "maximum", "minimum", "real_div", "floor_div", "mod"]
COMPARISONS = ["equal", "not_equal", "greater", "greater_equal", "less", "less_equal"]
PAIRS = mutually_broadcastable_shapes(num_shapes=2, max_dims=4, max_side=4)


def not_zero(array: np.ndarray) -> np.ndarray:
    return np.where(array == 0, 1, array).astype(array.dtype)


@pytest.mark.parametrize("name", ARITHMETIC + COMPARISONS)
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 99), shapes=PAIRS, dtype=st.sampled_from(["float16", "float32", "int32"]))
def test_numbers(name, seed, shapes, dtype):
    x, y = (numbers(seed + i, shape, dtype, -9, 9) for i, shape in enumerate(shapes.input_shapes))
    if dtype == "float16":
        x, y = np.round(x), np.round(y)  # so that the last digit does not move a quotient past a whole number
    check(name, x=x, y=not_zero(y))


@pytest.mark.parametrize("name", ["floor_div", "mod", "real_div"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "int32"])
def test_signs_of_division(name, dtype):
    x, y = np.array([7, -7, 7, -7, 6, -6, 0], dtype), np.array([2, 2, -2, -2, 3, 3, -4], dtype)
    check(name, x=x, y=y)


@pytest.mark.parametrize("name", [*ARITHMETIC, *COMPARISONS, "pow"])
def test_special_values(name):
    values = np.array([np.nan, np.inf, -np.inf, 0, -0.0, 1, -2.5], np.float32)
    check(name, x=values[:, None], y=values)


def test_integers_beyond_float32():
    x, y = np.array([2**30 + 1, 2**31 - 1], np.int32), np.array([2, 1], np.int32)
    for name in ("floor_div", "mod", "real_div", "sub"):
        check(name, x=x, y=y)
    same(run("add", x=x, y=y), np.array([2**30 + 3, -(2**31)], np.int32))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 99), shapes=PAIRS, dtype=st.sampled_from(["float16", "float32"]))
def test_pow(seed, shapes, dtype):
    one, other = shapes.input_shapes
    check("pow", x=numbers(seed, one, dtype, 0.1, 3), y=numbers(seed + 1, other, dtype), rtol=3e-5)


def test_pow_of_negatives_and_integers():
    x = np.array([-2, -1, 0, 3], np.float32)[:, None]
    check("pow", x=x, y=np.array([0, 1, 2, 3, -1], np.float32))
    check("pow", x=x.astype(np.int32), y=np.array([0, 1, 2, 3], np.int32))


@pytest.mark.parametrize("name", ["logical_and", "logical_or", "logical_xor"])
def test_logic(name):
    both = np.array([False, True])
    check(name, x=both[:, None], y=both)
    check(name, x=both, y=np.array(True))
