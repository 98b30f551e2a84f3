"""SparseGPT against its paper's equations, taken literally."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from corepress.algorithms.fitted.sparsegpt import sparsegpt
from corepress.errors import ConfigError
from tests.algorithms.fitted.test_gptq import layer, literal, output_error


def conditional_diagonal(hessian, dampening=0.01):
    """The diagonal of H^-1 at each column, once those before it are settled."""
    hessian = hessian.double().numpy() + dampening * hessian.diagonal().mean().item() * np.eye(len(hessian))
    return np.array([np.linalg.inv(hessian[c:, c:])[0, 0] for c in range(len(hessian))])


def pruning(diagonal, group, choose):
    """Rounds to zero what `choose` picks of the costs (arXiv 2301.00774, equation 3) of each group of columns."""
    pruned = {}

    def round_column(weight, c):
        if c % group == 0:
            pruned[c // group] = choose(weight[:, c : c + group] ** 2 / diagonal[c : c + group])
        return np.where(pruned[c // group][:, c % group], 0, weight[:, c])

    return round_column


@pytest.mark.parametrize("sparsity", [0.25, 0.5, 0.8])
def test_unstructured_is_what_the_equations_say(sparsity) -> None:
    weight, _, hessian = layer(columns=64)
    form = sparsegpt(weight, hessian, sparsity=sparsity, processing_group_size=32)

    def cheapest(cost):
        return cost <= np.sort(cost, axis=None)[int(cost.size * sparsity)]

    wanted = literal(weight, hessian, pruning(conditional_diagonal(hessian), 32, cheapest))
    assert (form.mask == (wanted != 0)).mean() > 0.995
    assert np.isclose(form.decompress(), wanted, atol=1e-4).mean() > 0.98
    assert 1 - form.mask.mean() == pytest.approx(sparsity + 1 / (24 * 32), abs=1e-3)


@pytest.mark.parametrize("n_m", [(2, 4), (1, 3), (4, 8)])
def test_n_m_is_exact_and_what_the_equations_say(n_m) -> None:
    weight, _, hessian = layer(columns=48)
    n, m = n_m
    form = sparsegpt(weight, hessian, n_m_ratio=n_m, processing_group_size=20)

    def cheapest(cost):
        return cost.argsort(axis=1).argsort(axis=1) < n

    wanted = literal(weight, hessian, pruning(conditional_diagonal(hessian), m, cheapest))
    assert ((~form.mask).reshape(24, -1, m).sum(axis=2) == n).all()
    assert np.isclose(form.decompress(), wanted, atol=1e-4).mean() > 0.98


@pytest.mark.parametrize("options", [{"sparsity": 0.5}, {"n_m_ratio": (2, 4)}], ids=str)
def test_beats_magnitude(options) -> None:
    weight, inputs, hessian = layer(columns=96)
    options |= {"processing_group_size": 16}
    error = output_error(weight, sparsegpt(weight, hessian, **options), inputs)
    assert error < 0.8 * output_error(weight, sparsegpt(weight, torch.eye(96), **options), inputs)


@pytest.mark.parametrize("options", [{"bits": 8}, {"bits": 4, "symmetric": False}, {"bits": 4, "normal_float": True}])
def test_what_is_kept_may_be_quantized(options) -> None:
    weight, inputs, hessian = layer()
    plain, form = sparsegpt(weight, hessian), sparsegpt(weight, hessian, **options)
    values = form.decompress()
    assert (values[~form.mask] == 0).all() and (values[form.mask] != 0).all()
    assert len(np.unique(values[0])) <= 2 ** options["bits"]
    assert output_error(weight, form, inputs) < 2 * output_error(weight, plain, inputs)


def test_bounds_and_refusals() -> None:
    weight, _, hessian = layer()
    np.testing.assert_allclose(sparsegpt(weight, hessian, sparsity=0.0).decompress(), weight, atol=1e-6)
    assert not sparsegpt(weight, hessian, sparsity=1.0).decompress().any()
    with pytest.raises(ConfigError, match="groups of 5"):
        sparsegpt(weight, hessian, n_m_ratio=(2, 5))


def test_columns_that_never_count_go_first() -> None:
    weight, _, hessian = layer()
    hessian = hessian.clone()
    hessian[5] = hessian[:, 5] = 0
    assert not sparsegpt(weight, hessian).mask[:, 5].any()
