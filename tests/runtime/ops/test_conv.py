from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import corepress.runtime.ops.conv  # noqa: F401 - fills the registry
from tests.runtime.oracle_ops import numbers, run, same
from tests.runtime.oracle_torch import converted


def slow_conv(x, weight, bias, pads, strides, dilations, groups):
    """Each output element by its definition."""
    x = np.pad(x.astype(np.float64), [(0, 0), (0, 0), *pads])
    kernel = weight.shape[2:]
    sizes = [(n - (k - 1) * d - 1) // s + 1 for n, k, s, d in zip(x.shape[2:], kernel, strides, dilations, strict=True)]
    y = np.zeros((x.shape[0], weight.shape[0], *sizes))
    per_group = weight.shape[0] // groups
    for out, *place in itertools.product(range(weight.shape[0]), *map(range, sizes)):
        first = out // per_group * weight.shape[1]
        window = tuple(
            slice(p * s, p * s + (k - 1) * d + 1, d)
            for p, s, k, d in zip(place, strides, kernel, dilations, strict=True)
        )
        part = x[(slice(None), slice(first, first + weight.shape[1]), *window)]
        y[(slice(None), out, *place)] = (part * weight[out]).reshape(len(x), -1).sum(1)
    return y if bias is None else y + bias.reshape(-1, *[1] * len(sizes))


def slow_transpose(x, weight, bias, strides, dilations, groups):
    """Each input element spreads its share of the kernel; nothing is cut off."""
    kernel = weight.shape[2:]
    sizes = [(n - 1) * s + (k - 1) * d + 1 for n, k, s, d in zip(x.shape[2:], kernel, strides, dilations, strict=True)]
    y = np.zeros((x.shape[0], weight.shape[1] * groups, *sizes))
    for channel, *place in itertools.product(range(x.shape[1]), *map(range, x.shape[2:])):
        first = channel // (x.shape[1] // groups) * weight.shape[1]
        window = tuple(
            slice(p * s, p * s + (k - 1) * d + 1, d)
            for p, s, k, d in zip(place, strides, kernel, dilations, strict=True)
        )
        share = x[(slice(None), channel, *place)].astype(np.float64)
        y[(slice(None), slice(first, first + weight.shape[1]), *window)] += (
            share.reshape(-1, *[1] * (len(kernel) + 1)) * weight[channel]
        )
    return y if bias is None else y + bias.reshape(-1, *[1] * len(sizes))


def same_pads(sizes, kernel, strides, dilations, low):
    totals = [
        max(0, (int(np.ceil(n / s)) - 1) * s + (k - 1) * d + 1 - n)
        for n, k, s, d in zip(sizes, kernel, strides, dilations, strict=True)
    ]
    pads = [(total // 2, (total + 1) // 2) for total in totals]
    return [(after, before) for before, after in pads] if low else pads


# sizes, kernel, strides, dilations, groups
CASES = [
    ((7,), (3,), (1,), (1,), 1),
    ((8,), (4,), (3,), (2,), 2),
    ((5, 8), (3, 2), (2, 3), (1, 1), 1),
    ((7, 6), (2, 3), (1, 2), (3, 2), 3),
    ((4, 4), (1, 1), (3, 2), (1, 1), 1),
    ((3, 8, 5), (3, 3, 2), (2, 2, 1), (1, 1, 2), 1),
    ((4, 3, 4), (2, 1, 3), (1, 2, 3), (1, 1, 1), 2),
]


@pytest.mark.parametrize("pad_type", ["valid", "same", "same_lower", "custom"])
@pytest.mark.parametrize("sizes, kernel, strides, dilations, groups", CASES)
def test_conv_by_its_definition(pad_type, sizes, kernel, strides, dilations, groups):
    x = numbers(1, (2, 2 * groups, *sizes))
    weight, bias = numbers(2, (3 * groups, 2, *kernel)), numbers(3, (3 * groups,))
    pads = {
        "valid": [(0, 0)] * len(sizes),
        "custom": [(i + 1, 2 - i) for i in range(len(sizes))],
    }.get(pad_type) or same_pads(sizes, kernel, strides, dilations, pad_type == "same_lower")
    # A pad counts for custom alone.
    pad = np.ravel(pads) if pad_type == "custom" else [5] * 2 * len(sizes)
    arguments = {"strides": strides, "pad_type": pad_type, "pad": pad, "dilations": dilations, "groups": groups}
    for b in (None, bias):
        expected = slow_conv(x, weight, b, pads, strides, dilations, groups)
        same(run("conv", x=x, weight=weight, bias=b, **arguments), expected.astype(np.float32), 1e-4, 1e-4)


def test_conv_defaults():
    x, weight = numbers(1, (2, 3, 6, 5)), numbers(2, (4, 3, 2, 3))
    expected = slow_conv(x, weight, None, [(0, 0)] * 2, (1, 1), (1, 1), 1).astype(np.float32)
    same(run("conv", x=x, weight=weight), expected, 1e-4, 1e-4)
    same(run("conv", x=x, weight=weight, pad_type="custom"), expected, 1e-4, 1e-4)


def test_same_pads_of_the_documented_example():
    # A kernel of 3 and a stride of 2: pads (1, 1) for a size of 3, but (0, 1) for 8.
    x, weight = numbers(1, (1, 3, 3, 8, 8)), numbers(2, (2, 3, 3, 3, 3))
    expected = F.conv3d(F.pad(torch.from_numpy(x), (0, 1, 0, 1, 1, 1)), torch.from_numpy(weight), stride=2).numpy()
    same(run("conv", x=x, weight=weight, strides=[2] * 3, pad_type="same"), expected, 1e-4, 1e-4)


@pytest.mark.parametrize("kernel", [(3, 4), (2, 5)])
def test_same_is_pytorchs(kernel):
    module, x = nn.Conv2d(2, 4, kernel, padding="same", dilation=(2, 1), groups=2), torch.randn(1, 2, 7, 6)
    arguments = converted("conv", module, x)
    assert arguments["pad_type"] == "same"
    same(run("conv", x=x.numpy(), **arguments), module(x).detach().numpy(), 1e-4, 1e-5)


def test_types_of_conv():
    x, weight, bias = numbers(1, (1, 2, 5), "float16"), numbers(2, (3, 2, 2), "float16"), numbers(3, (3,), "float16")
    expected = slow_conv(x, weight, bias, [(0, 0)], (1,), (1,), 1)
    same(run("conv", x=x, weight=weight, bias=bias), expected.astype(np.float16), 5e-3, 1e-2)
    wide = run("conv", x=x, weight=weight.astype(np.float32), bias=bias.astype(np.float32))
    same(wide, expected.astype(np.float16), 5e-3, 1e-2)
    assert run("conv", x=x.astype(np.float32), weight=weight, bias=bias).dtype == np.float32


@pytest.mark.parametrize("sizes, kernel, strides, dilations, groups", CASES)
def test_transpose_by_its_definition(sizes, kernel, strides, dilations, groups):
    x = numbers(1, (2, 2 * groups, *sizes))
    weight, bias = numbers(2, (2 * groups, 3, *kernel)), numbers(3, (3 * groups,))
    whole = slow_transpose(x, weight, bias, strides, dilations, groups).astype(np.float32)
    common = {"x": x, "weight": weight, "bias": bias, "strides": strides, "dilations": dilations, "groups": groups}
    same(run("conv_transpose", **common), whole, 1e-4, 1e-4)

    rank = len(sizes)
    for pads in ([(1, 0)] * rank, [(0, 1)] * rank, [(1, 1)] * rank, [(0, 0)] * rank):
        part = whole[(..., *(slice(a, n - b) for (a, b), n in zip(pads, whole.shape[2:], strict=True)))]
        given = {"pad": np.ravel(pads), "pad_type": "custom"}
        same(run("conv_transpose", **common, **given), part, 1e-4, 1e-4)
        same(run("conv_transpose", **common, **given, output_shape=part.shape), part, 1e-4, 1e-4)


@pytest.mark.parametrize("short", [0, 1])
@pytest.mark.parametrize("sizes, kernel, strides, dilations, groups", CASES)
def test_same_transpose_is_the_gradient_of_same_conv(short, sizes, kernel, strides, dilations, groups):
    if any(s == 1 for s in strides) and short:
        pytest.skip("one shorter, it would have fewer windows")
    weight = torch.from_numpy(numbers(2, (2 * groups, 3, *kernel)))
    shape = (2, 3 * groups, *(n * s - short for n, s in zip(sizes, strides, strict=True)))
    image = torch.from_numpy(numbers(3, shape)).requires_grad_()
    pads = same_pads(shape[2:], kernel, strides, dilations, False)
    wide = F.pad(image, [p for pair in reversed(pads) for p in pair])
    result = [F.conv1d, F.conv2d, F.conv3d][len(sizes) - 1](wide, weight, None, strides, 0, dilations, groups)
    assert result.shape[2:] == sizes
    x = numbers(1, result.shape)
    (gradient,) = torch.autograd.grad(result, image, torch.from_numpy(x))
    given = {"x": x, "weight": weight.numpy(), "strides": strides, "dilations": dilations, "groups": groups}
    ours = run("conv_transpose", **given, pad_type="same", output_shape=shape if short else None)
    same(ours, gradient.numpy(), 1e-4, 1e-4)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_transpose_is_pytorchs(rank):
    kind = [nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d][rank - 1]
    module, x = kind(4, 6, 3, stride=2, padding=1, groups=2), torch.randn(1, 4, *[5, 4, 3][:rank])
    arguments = converted("conv_transpose", module, x)
    same(run("conv_transpose", x=x.numpy(), **arguments), module(x).detach().numpy(), 1e-4, 1e-5)


def test_bias_of_what_no_input_reaches():
    x, weight = np.ones((1, 1, 2), np.float32), np.ones((1, 1, 1), np.float32)
    y = run("conv_transpose", x=x, weight=weight, bias=np.ones(1, np.float32), strides=[3], pad_type="same")
    same(y, np.array([[[2, 1, 1, 2, 1, 1]]], np.float32))


def test_quantized():
    x, weight = numbers(1, (1, 2, 5, 5)), np.arange(4 * 2 * 3 * 3).reshape(4, 2, 3, 3).astype(np.uint8)
    for scale, shift in ((numbers(2, (4,)), numbers(3, (4,))), (np.float32([0.5]), np.float32([-3]))):
        dense = weight * scale.reshape(-1, 1, 1, 1) + shift.reshape(-1, 1, 1, 1)
        expected = run("conv", x=x, weight=dense, pad_type="same", strides=[2, 1])
        given = {"quantization_type": "linear", "nbits": 8, "quant_scale": scale, "quant_bias": shift}
        same(run("conv_quantized", x=x, weight=weight, pad_type="same", strides=[2, 1], **given), expected, 1e-4, 1e-3)


def test_errors():
    x, weight = numbers(1, (1, 2, 5)), numbers(2, (3, 2, 2))
    with pytest.raises(ValueError, match="pad_type 'odd' is unknown"):
        run("conv", x=x, weight=weight, pad_type="odd")
    with pytest.raises(ValueError, match="'lut' is unknown"):
        scale = np.ones(1, np.float32)
        run("conv_quantized", x=x, weight=weight, quantization_type="lut", quant_scale=scale, quant_bias=scale)
