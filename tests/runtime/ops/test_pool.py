from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import corepress.runtime.ops.pool  # noqa: F401 - fills the registry
from tests.runtime.oracle_ops import numbers, run, same
from tests.runtime.oracle_torch import converted


def slow_pool(x, kernel, strides, pads, ceil_mode, reduce):
    """Each window by its definition. `reduce(values, inside)`: of the elements of a window those in the input, and
    how many lie in the input or its padding."""
    sizes = []
    for n, k, s, (before, after) in zip(x.shape[2:], kernel, strides, pads, strict=True):
        steps = (n + before + after - k) / s
        out = (math.ceil(steps) if ceil_mode else math.floor(steps)) + 1
        if ceil_mode and (out - 1) * s >= n + before and before + after > 0:
            out -= 1
        sizes.append(out)
    y = np.zeros((*x.shape[:2], *sizes))
    for batch, channel, *place in itertools.product(*map(range, y.shape)):
        values, inside = [], 0
        for offset in itertools.product(*map(range, kernel)):
            at = [p * s + o - b for p, s, o, (b, _) in zip(place, strides, offset, pads, strict=True)]
            if all(0 <= a < n for a, n in zip(at, x.shape[2:], strict=True)):
                values.append(x[(batch, channel, *at)].astype(np.float64))
            inside += all(-b <= a < n + e for a, n, (b, e) in zip(at, x.shape[2:], pads, strict=True))
        y[(batch, channel, *place)] = reduce(np.array(values), inside)
    return y


REDUCE = {
    "avg_pool": lambda values, inside: values.sum() / inside,
    "max_pool": lambda values, inside: values.max(),
    "l2_pool": lambda values, inside: np.sqrt((values**2).sum()),
}

# sizes, kernel, strides
CASES = [((7,), (3,), (2,)), ((6, 5), (2, 3), (1, 2)), ((5, 7), (4, 2), (3, 2)), ((4, 3, 5), (2, 3, 2), (2, 1, 3))]


@pytest.mark.parametrize("kind", REDUCE)
@pytest.mark.parametrize("pad_type", ["valid", "same", "same_lower", "custom"])
@pytest.mark.parametrize("sizes, kernel, strides", CASES)
def test_by_definition(kind, pad_type, sizes, kernel, strides):
    x = numbers(1, (2, 3, *sizes))
    pads = [(0, 0)] * len(sizes)
    if pad_type == "custom":
        pads = [(1, 0), (0, 1), (1, 1)][: len(sizes)]
    elif pad_type != "valid":
        totals = [max(0, (-(-n // s) - 1) * s + k - n) for n, k, s in zip(sizes, kernel, strides, strict=True)]
        pads = [(total // 2, total - total // 2)[:: 1 if pad_type == "same" else -1] for total in totals]
    given = {"x": x, "kernel_sizes": kernel, "strides": strides, "pad_type": pad_type}
    if pad_type == "custom":
        given["pad"] = np.ravel(pads)
    expected = slow_pool(x, kernel, strides, pads, False, REDUCE[kind])
    same(run(kind, **given), expected.astype(np.float32), 1e-4, 1e-5)
    if kind == "avg_pool":
        expected = slow_pool(x, kernel, strides, pads, False, lambda values, inside: values.mean())
        same(run(kind, **given, exclude_padding_from_average=True), expected.astype(np.float32), 1e-4, 1e-5)
    same(run(kind, **given | {"x": x.astype(np.float16)}), run(kind, **given).astype(np.float16), 5e-3, 5e-3)


@pytest.mark.parametrize("kind", REDUCE)
@pytest.mark.parametrize("pad", [0, 1])
@pytest.mark.parametrize(
    "sizes, kernel, strides", [((8,), (3,), (2,)), ((5, 9), (2, 3), (2, 4)), ((6, 7), (3, 2), (2, 2))]
)
def test_ceil_mode(kind, pad, sizes, kernel, strides):
    x = numbers(1, (1, 2, *sizes))
    pads = [(pad, pad)] * len(sizes)
    given = {"x": x, "kernel_sizes": kernel, "strides": strides, "pad_type": "custom", "pad": np.ravel(pads)}
    reduce = REDUCE[kind]
    if kind == "avg_pool":
        plain = slow_pool(x, kernel, strides, pads, True, lambda values, inside: values.mean())
        ours = run(kind, **given, ceil_mode=True, exclude_padding_from_average=True)
        same(ours, plain.astype(np.float32), 1e-4, 1e-5)
    expected = slow_pool(x, kernel, strides, pads, True, reduce)
    same(run(kind, **given, ceil_mode=True), expected.astype(np.float32), 1e-4, 1e-5)


@pytest.mark.parametrize("include", [True, False])
@pytest.mark.parametrize("ceil_mode", [True, False])
@pytest.mark.parametrize(
    "size, kernel, stride, pad", [((7, 10), 3, 2, 1), ((6, 9), (2, 4), (3, 2), (1, 2)), ((8, 5), 3, 3, 0)]
)
def test_averages_are_pytorchs(include, ceil_mode, size, kernel, stride, pad):
    def function(x):
        return F.avg_pool2d(x, kernel, stride, pad, ceil_mode, include)

    x = torch.randn(1, 2, *size)
    arguments = converted("avg_pool", function, x)
    same(run("avg_pool", x=x.numpy(), **arguments), function(x).numpy(), 1e-4, 1e-6)


@pytest.mark.parametrize("ceil_mode", [True, False])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_maxima_are_pytorchs(ceil_mode, rank):
    def function(x):
        return [F.max_pool1d, F.max_pool2d, F.max_pool3d][rank - 1](x, 3, 2, 1, ceil_mode=ceil_mode)

    x = torch.randn(1, 2, *[8, 7, 6][:rank])
    arguments = converted("max_pool", function, x)
    same(run("max_pool", x=x.numpy(), **arguments), function(x).numpy())


def test_a_window_wholly_beyond_the_input_stays_without_padding():
    # The documented size: 2 windows, the second starts at 6 of 5.
    x = np.arange(1, 6, dtype=np.float32).reshape(1, 1, 5)
    given = {"x": x, "kernel_sizes": [1], "strides": [6], "pad_type": "valid", "ceil_mode": True}
    same(run("avg_pool", **given), np.array([[[1, 0]]], np.float32))


def test_defaults():
    x = numbers(1, (1, 2, 6))
    same(run("max_pool", x=x, kernel_sizes=[2], pad_type="valid"), np.maximum(x[..., 1:], x[..., :-1]))
    same(run("avg_pool", x=x, kernel_sizes=[2], pad_type="valid"), (x[..., 1:] + x[..., :-1]) / 2)
    same(run("max_pool", x=-abs(x), kernel_sizes=[3], pad_type="custom", pad=[2, 0])[..., :1], -abs(x)[..., :1])


def test_fp16_squares_do_not_overflow():
    x = np.full((1, 1, 4), 300, np.float16)
    same(run("l2_pool", x=x, kernel_sizes=[4], pad_type="valid"), np.array([[[600]]], np.float16))


def test_facts_of_coremltools():
    x = np.arange(1, 9, dtype=np.float32).reshape(1, 1, 2, 2, 2)
    for rank, average in (
        (1, [0.5, 1.5]),
        (2, [0.25, 0.75, 1, 2.5]),
        (3, [0.125, 0.375, 0.5, 1.25, 0.75, 1.75, 2, 4.5]),
    ):
        part = x.ravel()[: 2**rank].reshape(1, 1, *[2] * rank)
        given = {"x": part, "kernel_sizes": [2] * rank, "pad_type": "same_lower"}
        same(run("avg_pool", **given), np.float32(average).reshape(part.shape))
        same(run("max_pool", **given), part)
    given = {"x": x[:, :, 0], "kernel_sizes": [2, 2], "pad_type": "same_lower"}
    same(run("l2_pool", **given), np.float32([1, 2.236068, 3.162278, 5.477226]).reshape(1, 1, 2, 2))
