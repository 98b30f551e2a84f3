from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import corepress.runtime.ops.activation  # noqa: F401 - fills the registry
from tests.runtime.oracle_ops import check, numbers, run, same

SHAPES = st.lists(st.integers(1, 4), max_size=4)
DTYPES = st.sampled_from(["float16", "float32"])


@pytest.mark.parametrize("name", ["relu", "relu6", "sigmoid", "softplus", "softsign"])
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 99), shape=SHAPES, dtype=DTYPES)
def test_plain(name, seed, shape, dtype):
    check(name, x=numbers(seed, shape, dtype, -9, 9))


@pytest.mark.parametrize("name", ["elu", "leaky_relu", "thresholded_relu"])
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 99), shape=SHAPES, dtype=DTYPES, alpha=st.floats(-2, 2))
def test_alpha(name, seed, shape, dtype, alpha):
    check(name, x=numbers(seed, shape, dtype), alpha=np.dtype(dtype).type(alpha))


@pytest.mark.parametrize("name", ["clamped_relu", "linear_activation", "scaled_tanh", "sigmoid_hard"])
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 99), shape=SHAPES, dtype=DTYPES, alpha=st.floats(-2, 2), beta=st.floats(0, 2))
def test_alpha_and_beta(name, seed, shape, dtype, alpha, beta):
    kind = np.dtype(dtype).type
    check(name, x=numbers(seed, shape, dtype), alpha=kind(alpha), beta=kind(beta), atol=1e-5)


def test_parameters_of_another_type():
    check("elu", x=numbers(1, (7,), "float16"), alpha=np.float32(0.3))
    alpha = np.array([0.5, 0.25], np.float32)
    expected = run("prelu", x=numbers(1, (1, 2, 3, 3), "float16"), alpha=alpha.astype(np.float16))
    same(run("prelu", x=numbers(1, (1, 2, 3, 3), "float16"), alpha=alpha), expected)


def test_clamped_relu_below_zero():
    # As documented; coremltools adds the bound twice.
    x = np.array([-2, -0.5, 0, 3], np.float32)
    same(run("clamped_relu", x=x, alpha=0.5, beta=-0.6), np.array([-1, -0.6, -0.6, -0.6], np.float32))


def test_thresholded_relu_keeps_the_threshold_itself():
    x = np.array([0.5, 1, 1.5, np.nan], np.float32)
    same(run("thresholded_relu", x=x, alpha=1.0), np.array([0, 1, 1.5, np.nan], np.float32))


@pytest.mark.parametrize("mode", ["EXACT", "TANH_APPROXIMATION", "SIGMOID_APPROXIMATION"])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_gelu(mode, dtype):
    check("gelu", x=numbers(2, (5, 6), dtype, -5, 5), mode=mode)
    check("gelu", x=numbers(2, (), dtype), mode=mode)


def test_gelu_defaults_and_errors():
    check("gelu", x=numbers(2, (5, 6)))
    with pytest.raises(ValueError, match="ROUGH"):
        run("gelu", x=numbers(2, (5, 6)), mode="ROUGH")


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_silu(dtype):
    x = numbers(3, (4, 5), dtype, -9, 9)
    wide = x.astype(np.float64)
    same(run("silu", x=x), (wide / (1 + np.exp(-wide))).astype(dtype))


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_prelu(dtype):
    check("prelu", x=numbers(4, (2, 3, 4, 2), dtype), alpha=np.array([0.1, -0.5, 2], dtype))
    for shape in ((2, 3, 4), (2, 3, 2, 2, 2)):
        check("prelu", x=numbers(4, shape, dtype), alpha=np.array([0.1] * 3, dtype))


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 3, 4, 2), (1, 3, 2, 2, 2)])
def test_softplus_parametric(dtype, shape):
    alpha, beta = np.array([0.1, -0.5, 2], dtype), np.array([1, 0.5, -2], dtype)
    check("softplus_parametric", x=numbers(5, shape, dtype), alpha=alpha, beta=beta)


def test_softplus_does_not_overflow():
    x = np.array([[[200.0], [-200.0]]], np.float32)
    one = np.ones(2, np.float32)
    same(run("softplus_parametric", x=x, alpha=one, beta=one), np.array([[[200.0], [0.0]]], np.float32))
    same(run("softplus", x=x), np.array([[[200.0], [0.0]]], np.float32))


@settings(max_examples=20, deadline=None)
@given(data=st.data(), seed=st.integers(0, 99), dtype=DTYPES)
def test_softmax(data, seed, dtype):
    shape = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    x = numbers(seed, shape, dtype, -20, 20)
    check("softmax", x=x)
    check("softmax", x=x, axis=data.draw(st.integers(-len(shape), len(shape) - 1)))
