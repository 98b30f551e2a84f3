"""Tables of vectors that are fitted to inputs, at the same bits beside tables of numbers, and beside those without data
(van Baalen et al. 2024, "GPTVQ", arXiv 2402.15319)."""

from __future__ import annotations

import numpy as np
import pytest

from corepress.algorithms.palettize import palettize
from tests.lazy import lazy

fitted = lazy("corepress.algorithms.fitted.lut_gptq")


def layer(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A weight (rows, columns) and the products of inputs that depend on each other."""
    rng = np.random.default_rng(seed)
    inputs = rng.standard_normal((96, 512)) * np.exp(rng.standard_normal((96, 1)))
    inputs += 2 * rng.standard_normal((96, 4)) @ rng.standard_normal((4, 512))
    return (rng.standard_normal((128, 96)) * 0.05).astype(np.float32), (inputs @ inputs.T / 512).astype(np.float32)


def lost(weight: np.ndarray, hessian: np.ndarray, form) -> float:
    difference = (weight - form.decompress()).astype(np.float64)
    return float(np.einsum("ij,jk,ik->", difference, hessian, difference))


@pytest.mark.parametrize("seed", [0, 1])
def test_vectors_lose_less_than_numbers_of_as_many_bits(seed: int) -> None:
    weight, hessian = layer(seed)
    numbers = fitted.palettize_by_hessian(weight, hessian, 2)
    pairs = fitted.palettize_by_hessian(weight, hessian, 4, cluster_dim=2)
    assert 8 * (pairs.nbytes - pairs.lut.nbytes) == 2 * weight.size == 8 * (numbers.nbytes - numbers.lut.nbytes)
    assert lost(weight, hessian, pairs) < 0.9 * lost(weight, hessian, numbers)


@pytest.mark.parametrize(("bits", "dim"), [(4, 2), (3, 2), (6, 4)])
def test_vectors_that_are_fitted_lose_less_than_those_that_are_not(bits: int, dim: int) -> None:
    weight, hessian = layer(2)
    plain = palettize(weight, bits, cluster_dim=dim)
    found = fitted.palettize_by_hessian(weight, hessian, bits, cluster_dim=dim)
    assert lost(weight, hessian, found) < 0.5 * lost(weight, hessian, plain)
