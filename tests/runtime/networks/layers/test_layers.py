"""Each layer of the older model type computes what PyTorch or NumPy does."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from corepress.errors import FormatError
from tests.runtime.networks.made import network, program, run

RNG = np.random.default_rng(0)


def random(*shape: int) -> Any:
    return RNG.standard_normal(shape).astype(np.float32)


def close(found: Any, expected: Any) -> None:
    expected = np.asarray(expected, np.float32)
    assert found.shape == expected.shape and found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


X, Y = random(2, 6, 9, 11), random(2, 6, 9, 11)
POSITIVE = abs(X) + 0.5

# Layers of one input `x0`, by the name of the builder's method: the arguments, the input, and what is expected.
SINGLE: list[tuple[str, dict[str, Any], Any, Callable[[Tensor], Any]]] = [
    ("activation", {"non_linearity": "RELU"}, X, torch.relu),
    ("activation", {"non_linearity": "TANH"}, X, torch.tanh),
    ("activation", {"non_linearity": "SIGMOID"}, X, torch.sigmoid),
    ("activation", {"non_linearity": "SOFTPLUS"}, X, F.softplus),
    ("activation", {"non_linearity": "SOFTSIGN"}, X, F.softsign),
    ("activation", {"non_linearity": "ELU", "params": 0.7}, X, lambda x: F.elu(x, 0.7)),
    ("activation", {"non_linearity": "LEAKYRELU", "params": [0.2]}, X, lambda x: F.leaky_relu(x, 0.2)),
    ("activation", {"non_linearity": "THRESHOLDEDRELU", "params": 0.4}, X, lambda x: x * (x >= 0.4)),
    ("activation", {"non_linearity": "LINEAR", "params": [2, 0]}, X, lambda x: 2 * x),
    ("activation", {"non_linearity": "SCALED_TANH", "params": [2, 3]}, X, lambda x: 2 * torch.tanh(3 * x)),
    ("activation", {"non_linearity": "SIGMOID_HARD", "params": [0.3, 0.4]}, X, lambda x: (0.3 * x + 0.4).clamp(0, 1)),
    ("activation", {"non_linearity": "PRELU", "params": np.arange(6)}, X, lambda x: F.prelu(x, torch.arange(6.0))),
    ("activation", {"non_linearity": "PARAMETRICSOFTPLUS", "params": [np.arange(6), np.ones(6)]}, X,
     lambda x: torch.arange(6.0).view(6, 1, 1) * F.softplus(x)),
    ("unary", {"mode": "sqrt", "shift": 1, "scale": 2}, POSITIVE, lambda x: (2 * x + 1).sqrt()),
    ("unary", {"mode": "rsqrt", "epsilon": 0.1}, POSITIVE, lambda x: (x + 0.1).rsqrt()),
    ("unary", {"mode": "inverse", "epsilon": 0.1}, POSITIVE, lambda x: 1 / (x + 0.1)),
    ("unary", {"mode": "power", "alpha": 3}, X, lambda x: x**3),
    ("unary", {"mode": "exp"}, X, torch.exp),
    ("unary", {"mode": "log"}, POSITIVE, lambda x: (x + 1e-6).log()),
    ("unary", {"mode": "abs"}, X, torch.abs),
    ("unary", {"mode": "threshold", "alpha": 0.3}, X, lambda x: x.clamp(min=0.3)),
    *[(name, {}, X, getattr(torch, name)) for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh", "asinh", "atan")],
    *[(name, {}, X, getattr(torch, name)) for name in ("erf", "exp2", "ceil", "floor", "sign", "round")],
    *[(name, {}, X.clip(-0.9, 0.9), getattr(torch, name)) for name in ("asin", "acos", "atanh")],
    ("acosh", {}, POSITIVE + 1, torch.acosh),
    ("clip", {"min_value": -0.5, "max_value": 0}, X, lambda x: x.clamp(-0.5, 0)),
    ("clamped_relu", {"alpha": 0.1, "beta": 1}, X, lambda x: F.leaky_relu(x, 0.1).clamp(max=1)),
    ("gelu", {}, X, F.gelu),
    ("gelu", {"mode": "TANH_APPROXIMATION"}, X, lambda x: F.gelu(x, approximate="tanh")),
    ("copy", {}, X, lambda x: x),
    ("softmax", {}, X, lambda x: x.softmax(1)),
    ("softmax_nd", {"axis": -1}, X, lambda x: x.softmax(-1)),
    ("l2_normalize", {"epsilon": 0.1}, X, lambda x: x / (x.square().sum((1, 2, 3), keepdim=True) + 0.1).sqrt()),
    ("lrn", {"alpha": 0.3, "beta": 0.6, "local_size": 3, "k": 2}, X, nn.LocalResponseNorm(3, 0.3, 0.6, 2)),
    ("mvn", {"epsilon": 0.1}, X, lambda x: F.layer_norm(x, x.shape[1:], eps=0.1)),
    ("mvn", {"across_channels": False}, X, F.instance_norm),
    ("mvn", {"normalize_variance": False}, X, lambda x: x - x.mean((1, 2, 3), keepdim=True)),
    ("bias", {"b": np.arange(6), "shape_bias": [6]}, X, lambda x: x + torch.arange(6).view(6, 1, 1)),
    ("scale", {"W": np.array([2]), "b": X[0, :1], "has_bias": True, "shape_scale": [1], "shape_bias": [1, 9, 11]}, X,
     lambda x: 2 * x + torch.from_numpy(X[0, :1])),
    ("scale", {"W": np.arange(6), "b": None, "has_bias": False, "shape_scale": [6]}, X,
     lambda x: x * torch.arange(6).view(6, 1, 1)),
    ("layer_normalization", {"normalized_shape": [11], "gamma": np.full(11, 2), "beta": np.ones(11)}, X,
     lambda x: 2 * F.layer_norm(x, [11]) + 1),
    ("padding", {"left": 1, "right": 2, "top": 3, "value": 5}, X, lambda x: F.pad(x, (1, 2, 3, 0), value=5)),
    ("padding", {"left": 1, "top": 3, "padding_type": "reflection"}, X, lambda x: F.pad(x, (1, 0, 3, 0), "reflect")),
    ("padding", {"right": 4, "padding_type": "replication"}, X, lambda x: F.pad(x, (0, 4, 0, 0), "replicate")),
    ("upsample", {"scaling_factor_h": 2, "scaling_factor_w": 3}, X, nn.Upsample(scale_factor=(2, 3))),
    ("upsample", {"scaling_factor_h": 2, "scaling_factor_w": 2, "mode": "BILINEAR",
                  "linear_upsample_mode": "ALIGN_CORNERS_FALSE"}, X, nn.Upsample(scale_factor=2, mode="bilinear")),
    ("upsample", {"scaling_factor_h": 2.5, "scaling_factor_w": 2, "mode": "BILINEAR",
                  "linear_upsample_mode": "ALIGN_CORNERS_TRUE"}, X,
     lambda x: F.interpolate(x, (22, 22), mode="bilinear", align_corners=True)),
    ("resize_bilinear", {"target_height": 5, "target_width": 7, "mode": "STRICT_ALIGN_ENDPOINTS_MODE"}, X,
     lambda x: F.interpolate(x, (5, 7), mode="bilinear", align_corners=True)),
    ("reorganize_data", {"mode": "PIXEL_SHUFFLE", "block_size": 2}, random(2, 8, 3, 3), nn.PixelShuffle(2)),
    ("reorganize_data", {"mode": "SPACE_TO_DEPTH"}, random(1, 1, 4, 6), nn.PixelUnshuffle(2)),
    ("slice", {"axis": "height", "start_index": 1, "end_index": -2, "stride": 2}, X, lambda x: x[:, :, 1:-2:2]),
    ("slice", {"axis": "width", "start_index": 0, "end_index": 4}, X, lambda x: x[..., :4]),
    ("reduce", {"axis": "CHW", "mode": "sum"}, X, lambda x: x.sum((1, 2, 3), keepdim=True)),
    ("reduce", {"axis": "C", "mode": "argmax"}, X, lambda x: x.argmax(1, keepdim=True)),
    ("reduce", {"axis": "HW", "mode": "avg"}, X, lambda x: x.mean((2, 3), keepdim=True)),
    ("reduce", {"axis": "H", "mode": "logsum"}, POSITIVE, lambda x: x.sum(2, keepdim=True).log()),
    *[(f"reduce_{name}", {"axes": [1, -1], "keepdims": False}, POSITIVE, function) for name, function in {
        "l1": lambda x: x.abs().sum((1, 3)), "l2": lambda x: x.square().sum((1, 3)).sqrt(),
        "max": lambda x: x.amax((1, 3)), "min": lambda x: x.amin((1, 3)), "sum": lambda x: x.sum((1, 3)),
        "prod": lambda x: x.prod(3).prod(1), "mean": lambda x: x.mean((1, 3)),
        "logsum": lambda x: x.sum((1, 3)).log(), "logsumexp": lambda x: x.logsumexp((1, 3)),
        "sumsquare": lambda x: x.square().sum((1, 3)),
    }.items()],
    ("reduce_max", {"keepdims": False, "reduce_all": True}, X, lambda x: x.max()[None]),
    ("argmax", {"axis": 2, "keepdims": False}, X, lambda x: x.argmax(2)),
    ("argmin", {"axis": -1}, X, lambda x: x.argmin(-1, keepdim=True)),
    ("argsort", {"axis": 1, "descending": True}, X, lambda x: x.argsort(1, descending=True)),
    ("cumsum", {"axis": 1}, X, lambda x: x.cumsum(1)),
    ("transpose", {"axes": [3, 0, 2, 1]}, X, lambda x: x.permute(3, 0, 2, 1)),
    ("reshape_static", {"output_shape": [-1, 22]}, X, lambda x: x.reshape(-1, 22)),
    ("rank_preserving_reshape", {"output_shape": [0, 3, 18, -1]}, X, lambda x: x.reshape(2, 3, 18, 11)),
    ("flatten_to_2d", {"axis": 2}, X, lambda x: x.reshape(12, 99)),
    ("squeeze", {"axes": [1]}, random(2, 1, 1), lambda x: x[:, 0]),
    ("squeeze", {"squeeze_all": True}, random(1, 1), lambda x: x[0]),
    ("expand_dims", {"axes": [0, -1]}, random(3), lambda x: x[None, :, None]),
    ("tile", {"reps": [1, 2, 3, 1]}, X, lambda x: x.tile(1, 2, 3, 1)),
    ("reverse", {"reverse_dim": [False, True, False, True]}, X, lambda x: x.flip(1, 3)),
    ("slice_static", {"begin_ids": [0, -3, 0, 1], "end_ids": [1, 0, 5, 9], "strides": [1, 1, 2, 3],
                      "begin_masks": [False] * 4, "end_masks": [False, True, False, False],
                      "squeeze_masks": [True, False, False, False]}, X, lambda x: x[0, -3:, :5:2, 1:9:3]),
    ("sliding_windows", {"axis": 0, "window_size": 3, "step": 2}, np.arange(7), lambda x: x.unfold(0, 3, 2)),
    ("get_shape", {}, X, lambda x: [2, 6, 9, 11]),
    ("fill_like", {"value": 3}, X, lambda x: torch.full_like(x, 3)),
    ("fill_dynamic", {"value": 2}, [2, 3], lambda x: torch.full((2, 3), 2.0)),
    ("broadcast_to_static", {"output_shape": [4, 3]}, random(3), lambda x: x.expand(4, 3)),
    ("constant_pad", {"input_names": ["x0"], "value": 1, "pad_amounts": [0, 1, 2, 0]}, random(3, 4),
     lambda x: F.pad(x, (2, 0, 0, 1), value=1)),
    ("constant_pad", {"input_names": ["x0"], "pad_to_given_output_size_mode": True, "pad_amounts": [0, 5, 6, 0]},
     random(3, 4), lambda x: F.pad(x, (2, 0, 0, 2))),
    ("one_hot", {"input_names": ["x0"], "one_hot_vector_size": 5, "on_value": 3, "off_value": 1}, [1, 4],
     lambda x: 2 * F.one_hot(x.long(), 5) + 1),
    ("where_nonzero", {}, [[0, 1], [2, 0]], lambda x: x.nonzero()),
    ("matrix_band_part", {"num_lower": 1, "num_upper": 0}, random(4, 4), lambda x: x.tril().triu(-1)),
    ("lower_triangular", {"k": -1}, random(4, 4), lambda x: x.tril(-1)),
    ("upper_triangular", {}, random(4, 4), torch.triu),
    ("range_dynamic", {"input_names": ["x0"], "start": 1, "step": 2}, [8], lambda x: [1, 3, 5, 7]),
    ("equal", {"input_names": ["x0"], "alpha": 1}, [1, 2], lambda x: [1, 0]),
    ("greater_than", {"input_names": ["x0"], "use_greater_than_equal": True}, [-1, 0], lambda x: [0, 1]),
    ("less_than", {"input_names": ["x0"], "use_less_than_equal": True}, [1, 0], lambda x: [0, 1]),
    ("logical", {"input_names": ["x0"], "mode": "NOT"}, [1, 0], lambda x: [0, 1]),
]  # fmt: skip


@pytest.mark.parametrize("case", range(len(SINGLE)), ids=[f"{i}-{case[0]}" for i, case in enumerate(SINGLE)])
def test_a_layer_of_one_input(case) -> None:
    name, arguments, x, function = SINGLE[case]
    key = "input_names" if name in ("cumsum",) else "input_name"
    given = arguments if "input_names" in arguments else {key: ["x0"] if key == "input_names" else "x0", **arguments}
    found = run(lambda b: getattr(b, f"add_{name}")("l", output_name="y0", **given), x)
    close(found, function(torch.from_numpy(np.array(x, np.float32))))


# Layers of several inputs: method, arguments, inputs, expectation.
SEVERAL: list[tuple[str, dict[str, Any], list[Any], Callable[..., Any]]] = [
    ("elementwise", {"mode": "ADD"}, [X, Y, X], lambda x, y, z: x + y + z),
    ("elementwise", {"mode": "ADD", "alpha": 2}, [X], lambda x: x + 2),
    ("elementwise", {"mode": "MULTIPLY"}, [X, Y[:, :, :1, :1]], lambda x, y: x * y),
    ("elementwise", {"mode": "MULTIPLY", "alpha": 2}, [X], lambda x: x * 2),
    ("elementwise", {"mode": "AVE"}, [X, Y], lambda x, y: (x + y) / 2),
    ("elementwise", {"mode": "MAX"}, [X, Y], torch.maximum),
    ("elementwise", {"mode": "MIN"}, [X, Y], torch.minimum),
    ("elementwise", {"mode": "CONCAT"}, [X, Y], lambda x, y: torch.cat([x, y], 1)),
    ("elementwise", {"mode": "DOT"}, [X[..., :1, :1], Y[..., :1, :1]], lambda x, y: (x * y).sum(1, keepdim=True)),
    ("elementwise", {"mode": "COS"}, [X[..., :1, :1], Y[..., :1, :1]],
     lambda x, y: F.cosine_similarity(x, y, 1)[:, None]),
    ("add_broadcastable", {}, [X, Y[0]], lambda x, y: x + y),
    ("subtract_broadcastable", {}, [X, Y[0]], lambda x, y: x - y),
    ("multiply_broadcastable", {}, [X, Y[:, :1]], lambda x, y: x * y),
    ("divide_broadcastable", {}, [X, POSITIVE], lambda x, y: x / y),
    ("floor_div_broadcastable", {}, [X, POSITIVE], lambda x, y: (x / y).floor()),
    ("mod_broadcastable", {}, [X, POSITIVE], torch.remainder),
    ("pow_broadcastable", {}, [POSITIVE, Y[0]], torch.pow),
    ("max_broadcastable", {}, [X, Y[:1]], torch.maximum),
    ("min_broadcastable", {}, [X, Y[:1]], torch.minimum),
    ("not_equal", {}, [[1, 2], [1, 3]], lambda x, y: [0, 1]),
    ("greater_than", {}, [X, Y], lambda x, y: x > y),
    ("less_than", {}, [X, Y], lambda x, y: x < y),
    ("logical", {"mode": "AND"}, [[0, 1, 1], [0, 0, 1]], lambda x, y: [0, 0, 1]),
    ("logical", {"mode": "OR"}, [[0, 1, 1], [0, 0, 1]], lambda x, y: [0, 1, 1]),
    ("logical", {"mode": "XOR"}, [[0, 1, 1], [0, 0, 1]], lambda x, y: [0, 1, 0]),
    ("where_broadcastable", {}, [[1, 0], random(3, 2), [7, 8]], lambda c, x, y: torch.where(c != 0, x, y)),
    ("concat_nd", {"axis": -1}, [X, Y], lambda x, y: torch.cat([x, y], -1)),
    ("concat_nd", {"axis": 0, "interleave": True}, [[1, 2], [3, 4]], lambda x, y: [1, 3, 2, 4]),
    ("stack", {"axis": 1}, [X, Y], lambda x, y: torch.stack([x, y], 1)),
    ("gather", {"axis": 1}, [X, [[0, 5], [2, 2]]], lambda x, i: x[:, i.long()]),
    ("gather_nd", {}, [X, [[0, 5], [1, 2]]], lambda x, i: x[[0, 1], [5, 2]]),
    ("gather_along_axis", {"axis": 1}, [random(2, 4), [[3, 0], [1, 1]]], lambda x, i: x.gather(1, i.long())),
    ("batched_mat_mul", {"transpose_b": True}, [random(2, 1, 4, 5), random(3, 6, 5)], lambda x, y: x @ y.mT),
    ("batched_mat_mul", {}, [random(4), random(2, 4, 3)], lambda x, y: (x @ y)[:, None]),
    ("batched_mat_mul", {}, [random(4), random(4)], lambda x, y: (x @ y).reshape(1, 1)),
    ("slice_by_size", {"axis": 1, "size": 3}, [X, [2]], lambda x, i: x[:, 2:5]),
    ("slice_dynamic", {}, [random(5, 5), [1, 0], [-1, 3]], lambda x, *_: x[1:-1, :3]),
    ("reshape_like", {}, [X, random(11, 108)], lambda x, y: x.reshape(11, 108)),
    ("reshape_dynamic", {}, [X, [12, -1]], lambda x, y: x.reshape(12, 99)),
    ("broadcast_to_like", {}, [random(3), random(4, 3)], lambda x, y: x.expand(4, 3)),
    ("broadcast_to_dynamic", {}, [random(3), [4, 3]], lambda x, y: x.expand(4, 3)),
    ("crop", {"left": 1, "right": 2, "top": 3, "bottom": 0, "offset": []}, [X], lambda x: x[..., 3:, 1:-2]),
    ("crop", {"left": 0, "right": 0, "top": 0, "bottom": 0, "offset": [2, 3]}, [X, random(1, 6, 4, 5)],
     lambda x, y: x[..., 2:6, 3:8]),
]  # fmt: skip


@pytest.mark.parametrize("case", range(len(SEVERAL)), ids=[f"{i}-{case[0]}" for i, case in enumerate(SEVERAL)])
def test_a_layer_of_several_inputs(case) -> None:
    name, arguments, inputs, function = SEVERAL[case]
    names = [f"x{i}" for i in range(len(inputs))]
    found = run(lambda b: getattr(b, f"add_{name}")("l", input_names=names, output_name="y0", **arguments), *inputs)
    close(found, function(*(torch.from_numpy(np.array(x, np.float32)) for x in inputs)))


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("mode", ["valid", "same"])
def test_convolutions(groups, mode) -> None:
    weight, bias = random(8, 6 // groups, 3, 3), random(8)

    def build(b: Any) -> None:
        b.add_convolution(
            "l", 6 // groups, 8, 3, 3, 2, 1, mode, groups, weight.transpose(2, 3, 1, 0), bias, True, input_name="x0",
            output_name="y0", dilation_factors=[1, 2], padding_top=1 if mode == "valid" else 0,
        )  # fmt: skip

    x = torch.from_numpy(X)
    wide = F.pad(x, (0, 0, 1, 0)) if mode == "valid" else F.pad(x, (2, 2, 1, 1))
    parameters = torch.from_numpy(weight), torch.from_numpy(bias)
    close(run(build, X), F.conv2d(wide, *parameters, stride=(2, 1), dilation=(1, 2), groups=groups))


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("shape", [None, (17, 20)])
def test_transposed_convolutions(groups, shape) -> None:
    weight = random(6, 9 // groups, 3, 3)

    def build(b: Any) -> None:
        b.add_convolution(
            "l", 6, 9, 3, 3, 2, 2, "valid", groups, weight.transpose(2, 3, 0, 1), None, False, True, shape, "x0", "y0",
            padding_top=1, padding_bottom=1, padding_left=1, padding_right=1,
        )  # fmt: skip

    expected = F.conv_transpose2d(torch.from_numpy(X), torch.from_numpy(weight), stride=2, padding=1, groups=groups)
    if shape is not None:
        expected = F.conv_transpose2d(torch.from_numpy(X), torch.from_numpy(weight), stride=2, groups=groups)
        expected = expected[..., 1:18, 1:21]
    close(run(build, X), expected)


def test_a_convolution_may_compute_its_weights() -> None:
    weight = random(4, 6, 1, 1)

    def build(b: Any) -> None:
        b.add_convolution(
            "l", 6, 4, 1, 1, 1, 1, "valid", 1, None, None, False, input_name=["x0", "x1"], output_name="y0"
        )

    close(run(build, X, weight), F.conv2d(torch.from_numpy(X), torch.from_numpy(weight)))


@pytest.mark.parametrize("kind", ["MAX", "AVERAGE", "L2"])
@pytest.mark.parametrize("padding", ["VALID", "SAME", "INCLUDE_LAST_PIXEL"])
def test_pooling(kind, padding) -> None:
    amounts = {} if padding == "SAME" else dict.fromkeys(["padding_top", "padding_bottom"], 1)
    amounts |= {} if padding == "SAME" else dict.fromkeys(["padding_left", "padding_right"], 1)
    found = run(lambda b: b.add_pooling("l", 3, 3, 2, 2, kind, padding, "x0", "y0", **amounts), X[..., :10])
    x, options = torch.from_numpy(X[..., :10]), {"ceil_mode": padding == "INCLUDE_LAST_PIXEL"}
    if padding == "SAME":  # of 9 and 10 rows and columns: one before and after, one after
        x, options = F.pad(x, (0, 1, 1, 1), value=-math.inf if kind == "MAX" else 0), {}
    options |= {} if padding == "SAME" else {"padding": 1}
    if kind == "MAX":
        expected = F.max_pool2d(x, 3, 2, **options)
    elif kind == "L2":
        expected = (F.avg_pool2d(x.square(), 3, 2, divisor_override=1, **options)).sqrt()
    elif padding == "SAME":
        inside = F.pad(torch.ones(1, 1, 9, 10), (0, 1, 1, 1))
        expected = F.avg_pool2d(x, 3, 2) / F.avg_pool2d(inside, 3, 2)
    else:
        expected = F.avg_pool2d(x, 3, 2, count_include_pad=False, **options)
    close(found, expected)


def test_global_pooling() -> None:
    for kind, function in {"MAX": torch.amax, "AVERAGE": torch.mean}.items():
        found = run(lambda b, k=kind: b.add_pooling("l", 0, 0, 0, 0, k, "VALID", "x0", "y0", is_global=True), X)
        close(found, function(torch.from_numpy(X), (2, 3), keepdim=True))


@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 3, 5), (2, 5, 1, 1), (2, 3, 5, 1, 1)])
def test_inner_products_and_embeddings(shape) -> None:
    weight, bias, x = random(4, 5), random(4), random(*shape)
    expected = x.reshape(-1, 5) @ weight.T + bias
    expected = expected.reshape(*shape[:-1], 4) if len(shape) < 4 else expected.reshape(*shape[:-3], 4, 1, 1)
    close(run(lambda b: b.add_inner_product("l", weight, bias, 5, 4, True, "x0", "y0"), x), expected)
    if len(shape) > 3:
        ids = np.arange(math.prod(shape[:-3])).reshape(*shape[:-3], 1, 1, 1) % 5
        expected = (weight.T[ids.flatten()] + bias).reshape(*shape[:-3], 4, 1, 1)
        close(run(lambda b: b.add_embedding("l", weight, bias, 5, 4, True, "x0", "y0"), ids), expected)


def test_products_with_weights() -> None:
    weight, bias, ids = random(5, 4), random(4), [[[1], [0], [3]]]

    def product(b: Any) -> None:
        b.add_batched_mat_mul(
            "l", ["x0"], "y0", weight_matrix_rows=5, weight_matrix_columns=4, W=weight, bias=bias
        )  # fmt: skip

    def transposed(b: Any) -> None:  # which only counts where both are inputs
        product(b)
        b.spec.neuralNetwork.layers[0].batchedMatmul.transposeA = True

    x = random(2, 2, 3, 5)
    for build in (product, transposed):
        close(run(build, x), x @ weight + bias)
    close(run(lambda b: b.add_embedding_nd("l", "x0", "y0", 4, 5, weight), ids), weight.T[[[1, 0, 3]]])


def test_batch_normalization() -> None:
    gamma, beta, mean, variance = random(6), random(6), random(6), abs(random(6))
    x, tensors = torch.from_numpy(X), [torch.from_numpy(part) for part in (mean, variance, gamma, beta)]
    found = run(lambda b: b.add_batchnorm("l", 6, gamma, beta, mean, variance, "x0", "y0", epsilon=0.1), X)
    close(found, F.batch_norm(x, *tensors, eps=0.1))
    found = run(lambda b: b.add_batchnorm("l", 6, gamma, beta, None, None, "x0", "y0", True, True), X)
    close(found, F.instance_norm(x, None, None, *tensors[2:]))

    def whole_batch(b: Any) -> None:  # which the builder does not make
        layer = b.add_batchnorm("l", 6, gamma, beta, None, None, "x0", "y0", True, True)
        layer.batchnorm.instanceNormalization = False

    found = run(whole_batch, X)
    close(found, F.batch_norm(x, None, None, *tensors[2:], training=True))


def test_several_outputs() -> None:
    for found in (
        run(lambda b: b.add_split_nd("l", "x0", ["y0", "y1", "y2"], 1, 3), X, outputs=3),
        run(lambda b: b.add_split("l", "x0", ["y0", "y1", "y2"]), X, outputs=3),
    ):
        for part, expected in zip(found, np.split(X, 3, 1), strict=True):
            close(part, expected)
    uneven = run(lambda b: b.add_split_nd("l", "x0", ["y0", "y1", "y2"], 3, 3), X, outputs=3)
    assert [part.shape[3] for part in uneven] == [4, 4, 3]
    first, rest = run(lambda b: b.add_split_nd("l", "x0", ["y0", "y1"], -3, split_sizes=[1, 5]), X, outputs=2)
    close(first, X[:, :1]), close(rest, X[:, 1:])
    values, order = run(lambda b: b.add_topk("l", ["x0"], ["y0", "y1"], 3, 2), X, outputs=2)
    expected = torch.from_numpy(X).topk(3, 2)
    close(values, expected.values), close(order, expected.indices)


def test_constants() -> None:
    value = random(2, 3, 4)

    def build(b: Any) -> None:
        b.add_load_constant_nd("c", "c", value, value.shape)
        b.add_fill_static("f", "f", [3, 4], 2)
        b.add_range_static("r", "r", end=4, start=0, step=1)
        b.add_add_broadcastable("l", ["c", "f", "r", "x0"], "y0")

    close(run(build, [1]), value + 2 + np.arange(4) + 1)


def test_older_layers_of_shapes() -> None:
    # All in five dimensions: [sequence, batch, channels, height, width].
    x = random(6, 4, 2)
    for mode, expected in ((0, x.reshape(3, 8, 2)), (1, x.transpose(1, 2, 0).reshape(8, 2, 3).transpose(2, 0, 1))):
        close(run(lambda b, m=mode: b.add_reshape("l", "x0", "y0", (3, 8, 2), m), x, rank5=True), expected)
    close(run(lambda b: b.add_reshape("l", "x0", "y0", (3, 8, 2, 1), 0), x, rank5=True), x.reshape(3, 1, 8, 2, 1))
    close(run(lambda b: b.add_flatten("l", 0, "x0", "y0"), x, rank5=True), x.flatten())
    close(run(lambda b: b.add_flatten("l", 1, "x0", "y0"), x, rank5=True), x.transpose(1, 2, 0).flatten())
    close(run(lambda b: b.add_permute("l", [0, 3, 1, 2], "x0", "y0"), x, rank5=True), x.transpose(2, 0, 1))
    close(
        run(lambda b: b.add_permute("l", [2, 1, 0, 3], "x0", "y0"), x, rank5=True),
        x.transpose(1, 0, 2)[:, None, :, None],
    )
    close(run(lambda b: b.add_sequence_repeat("l", 3, "x0", "y0"), x, rank5=True), np.stack([x[None]] * 3))
    joined = run(lambda b: b.add_elementwise("l", ["x0", "x0"], "y0", "SEQUENCE_CONCAT"), x, rank5=True)
    close(joined, np.stack([x[None]] * 2))

    def constant(b: Any) -> None:
        b.add_load_constant("c", "c", x + 1, x.shape)
        b.add_elementwise("l", ["x0", "c"], "y0", "ADD")

    close(run(constant, x, rank5=True), 2 * x + 1)


def test_unknown_layers_and_fields_are_named() -> None:
    def unknown(b: Any) -> None:
        b.spec.neuralNetwork.layers.add(name="mine", input=["x0"], output=["y0"])

    def softsign(b: Any) -> None:
        layer = b.add_simple_rnn("rnn", random(2, 2), random(2, 3), None, 2, 3, "TANH", ["x0"], ["y0"])
        layer.simpleRecurrent.activation.softsign.SetInParent()

    for build, message in (
        (unknown, "layer 'mine': the runtime does not know layers of the type unknown"),
        (lambda b: b.add_copy("l", "z", "y0"), "copy 'l' reads 'z', which nothing has computed"),
        (lambda b: b.add_copy("l", "x0", "y1"), "the output 'y0' is not computed by anything"),
        (lambda b: b.add_pow_broadcastable("l", ["x0"], "y0"), r"layer 'l' \(powBroadcastable\): .*'y'"),
        (softsign, r"layer 'rnn' \(simpleRecurrent\): the runtime does not know the activation softsign"),
        (lambda b: b.add_unary("l", "x0", "y0", "exp").unary.__setattr__("type", 77), "its type is 77"),
    ):
        with pytest.raises(FormatError, match=message):
            program(network(build, (3,)))
