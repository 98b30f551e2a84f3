from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import corepress.runtime.ops.reduction  # noqa: F401 - fills the registry
from tests.runtime.oracle_ops import check, numbers, run, same

NAMES = ["l1_norm", "l2_norm", "log_sum", "log_sum_exp", "max", "mean", "min", "prod", "sum", "sum_square"]
SHAPES = st.lists(st.integers(1, 4), min_size=1, max_size=4)


@st.composite
def shape_and_axes(draw):
    shape = draw(SHAPES)
    axes = draw(st.lists(st.integers(0, len(shape) - 1), min_size=1, unique=True))
    return shape, [axis - len(shape) if draw(st.booleans()) else axis for axis in axes]


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 99),
    case=shape_and_axes(),
    keep_dims=st.booleans(),
    dtype=st.sampled_from(["float16", "float32", "int32"]),
)
def test_axes(name, seed, case, keep_dims, dtype):
    shape, axes = case
    x = numbers(seed, shape, dtype, 1, 3)
    if name not in ("log_sum", "prod"):
        x = x - np.dtype(dtype).type(2)
    check(f"reduce_{name}", x=x, axes=axes, keep_dims=keep_dims, rtol=2e-5 if dtype == "float32" else 1e-2)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", ["float16", "float32", "int32"])
def test_all_axes_by_default(name, dtype):
    x = numbers(7, (2, 3, 2), dtype, 1, 2)
    check(f"reduce_{name}", x=x, rtol=1e-2 if dtype == "float16" else 1e-5)
    check(f"reduce_{name}", x=x, keep_dims=True, rtol=1e-2 if dtype == "float16" else 1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_no_axes_reduce_nothing(name):
    x = numbers(7, (2, 3), low=1)
    check(f"reduce_{name}", x=x, axes=np.array([], np.int32))


def test_integers():
    x = np.array([[7, -8], [-3, 2**30]], np.int32)
    for name in ("max", "min", "sum", "mean", "l1_norm"):
        check(f"reduce_{name}", x=x, axes=[0])
        check(f"reduce_{name}", x=x, axes=[1])
    same(run("reduce_mean", x=np.array([-1, -2], np.int32)), np.array(-1, np.int32))
    same(run("reduce_l2_norm", x=np.array([3 * 10**8, 4 * 10**8], np.int32)), np.array(5 * 10**8, np.int32))


def test_wide_sums_of_fp16():
    x = np.full(3000, 100, np.float16)
    same(run("reduce_mean", x=x), np.array(100, np.float16))
    same(run("reduce_l2_norm", x=x), np.array(np.sqrt(3000) * 100, np.float16))
    same(run("reduce_log_sum_exp", x=x), np.array(100 + np.log(3000), np.float16))


def test_log_sum_exp_of_infinities():
    x = np.array([[-np.inf, -np.inf], [-np.inf, 1], [np.inf, 1]], np.float32)
    same(run("reduce_log_sum_exp", x=x, axes=[1]), np.array([-np.inf, 1, np.inf], np.float32))


@pytest.mark.parametrize("name", ["reduce_argmax", "reduce_argmin"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "int32"])
@pytest.mark.parametrize("keep_dims", [False, True])
@pytest.mark.parametrize("axis", [None, 0, 1, -1, -3])
def test_arguments(name, dtype, keep_dims, axis):
    # No ties, which may go either way.
    x = np.random.default_rng(5).permutation(24).reshape(2, 3, 4).astype(dtype)
    given_axis = {} if axis is None else {"axis": axis}
    check(name, x=x, keep_dims=keep_dims, **given_axis)
    check(name, x=x, keep_dims=keep_dims, output_dtype="uint16", **given_axis)
    check(name, opset="iOS15", x=x, keep_dims=keep_dims, **given_axis)


def test_first_of_equals():
    x = np.array([[2, 5, 5, 1, 1]], np.float16)
    same(run("reduce_argmax", x=x), np.array([1], np.int32))
    same(run("reduce_argmin", x=x), np.array([3], np.int32))
