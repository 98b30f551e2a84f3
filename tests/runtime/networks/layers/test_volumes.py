"""Layers of three spatial dimensions compute what PyTorch does."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from corepress.errors import FormatError
from tests.runtime.networks.layers.test_layers import close, random
from tests.runtime.networks.made import network, program, run

X = random(2, 4, 6, 7, 8)
T = torch.from_numpy(X)
# Front, back, top, bottom, left, right; and as PyTorch takes them.
PADS = [1, 0, 2, 1, 0, 2]
TORCH_PADS = (0, 2, 2, 1, 1, 0)
NAMES = ["front", "back", "top", "bottom", "left", "right"]


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("mode", ["valid", "custom", "same"])
@pytest.mark.parametrize("has_bias", [True, False])
def test_convolutions(groups, mode, has_bias) -> None:
    weight, bias = random(6, 4 // groups, 2, 3, 3), random(6)
    pads = {f"padding_{name}": size for name, size in zip(NAMES, PADS, strict=True)} if mode == "custom" else {}

    def build(b: Any) -> None:
        b.add_convolution3d(
            "l", 4, 6, 2, 3, 3, weight, bias if has_bias else None, has_bias, groups, 1, 2, 1, dilation_depth=2,
            padding_mode=mode, input_name="x0", output_name="y0", **pads,
        )  # fmt: skip

    if mode == "custom":
        wide = F.pad(T, TORCH_PADS)
    elif mode == "same":  # 6 rows of extent 3 and stride 1; 7 of extent 3 and stride 2: 4 windows; 8 of extent 3
        wide = F.pad(T, (1, 1, 1, 1, 1, 1))
    else:
        wide = T
    parameters = torch.from_numpy(weight), torch.from_numpy(bias) if has_bias else None
    close(run(build, X), F.conv3d(wide, *parameters, stride=(1, 2, 1), dilation=(2, 1, 1), groups=groups))


@pytest.mark.parametrize("groups", [1, 2])
def test_transposed_convolutions(groups) -> None:
    weight = random(6 // groups, 4, 2, 3, 3)  # the builder takes the output channels first

    def build(b: Any) -> None:
        b.add_convolution3d(
            "l", 4, 6, 2, 3, 3, weight, None, False, groups, 2, 2, 2, is_deconv=True, padding_mode="custom",
            padding_front=1, padding_back=1, input_name="x0", output_name="y0",
        )  # fmt: skip

    kernel = torch.from_numpy(weight.transpose(1, 0, 2, 3, 4))
    close(run(build, X), F.conv_transpose3d(T, kernel, stride=2, padding=(1, 0, 0), groups=groups))


@pytest.mark.parametrize("kind", ["MAX", "AVERAGE"])
@pytest.mark.parametrize("mode", ["VALID", "CUSTOM", "SAME"])
@pytest.mark.parametrize("exclude", [True, False])
def test_pooling(kind, mode, exclude) -> None:
    pads = {f"custom_padding_{name}": size for name, size in zip(NAMES, PADS, strict=True)} if mode == "CUSTOM" else {}

    def build(b: Any) -> None:
        b.add_pooling3d(
            "l", "x0", "y0", kind, 3, 3, 3, 2, 2, 2, padding_mode=mode, average_pooling_count_excludes_padding=exclude,
            **pads,
        )  # fmt: skip

    # SAME: of 6 rows 3 windows, so one more after; of 7 4, one before and one after; of 8 4, one after.
    amounts = {"VALID": (0,) * 6, "CUSTOM": TORCH_PADS, "SAME": (0, 1, 1, 1, 0, 1)}[mode]
    if kind == "MAX":
        expected = F.max_pool3d(F.pad(T, amounts, value=-math.inf), 3, 2)
    else:
        counted = F.pad(torch.ones_like(T), amounts, value=0.0 if exclude else 1.0)
        expected = F.avg_pool3d(F.pad(T, amounts), 3, 2) / F.avg_pool3d(counted, 3, 2)
    close(run(build, X), expected)


def test_global_pooling() -> None:
    for kind, function in {"MAX": torch.amax, "AVERAGE": torch.mean}.items():
        found = run(lambda b, k=kind: b.add_global_pooling3d("l", "x0", "y0", k), X)
        close(found, function(T, (2, 3, 4), keepdim=True))


def test_damage_is_named() -> None:
    def spec(change: Any) -> Any:
        made = network(
            lambda b: b.add_convolution3d("l", 4, 6, 1, 1, 1, random(6, 4, 1, 1, 1), None, False, input_name="x0",
                                          output_name="y0"), X.shape
        )  # fmt: skip
        change(made.neuralNetwork.layers[0].convolution3d)
        return made

    for change, message in (
        (lambda c: c.weights.floatValue.append(1), r"layer 'l' \(convolution3d\): its 25 values don't fit the shape"),
        (lambda c: setattr(c, "kernelDepth", -3), "don't fit the shape"),
        (lambda c: setattr(c, "outputChannels", 1 << 30), "don't fit the shape"),
        (lambda c: setattr(c, "paddingType", 9), "its paddingType is 9"),
        (lambda c: c.ClearField("weights"), "missing a required argument: 'weights'"),
    ):
        with pytest.raises(FormatError, match=message):
            program(spec(change))
    for change in (
        lambda c: setattr(c, "strideDepth", -1),
        lambda c: setattr(c, "nGroups", 4),
        lambda c: setattr(c, "dilationWidth", -7),
    ):
        with pytest.raises(FormatError, match="'l'"):
            program(spec(change)).predict({"x0": X})


def test_quantized_weights_are_refused() -> None:
    made = network(
        lambda b: b.add_convolution3d("l", 4, 6, 1, 1, 1, random(6, 4, 1, 1, 1), None, False, input_name="x0",
                                      output_name="y0"), X.shape
    )  # fmt: skip
    weights = made.neuralNetwork.layers[0].convolution3d.weights
    del weights.floatValue[:]
    weights.rawValue = bytes(24)
    with pytest.raises(FormatError, match="stored in a way that the format does not define"):
        program(made)
