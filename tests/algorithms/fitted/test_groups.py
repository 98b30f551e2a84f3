"""Grouped convolutions: all groups at once are what each of them is alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from corepress.algorithms.fitted.gptq import gptq
from corepress.algorithms.fitted.hessian import Hessian, factorize
from corepress.algorithms.fitted.lut_gptq import palettize_by_hessian
from corepress.algorithms.fitted.sparsegpt import sparsegpt
from corepress.algorithms.palettize import palettize
from corepress.errors import ConfigError, CorepressError


def layer(groups: int, rows: int, columns: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """The matrices of a weight, and the Hessians of their inputs."""
    random = torch.Generator().manual_seed(seed)
    mixing = torch.randn(groups, columns, columns, generator=random) / columns**0.5 + 0.3 * torch.eye(columns)
    inputs = torch.randn(groups, 4 * columns + 30, columns, generator=random) @ mixing
    hessian = Hessian(columns, groups)
    hessian.add(inputs)
    return torch.randn(groups, rows, columns, generator=random) * 0.05, hessian.matrix


def errors(weight: torch.Tensor, form, hessian: torch.Tensor) -> torch.Tensor:
    """The squared error of each row of each group."""
    change = torch.from_numpy(np.asarray(form.decompress(), np.float64)).reshape(weight.shape) - weight.double()
    return ((change @ hessian.double()) * change).sum(-1)


@pytest.mark.parametrize("shape", [(7, 1, 9), (3, 4, 40), (2, 70, 12)], ids=str)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"symmetric": False},
        {"by_activation": True},
        {"by_activation": True, "block": True},
        {"block": True},
        {"block": True, "scale_search": True},
        {"normal_float": True, "scale_search": True},
    ],
    ids=str,
)
def test_gptq(shape, options) -> None:
    weight, hessian = layer(*shape)
    how = {key: value for key, value in options.items() if key != "block"} | {"bits": 4, "processing_group_size": 16}
    if options.get("block"):
        how["block_size"] = max(size for size in (3, 4, 10) if shape[2] % size == 0)
    together = gptq(weight, hessian, **how)
    apart = [gptq(*pair, **how) for pair in zip(weight, hessian, strict=True)]
    np.testing.assert_allclose(together.scale, np.concatenate([form.scale for form in apart]), rtol=1e-3)
    # A kernel and PyTorch may round what is halfway between two levels differently, and what follows with it.
    found, wanted = together.decompress(), np.concatenate([form.decompress() for form in apart])
    assert np.isclose(found, wanted, atol=1e-5).mean() > 0.98


def test_one_scale_serves_all_groups() -> None:
    weight, hessian = layer(6, 1, 9)
    form = gptq(weight, hessian, bits=4, per_tensor=True)
    assert len(np.unique(form.scale)) == 1
    rounded = gptq(weight, torch.eye(9).expand(6, 9, 9).contiguous(), bits=4, per_tensor=True)
    assert errors(weight, form, hessian).sum() < 0.8 * errors(weight, rounded, hessian).sum()


@pytest.mark.parametrize("shape", [(7, 1, 12), (2, 70, 24)], ids=str)
def test_sparsegpt_along_rows(shape) -> None:
    weight, hessian = layer(*shape)
    together = sparsegpt(weight, hessian, n_m_ratio=(2, 4), processing_group_size=8)
    apart = [sparsegpt(*pair, n_m_ratio=(2, 4), processing_group_size=8) for pair in zip(weight, hessian, strict=True)]
    wanted = np.concatenate([form.decompress() for form in apart])
    assert np.isclose(together.decompress(), wanted, atol=1e-5).mean() > 0.98


def test_sparsegpt_prunes_in_the_groups_that_cost_least() -> None:
    weight, hessian = layer(8, 1, 9)
    hessian[:4] *= 1e4
    mask = sparsegpt(weight, hessian, sparsity=0.5).mask.reshape(8, 9)
    assert mask[:4].mean() > 0.9 and mask[4:].mean() < 0.1
    assert abs(float(mask.mean()) - 0.5) < 0.02


def test_lut_gptq_with_a_table_for_each_group_is_that_of_each_group() -> None:
    weight, hessian = layer(5, 4, 9)
    matrix, how = weight.reshape(-1, 9).numpy(), {"bits": 2, "group_size": 4, "rounds": 1}
    together = palettize_by_hessian(matrix, hessian.numpy(), **how)
    apart = [palettize_by_hessian(*pair, **how) for pair in zip(weight.numpy(), hessian.numpy(), strict=True)]
    np.testing.assert_array_equal(together.indices, np.concatenate([form.indices for form in apart]))
    np.testing.assert_allclose(together.lut, np.concatenate([form.lut for form in apart]), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("bits", [2, 4])
def test_lut_gptq_with_one_table_for_a_depthwise_layer(bits) -> None:
    weight, hessian = layer(96, 1, 9)
    hessian *= torch.logspace(-2, 2, 96)[:, None, None]
    matrix = weight.reshape(-1, 9).numpy()
    form, plain = palettize_by_hessian(matrix, hessian.numpy(), bits), palettize(matrix, bits)
    assert form.lut.shape == plain.lut.shape
    assert errors(weight, form, hessian).sum() < 0.6 * errors(weight, plain, hessian).sum()


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 5), st.integers(1, 12), st.booleans(), st.integers(0, 1000))
def test_factors_are_those_of_each_group(groups, columns, by_activation, seed) -> None:
    _, hessian = layer(groups, 1, columns, seed)
    hessian[0, columns // 2] = hessian[0, :, columns // 2] = 0
    together = factorize(hessian, by_activation=by_activation)
    for group, matrix in enumerate(hessian):
        alone = factorize(matrix, by_activation=by_activation)
        assert torch.equal(together.upper[group], alone.upper) and torch.equal(together.diagonal[group], alone.diagonal)
        assert together.order is None or torch.equal(together.order[group], alone.order)


def test_only_the_group_that_needs_it_is_dampened_more() -> None:
    _, hessian = layer(3, 1, 6)
    hessian[1] = 1  # of rank 1
    together = factorize(hessian, dampening=0.0)
    assert torch.isfinite(together.upper).all()
    for group in (0, 2):
        assert torch.equal(together.upper[group], factorize(hessian[group], dampening=0.0).upper)
    hessian[1] = -1
    with pytest.raises(CorepressError, match="Cholesky"):
        factorize(hessian)


def test_vectors_do_not_span_groups() -> None:
    weight, hessian = layer(4, 3, 9)
    with pytest.raises(ConfigError, match="vectors of 2 don't divide"):
        palettize_by_hessian(weight.reshape(-1, 9).numpy(), hessian.numpy(), 2, cluster_dim=2)
