"""GPTQ against its paper's equations, taken literally: the inverse Hessian, updated after each column."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from corepress.algorithms.fitted.gptq import gptq
from corepress.algorithms.fitted.grid import Grid
from corepress.algorithms.fitted.hessian import Hessian, factorize
from corepress.algorithms.fitted.sweep import settle_in_kernel, settle_in_torch
from corepress.errors import ConfigError, CorepressError


def layer(rows=24, columns=48, samples=400, seed=0):
    """A weight, correlated inputs, and their Hessian."""
    random = torch.Generator().manual_seed(seed)
    mixing = torch.randn(columns, columns, generator=random) / columns**0.5 + 0.3 * torch.eye(columns)
    inputs = torch.randn(samples, columns, generator=random) @ mixing
    hessian = Hessian(columns)
    for part in inputs.split(150):
        hessian.add(part)
    return torch.randn(rows, columns, generator=random) * 0.05, inputs, hessian.matrix[0]


def output_error(weight, form, inputs):
    change = torch.from_numpy(form.decompress()).double() - weight.double()
    return float((inputs.double() @ change.T).square().sum())


def literal(weight, hessian, round_column, order=None, dampening=0.01):
    """Equations 2 and 3 of arXiv 2210.17323 in float64: round a column, spread its error, strike it out of H^-1."""
    weight, hessian = weight.double().numpy().copy(), hessian.double().numpy().copy()
    hessian += dampening * np.diag(hessian).mean() * np.eye(len(hessian))
    inverse = np.linalg.inv(hessian)
    for c in range(len(hessian)) if order is None else order:
        rounded = round_column(weight, c)
        error = (weight[:, c] - rounded) / inverse[c, c]
        weight -= np.outer(error, inverse[c])
        weight[:, c] = rounded
        inverse = inverse - np.outer(inverse[:, c], inverse[c]) / inverse[c, c]
        inverse[c, :] = inverse[:, c] = 0
        inverse[c, c] = 1
    return weight


def to_grid(form):
    """Rounding to the scales and zero points that a form has, of any block."""
    spread = weight_like(form, form.scale), weight_like(form, form.offset)

    def round_column(weight, c):
        scale, zero = spread[0][:, c].astype(np.float64), spread[1][:, c].astype(np.float64)
        top = 15 if form.bits == 4 else 255
        whole = np.rint(zero)
        return scale * (np.clip(np.rint(weight[:, c] / scale + zero - whole) + whole, 0, top) - zero)

    return round_column


def weight_like(form, blocks):
    return np.repeat(blocks, form.shape[1] // blocks.shape[1], axis=1)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(
    "options",
    [
        {"bits": 4},
        {"bits": 8},
        {"bits": 4, "processing_group_size": 16},
        {"bits": 4, "per_tensor": True},
        {"bits": 4, "block_size": 12, "static_blocks": True},
        {"bits": 4, "by_activation": True},
        {"bits": 4, "by_activation": True, "block_size": 12},
        {"bits": 4, "scale_search": True},
    ],
    ids=str,
)
def test_is_what_the_equations_say(options, symmetric) -> None:
    weight, _, hessian = layer()
    form = gptq(weight, hessian, symmetric=symmetric, **options)
    order = torch.argsort(hessian.diagonal(), descending=True).tolist() if options.get("by_activation") else None
    wanted = literal(weight, hessian, to_grid(form), order)
    # Two values halfway between levels may go either way in float32.
    assert np.isclose(form.decompress(), wanted, atol=1e-6).mean() > 0.98


def test_normal_float_is_what_the_equations_say() -> None:
    weight, _, hessian = layer()
    for bits in (3, 4):
        form = gptq(weight, hessian, bits=bits, normal_float=True)
        palette, scale = form.data.lut.reshape(-1).astype(np.float64), form.scale[:, 0].astype(np.float64)

        def nearest(weight, c, palette=palette, scale=scale):
            return scale * palette[np.abs(weight[:, c, None] / scale[:, None] - palette).argmin(axis=1)]

        assert np.isclose(form.decompress(), literal(weight, hessian, nearest), atol=1e-6).mean() > 0.98
        np.testing.assert_allclose(scale, weight.abs().amax(dim=1))


@pytest.mark.parametrize("options", [{}, {"block_size": 12, "static_blocks": True}, {"scale_search": True}], ids=str)
def test_zero_points_with_a_fraction_are_what_the_equations_say(options) -> None:
    weight, _, hessian = layer()
    form = gptq(weight + 0.3 * weight.std(), hessian, bits=4, symmetric=False, float_zero=True, **options)
    assert form.offset.dtype == np.float32 and (form.offset != np.rint(form.offset)).mean() > 0.9
    wanted = literal(weight + 0.3 * weight.std(), hessian, to_grid(form), None)
    assert np.isclose(form.decompress(), wanted, atol=1e-6).mean() > 0.98


def test_weights_that_were_quantized_before_come_back() -> None:
    """Each block of 16 on a grid of its own, of 16 values that 0 is not among, nor always both ends."""
    _, inputs, hessian = layer(columns=64)
    random = np.random.default_rng(0)
    levels = random.integers(0, 16, (24, 4, 16))
    scale, low = (random.uniform(*ends, (24, 4, 1)).astype(np.float16) for ends in ((0.03, 0.1), (-1, 0.5)))
    weight = torch.from_numpy((levels * scale.astype(np.float32) + low).reshape(24, 64))
    how = {"bits": 4, "symmetric": False, "block_size": 16, "by_activation": True, "scale_search": True}
    form = gptq(weight.half(), hessian, float_zero=True, **how)
    np.testing.assert_array_equal(form.data.reshape(levels.shape), levels - levels.min(-1, keepdims=True))
    # A weight of up to 2, and an offset of up to 32 steps of up to 0.1: each rounded to a float16.
    np.testing.assert_allclose(form.decompress(), weight, atol=2**-11 * 2 + 2**-7 * 0.1)
    assert output_error(weight, form, inputs) < 1e-3 * output_error(weight, gptq(weight, hessian, **how), inputs)


def test_blocks_get_the_range_of_what_is_to_be_rounded() -> None:
    weight, inputs, hessian = layer(columns=64)
    moving = gptq(weight, hessian, bits=4, block_size=16, processing_group_size=16)
    static = gptq(weight, hessian, bits=4, block_size=16, static_blocks=True)
    assert moving.scale.shape == static.scale.shape == (24, 4)
    assert np.array_equal(moving.scale[:, 0], static.scale[:, 0])
    assert not np.isclose(moving.scale[:, 3], static.scale[:, 3]).any()
    # A block that is longer than a processing group, and not a multiple of it.
    wide = gptq(weight, hessian, bits=4, block_size=32, processing_group_size=24)
    assert output_error(weight, wide, inputs) < 1.5 * output_error(weight, static, inputs)


@pytest.mark.parametrize("options", [{}, {"block_size": 16}, {"symmetric": False}, {"normal_float": True}], ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_beats_rounding_to_nearest(options, seed) -> None:
    weight, inputs, hessian = layer(seed=seed)
    uncorrelated = torch.diag(hessian.diagonal())
    error = output_error(weight, gptq(weight, hessian, bits=4, **options), inputs)
    assert error < 0.7 * output_error(weight, gptq(weight, uncorrelated, bits=4, **options), inputs)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"normal_float": True},
        {"symmetric": False},
        {"block_size": 16},
        {"by_activation": True},
        {"per_tensor": True},
    ],
    ids=str,
)
def test_scale_search_makes_no_row_worse_and_most_better(options, seed) -> None:
    weight, _, hessian = layer(rows=64, seed=seed)
    hessian[7] = hessian[:, 7] = 0  # what happens in a dead column doesn't count
    damped = hessian.double() + 0.01 * hessian.diagonal().mean() * torch.eye(48)
    damped[7] = damped[:, 7] = 0
    errors = []
    for search in (False, True):
        form = gptq(weight, hessian, bits=3, scale_search=search, **options)
        change = torch.from_numpy(form.decompress()).double() - weight.double()
        errors.append(((change @ damped) * change).sum(1))
    plain, searched = (error.sum(0, keepdim=True) if options.get("per_tensor") else error for error in errors)
    assert (searched <= plain * 1.001).all()
    assert (searched < plain * 0.999).double().mean() > 0.5
    assert searched.sum() < 0.95 * plain.sum()


@pytest.mark.slow
def test_uncorrelated_inputs_mean_rounding_to_nearest_on_the_grid_of_coremltools() -> None:
    from coremltools.optimize.torch.layerwise_compression._quant import Quantizer

    weight, _, _ = layer()
    for symmetric in (True, False):
        form = gptq(weight, torch.eye(48), bits=4, symmetric=symmetric)
        peer = Quantizer(4, per_channel=True, symmetric=symmetric)
        peer.find_params(weight, weight=True)
        np.testing.assert_array_equal(form.scale, peer.scale.numpy())
        np.testing.assert_array_equal(form.offset, peer.zero_point.numpy())
        np.testing.assert_allclose(form.decompress(), peer.quantize(weight).numpy(), rtol=1e-6)


def test_a_symmetric_block_of_positive_weights_is_not_clipped() -> None:
    # coremltools gives it half the scale that it needs.
    weight = torch.rand(8, 16) + 0.1
    form = gptq(weight, torch.eye(16), bits=8)
    assert np.abs(form.decompress() - weight.numpy()).max() <= form.scale.max()


def test_kernel_and_torch_settle_alike() -> None:
    weight, _, hessian = layer(rows=130, columns=40)
    inverse = torch.linalg.inv(factorize(hessian).upper).triu()
    for normal_float, n_m in [(False, (0, 0)), (True, (0, 0)), (False, (2, 4)), (None, (1, 3))]:
        grid = None if normal_float is None else Grid(weight, bits=4, normal_float=normal_float, block_size=20)
        results = []
        for settle in (settle_in_kernel, settle_in_torch):
            target = weight.T.clone(memory_format=torch.contiguous_format)
            kept = torch.ones_like(target, dtype=torch.bool)
            levels = torch.zeros(target.shape if grid else (40, 0), dtype=torch.uint8)
            masks = kept[None] if n_m[1] else None
            settle(target[None], inverse[None], masks, n_m, grid, slice(0, 40), levels[None])
            results.append((target, kept))
        (one, kept_one), (two, kept_two) = results
        assert (kept_one == kept_two).float().mean() > 0.999
        assert torch.isclose(one, two, atol=1e-5).float().mean() > 0.999


def test_zeros_that_must_stay_do() -> None:
    weight, _, hessian = layer()
    keep = torch.rand(weight.shape) > 0.5
    form = gptq(weight * keep, hessian, bits=4, keep=keep)
    assert (form.decompress()[~keep.numpy()] == 0).all()


def test_float16_weights_get_float16_scales() -> None:
    weight, inputs, hessian = layer()
    form = gptq(weight.half(), hessian, bits=4)
    assert form.scale.dtype == np.float16
    assert output_error(weight, form, inputs) < 1.1 * output_error(weight, gptq(weight, hessian, bits=4), inputs)


def test_hessian_is_the_mean_over_all_batches_and_a_factor_takes_it_apart() -> None:
    _, inputs, hessian = layer()
    np.testing.assert_allclose(hessian, 2 / len(inputs) * inputs.T @ inputs, rtol=1e-4, atol=1e-5)
    factor = factorize(hessian, 0.0)
    product = factor.upper
    assert torch.equal(product, product.triu())
    np.testing.assert_allclose(product @ product.T, hessian, rtol=1e-3, atol=1e-4)
    # Its inverse is the U of the paper: H^-1 = U^T U.
    upper = torch.linalg.inv(factorize(hessian, 0.01).upper.double())
    damped = hessian.double() + 0.01 * hessian.diagonal().mean() * torch.eye(48)
    np.testing.assert_allclose(upper.T @ upper, torch.linalg.inv(damped), rtol=1e-3, atol=1e-3)


def test_hard_hessians() -> None:
    weight, inputs, _ = layer()
    few = Hessian(48)
    few.add(inputs[:3])
    for dampening in (0.0, 1e-9, 0.01):  # of rank 3: dampened until it works
        form = gptq(weight, few.matrix[0], bits=4, dampening=dampening)
        assert np.isfinite(form.decompress()).all()
    dead = Hessian(48)
    dead.add(inputs * (torch.arange(48) != 7))
    values = gptq(weight, dead.matrix[0], bits=8).decompress()
    np.testing.assert_allclose(values[:, 7], weight[:, 7], atol=1e-3)  # kept: it may be alive elsewhere
    with pytest.raises(CorepressError, match="Cholesky"):
        gptq(weight, -torch.eye(48) * 1e6 + 1)
    with pytest.raises(CorepressError, match="NaN"):
        gptq(weight, torch.full((48, 48), torch.nan))
    with pytest.raises(CorepressError, match="infinities"):
        gptq(weight / 0, few.matrix[0])
    with pytest.raises(ConfigError, match="blocks of 7 don't divide"):
        gptq(weight, few.matrix[0], block_size=7)
    with pytest.raises(ConfigError, match="3 or 4 bits"):
        gptq(weight, few.matrix[0], bits=8, normal_float=True)
