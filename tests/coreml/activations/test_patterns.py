"""Where pairs stand: behind the activation function of a product, also behind what moves its numbers."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from torch import nn

import corepress.coreml as cto
from corepress import load
from corepress.formats.mlprogram.program import nodes
from tests.coreml.activations.activation_nets import everywhere, package_of, samples
from tests.coreml.activations.converted_nets import package
from tests.coreml.activations.converted_nets import samples as pictures


def chain(model) -> list[str]:
    """The operations in order, without constants."""
    return [node.type for node in nodes(model.spec) if not node.is_const]


def test_relu6_of_pytorch_counts_as_an_activation_function(tmp_path) -> None:
    net = nn.Sequential(nn.Conv2d(4, 16, 1), nn.ReLU6(), nn.Conv2d(16, 16, 1), nn.ReLU6(), nn.Upsample(scale_factor=2))
    path = package(net, tmp_path, half=True)
    assert chain(load(path)).count("clip") == 2
    model = cto.linear_quantize_activations(path, everywhere(), pictures(2))
    pair = ["quantize", "dequantize"]
    found = [kind for kind in chain(model) if kind != "cast"]
    # One pair before each convolution, and one behind the last function: none between a convolution and its clip.
    assert found[:-1] == [*pair, "conv", "clip", *pair, "conv", "clip", *pair]


def moved(mb, x, w):
    a = mb.conv(x=x, weight=w(4, 4, 1, 1), name="first")
    b = mb.transpose(x=mb.reshape(x=a, shape=(1, 4, 64)), perm=(0, 2, 1))
    c = mb.relu(x=b, name="relu")
    return mb.softmax(x=mb.linear(x=mb.mul(x=c, y=c), weight=w(8, 4), name="second"), name="out")


def test_a_function_behind_what_moves_numbers_is_that_of_the_product(tmp_path) -> None:
    model = cto.linear_quantize_activations(package_of(tmp_path, moved), everywhere(), samples(2))
    pair = ["quantize", "dequantize"]
    expected = [*pair, "conv", "reshape", "transpose", "relu", *pair, "mul", *pair, "linear", *pair, "softmax"]
    assert chain(model) == expected


def padded(mb, x, w):
    a = mb.relu(x=mb.conv(x=x, weight=w(4, 4, 1, 1), name="first"), name="relu")
    b = mb.pad(x=a, pad=(0, 0, 0, 0, 1, 1, 1, 1), mode="constant", constant_val=np.float16(0), name="pad")
    c = mb.conv(x=b, weight=w(4, 4, 3, 3), name="second")
    return mb.conv(x=mb.relu(x=c), weight=w(4, 4, 1, 1), name="third")


@pytest.mark.parametrize(("exceptions", "pairs"), [([], 4), (["second"], 2)])
def test_an_exception_reads_nothing_rounded_through_what_moves_numbers(tmp_path, exceptions, pairs) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = package_of(tmp_path, padded)
    model = cto.linear_quantize_activations(path, everywhere(), samples(2), exceptions=exceptions)
    assert chain(model).count("quantize") == pairs
    (pad,) = (node for node in nodes(model.spec) if node.name == "pad")
    assert pad.operand("x").node.type == ("relu" if exceptions else "dequantize")
