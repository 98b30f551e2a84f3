"""Activation-aware scales: the chosen exponent is that of brute force on the inputs themselves, in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from corepress.algorithms.fitted.awq import Inputs, Layer, activation_scale, spread
from corepress.algorithms.fitted.gptq import gptq
from corepress.algorithms.fitted.layout import Layout
from corepress.algorithms.fitted.scaling import by_channel, keeps_rows, trial_scale, unchanged

LAYOUTS = {
    "linear": Layout((12, 16)),
    "transposed": Layout((16, 12), transposed=True),
    "convolution": Layout((10, 8, 3)),
    "in groups": Layout((12, 4, 3), groups=2),
    "depthwise": Layout((8, 1, 3), groups=8),
}


def nearest(weight: Tensor, _: Tensor) -> Tensor:
    """Three bits, one scale for each output channel."""
    axes = [0] if weight.shape == (16, 12) else list(range(1, weight.ndim))
    scale = weight.abs().amax(axes, keepdim=True) / 3
    return (weight / scale).round() * scale


def channels_of(layout: Layout) -> int:
    return layout.groups * layout.columns // layout.elements


def uneven(layout: Layout, count: int = 200) -> Tensor:
    """Inputs (groups, vectors, columns) with channels of very different magnitudes, which depend on each other."""
    magnitudes = torch.exp(1.5 * torch.randn(channels_of(layout))).repeat_interleave(layout.elements)
    vectors = torch.randn(layout.groups, count, layout.columns)
    mixing = torch.eye(layout.columns) + 0.3 * torch.randn(layout.columns, layout.columns)
    return (vectors @ mixing) * magnitudes.reshape(layout.groups, 1, -1)


def inputs_of(layout: Layout, vectors: Tensor) -> Inputs:
    inputs = Inputs(layout)
    for part in vectors.split(70, dim=1):
        inputs.add(part)
    return inputs


def explicit_error(weight: Tensor, layout: Layout, vectors: Tensor, columns: Tensor) -> float:
    """|(Q(W S) S^-1 - W) X|^2 in float64, every output computed."""
    factors = columns.reshape(layout.groups, 1, layout.columns)
    shape = weight.shape
    matrices = layout.matrices(weight) * factors
    scaled = matrices[0].T if layout.transposed else matrices.reshape(shape)
    rounded = layout.matrices(nearest(scaled.float(), torch.empty(0))).double() / factors.double()
    outputs = (rounded - layout.matrices(weight).double()) @ vectors.double().mT
    return float(outputs.square().sum())


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_the_exponent_is_that_of_brute_force(layout: Layout) -> None:
    torch.manual_seed(0)
    weights = [torch.randn(layout.shape) for _ in range(2)]
    vectors = uneven(layout)
    inputs = inputs_of(layout, vectors)
    magnitude = vectors.abs().mean(1).reshape(channels_of(layout), layout.elements).mean(1)
    errors = {}
    for alpha in range(11):
        scale = magnitude.double() ** (alpha / 10)
        scale = scale / (scale.max() * scale.min()).sqrt()
        columns = scale.float().repeat_interleave(layout.elements)
        errors[alpha / 10] = sum(explicit_error(weight, layout, vectors, columns) for weight in weights)
    layers = [Layer(weight, layout, inputs.hessian.matrix, nearest) for weight in weights]
    found = activation_scale(layers, inputs.magnitude.reshape(channels_of(layout), -1).mean(1))
    # A row of a depthwise convolution reads one channel, whose scale goes into that of the row.
    best = 0.0 if layout.groups == 8 else min(errors, key=lambda alpha: errors[alpha])
    # The Hessian is 2/n X X^T.
    assert found.plain_error == pytest.approx(errors[0.0] * 2 / vectors.shape[1], rel=1e-4)
    assert found.error == pytest.approx(errors[best] * 2 / vectors.shape[1], rel=1e-3)
    assert found.alpha == best
    assert found.error < 0.9 * found.plain_error or layout.groups == 8
    assert float(found.scale.max() * found.scale.min()) == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize("block_size", [None, 8])
@pytest.mark.parametrize("seed", range(4))
def test_gptq_behind_it_never_errs_more_on_the_same_inputs(block_size: int | None, seed: int) -> None:
    torch.manual_seed(seed)
    layout, weight = Layout((24, 32)), torch.randn(24, 32)
    vectors = uneven(layout) if seed else torch.randn(1, 200, 32)

    def rounding(scaled: Tensor, hessian: Tensor) -> Tensor:
        return torch.from_numpy(gptq(scaled, hessian[0], bits=4, block_size=block_size).decompress())

    inputs = inputs_of(layout, vectors)
    found = activation_scale([Layer(weight, layout, inputs.hessian.matrix, rounding)], inputs.magnitude)
    errors = []
    for scale in (torch.ones(32), found.scale):
        hessian = inputs.hessian.matrix / (scale[:, None] * scale)
        change = rounding(weight * scale, hessian).double() / scale.double() - weight.double()
        errors.append(float((change @ vectors[0].double().T).square().sum()))
    assert errors[1] <= errors[0] * (1 + 1e-5)
    assert (errors[1] < errors[0]) == (found.alpha > 0)


def test_inputs_that_are_zero_ask_for_nothing() -> None:
    layout = Layout((4, 6))
    inputs = inputs_of(layout, torch.zeros(1, 5, 6))
    found = activation_scale([Layer(torch.randn(4, 6), layout, inputs.hessian.matrix, nearest)], inputs.magnitude)
    assert found.alpha == 0 and found.scale.tolist() == [1.0] * 6


def test_a_channel_without_input_keeps_a_scale_that_can_be_stored() -> None:
    torch.manual_seed(0)
    layout, vectors = Layout((8, 16)), uneven(Layout((8, 16)))
    vectors[:, :, 3] = 0
    inputs = inputs_of(layout, vectors)
    found = activation_scale([Layer(torch.randn(8, 16), layout, inputs.hessian.matrix, nearest)], inputs.magnitude)
    assert (
        bool(torch.isfinite(found.scale).all()) and 0.01 <= float(found.scale.min()) <= float(found.scale.max()) <= 100
    )


def test_vectors_count_as_much_as_they_are_said_to() -> None:
    torch.manual_seed(0)
    layout, vectors, counting = Layout((4, 6)), torch.randn(1, 50, 6), torch.rand(50)
    inputs = Inputs(layout)
    for part, factors in zip(vectors.split(20, dim=1), counting.split(20), strict=True):
        inputs.add(part, factors)
    x, factors = vectors[0].double(), counting.double()[:, None]
    torch.testing.assert_close(inputs.magnitude.double(), (x.abs() * factors).mean(0), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(inputs.hessian.matrix[0].double(), 2 / 50 * (x * factors).T @ x, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_a_scaled_convolution_of_inversely_scaled_inputs_is_the_same(groups: int) -> None:
    torch.manual_seed(0)
    weight, x = torch.randn(16, 8 // groups, 3, 3).double(), torch.randn(2, 8, 7, 7).double()
    scale = torch.rand(8) + 0.1
    layout = Layout(tuple(weight.shape), groups)
    scaled = F.conv2d(x / scale[:, None, None], weight * spread(scale, layout), groups=groups)
    torch.testing.assert_close(scaled, F.conv2d(x, weight, groups=groups))


def test_a_linear_layer_behind_a_flattened_image_has_several_columns_to_a_channel() -> None:
    torch.manual_seed(0)
    weight, image, scale = torch.randn(5, 3 * 4 * 4).double(), torch.randn(2, 3, 4, 4).double(), torch.rand(3) + 0.1
    layout = by_channel(Layout(tuple(weight.shape)), 3)
    assert layout is not None and layout.elements == 16
    scaled = (weight.view(layout.shape) * spread(scale, layout)).view(weight.shape)
    torch.testing.assert_close((image / scale[:, None, None]).flatten(1) @ scaled.T, image.flatten(1) @ weight.T)
    assert by_channel(Layout((5, 48)), 7) is None
    assert by_channel(Layout((48, 5), transposed=True), 3) is None


def test_a_trial_tells_what_minds_a_scale_from_what_does_not() -> None:
    torch.manual_seed(0)
    x, weight, scale = torch.randn(50, 32), torch.randn(8, 32), trial_scale(32)
    for function, minds in [
        (F.relu, False), (lambda x: F.leaky_relu(x, 0.1), False), (torch.abs, False),
        (F.gelu, True), (torch.tanh, True), (F.relu6, True), (F.silu, True), (lambda x: x + 1, True),
        (lambda x: x.round(decimals=1), True),
    ]:  # fmt: skip
        same = unchanged(function(x) @ weight.T, function(x / scale) @ (weight * scale).T)
        assert same is not minds


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_a_scale_can_be_taken_out_of_rows_only_where_each_has_its_own(layout: Layout) -> None:
    torch.manual_seed(0)
    weight = torch.randn(layout.shape)

    def alike(weight: Tensor, _: Tensor) -> Tensor:
        scale = weight.abs().max() / 3
        return (weight / scale).round() * scale

    assert keeps_rows(weight, layout, nearest)
    assert not keeps_rows(weight, layout, alike)
