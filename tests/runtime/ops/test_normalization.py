from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import corepress.runtime.ops.normalization  # noqa: F401 - fills the registry
from tests.runtime.oracle_ops import check, numbers, run, same
from tests.runtime.oracle_torch import converted

TYPES = [("float32", "float32"), ("float16", "float16"), ("float16", "float32")]


@pytest.mark.parametrize("dtype, parameter_dtype", TYPES)
@pytest.mark.parametrize("shape", [(2, 3, 5), (1, 3, 2, 4), (2, 3, 2, 1, 3)])
def test_batch_norm(shape, dtype, parameter_dtype):
    x = numbers(1, shape, dtype)
    mean, gamma, beta = (numbers(seed, (3,), parameter_dtype) for seed in (2, 3, 4))
    variance = abs(mean) + np.ones(1, parameter_dtype)
    column = (3, *[1] * (len(shape) - 2))
    plain = (x.astype(np.float64) - mean.reshape(column)) / np.sqrt(variance.reshape(column) + 1e-5)
    same(run("batch_norm", x=x, mean=mean, variance=variance), plain.astype(dtype), 1e-5, 1e-5)
    ours = run("batch_norm", x=x, mean=mean, variance=variance, gamma=gamma, beta=beta)
    same(ours, (plain * gamma.reshape(column) + beta.reshape(column)).astype(dtype), 1e-5, 1e-5)


def test_epsilon_of_batch_norm():
    x, one = np.full((1, 1, 1), 6, np.float32), np.ones(1, np.float32)
    same(run("batch_norm", x=x, mean=one, variance=0 * one, epsilon=4.0), np.array([[[2.5]]], np.float32))
    same(run("batch_norm", x=x, mean=one, variance=0 * one, gamma=2 * one, epsilon=4.0), np.array([[[5]]], np.float32))


@pytest.mark.parametrize("dtype, parameter_dtype", TYPES)
@pytest.mark.parametrize("shape", [(2, 3, 5), (1, 3, 2, 4), (2, 3, 1, 1)])
def test_instance_norm(shape, dtype, parameter_dtype):
    x = numbers(1, shape, dtype)
    gamma, beta = (numbers(seed, (3,), parameter_dtype) for seed in (2, 3))
    axes, column = tuple(range(2, len(shape))), (3, *[1] * (len(shape) - 2))
    wide = x.astype(np.float64)
    plain = (wide - wide.mean(axes, keepdims=True)) / np.sqrt(wide.var(axes, keepdims=True) + 1e-5)
    same(run("instance_norm", x=x), plain.astype(dtype), 1e-4, 1e-5)
    ours = run("instance_norm", x=x, gamma=gamma, beta=beta)
    same(ours, (plain * gamma.reshape(column) + beta.reshape(column)).astype(dtype), 1e-4, 1e-5)


def test_instance_norm_is_pytorchs():
    module, x = nn.InstanceNorm2d(3, affine=True, eps=0.1), torch.randn(1, 3, 4, 5)
    arguments = converted("instance_norm", module, x)
    same(run("instance_norm", x=x.numpy(), **arguments), module(x).detach().numpy(), 1e-4, 1e-5)


@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 1, 3, 2), (2, 3, 1, 2, 2)])
def test_l2_norm(shape):
    check("l2_norm", x=numbers(1, shape))
    check("l2_norm", x=numbers(1, shape), epsilon=np.float32(0.3))
    check("l2_norm", x=numbers(1, shape, "float16"), epsilon=np.float16(0.01))


def test_l2_norm_of_large_fp16():
    same(run("l2_norm", x=np.full((1, 2, 2), 500, np.float16)), np.full((1, 2, 2), 0.5, np.float16))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(
    "shape, axes",
    [((3, 4), [1]), ((2, 3, 4), [0, 2]), ((2, 3, 4), [-2]), ((2, 3, 2, 4), [3, 0, -3]), ((2, 3, 4), None)],
)
def test_layer_norm(shape, axes, dtype):
    x = numbers(1, shape, dtype)
    axes = list(range(len(shape))) if axes is None else axes
    check("layer_norm", x=x, axes=axes, atol=1e-5)
    chosen = [size for axis, size in enumerate(shape) if axis in [a % len(shape) for a in axes]]
    gamma, beta = numbers(2, chosen, dtype), numbers(3, chosen, dtype)
    epsilon = np.array(0.25, dtype)[()]
    check("layer_norm", x=x, axes=axes, gamma=gamma, beta=beta, epsilon=epsilon, rtol=1e-4, atol=1e-5)


def test_layer_norm_of_all_axes_by_default():
    x = numbers(1, (2, 3, 4))
    same(run("layer_norm", x=x), run("layer_norm", x=x, axes=[0, 1, 2]))


def test_parameters_of_layer_norm_of_another_type():
    x, gamma = numbers(1, (2, 3), "float16"), numbers(2, (3,))
    same(
        run("layer_norm", x=x, axes=[1], gamma=gamma), run("layer_norm", x=x, axes=[1], gamma=gamma.astype(np.float16))
    )


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("shape", [(6, 2, 3), (1, 4, 2, 3), (2, 5, 3, 1)])
def test_local_response_norm(shape, size):
    x = numbers(1, shape)
    # Of an even size the window reaches further back: of 2 it holds the channel before and the channel itself.
    squares = np.pad(
        np.moveaxis(x.astype(np.float64) ** 2, -3, 0), [(size // 2, (size - 1) // 2)] + [(0, 0)] * (x.ndim - 1)
    )
    sums = np.moveaxis(sum(squares[i : i + shape[-3]] for i in range(size)), 0, -3)
    ours = run("local_response_norm", x=x, size=size, alpha=0.3, beta=0.6, k=2.0)
    same(ours, (x / (2 + 0.3 / size * sums) ** 0.6).astype(np.float32), 1e-5, 1e-5)
    if x.ndim == 4:
        judge = nn.LocalResponseNorm(size, 0.3, 0.6, 2.0)
        same(ours, judge(torch.from_numpy(x)).numpy(), 1e-5, 1e-5)
    ours = run("local_response_norm", x=x.astype(np.float16) * np.float16(200), size=size)
    expected = 200 * x / (1 + 4 / size * sums) ** 0.75
    same(ours, expected.astype(np.float16), 5e-3, 0.1)


def test_facts_of_coremltools():
    x = np.array([[[1.0, -7.0], [5.0, -6.0], [-3.0, -5.0]]], np.float32)
    expected = [[[0.99996257, -6.98716545], [4.99531746, -5.99191284], [-2.99898791, -4.99531746]]]
    same(run("local_response_norm", x=x, size=2), np.float32(expected))
    expected = [[[0.99997497, -6.99143696], [4.99687672, -5.99460602], [-2.99932504, -4.99687672]]]
    same(run("local_response_norm", x=x, size=3, alpha=1e-4, beta=0.75, k=1.0), np.float32(expected))
