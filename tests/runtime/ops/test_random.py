"""Draws are judged by their distribution: means and variances of 20,000 with a seed, to five standard errors or so."""

from __future__ import annotations

import numpy as np
import pytest

import corepress.runtime.ops.random  # noqa: F401 - fills the registry
from tests.runtime.oracle_ops import run

N = 20_000
DRAWS = {
    "random_bernoulli": {"shape": [3, 5]},
    "random_normal": {"shape": [3, 5]},
    "random_uniform": {"shape": [3, 5]},
    "random_categorical": {"x": np.zeros((3, 40), np.float32), "size": 5},
}


@pytest.mark.parametrize("name", DRAWS)
def test_seeds(name):
    first, again, other = (run(name, **DRAWS[name], seed=seed) for seed in (7, 7, 8))
    assert first.shape == (3, 5) and first.dtype == np.float32
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    draws = [run(name, **DRAWS[name]) for _ in range(3)]
    assert (draws[0] != draws[1]).any() or (draws[0] != draws[2]).any()


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_bernoulli(dtype):
    drawn = run("random_bernoulli", shape=[N], prob=np.array(0.3, dtype), seed=1)
    assert drawn.dtype == dtype
    assert set(np.unique(drawn)) == {0, 1}
    assert abs(drawn.astype(float).mean() - 0.3) < 0.02
    for sure in (0, 1):
        assert (run("random_bernoulli", shape=[999], prob=np.array(sure, dtype)) == sure).all()


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_normal(dtype):
    drawn = run("random_normal", shape=[N], mean=np.array(2, dtype), stddev=np.array(0.5, dtype), seed=1)
    assert drawn.dtype == dtype
    assert abs(drawn.astype(float).mean() - 2) < 0.02
    assert abs(drawn.astype(float).std() - 0.5) < 0.02
    plain = run("random_normal", shape=[N // 10, 10], seed=1)
    np.testing.assert_allclose(drawn.astype(float), plain.ravel() * 0.5 + 2, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_uniform(dtype):
    drawn = run("random_uniform", shape=[N], low=np.array(-1, dtype), high=np.array(3, dtype), seed=1)
    assert drawn.dtype == dtype
    assert drawn.min() >= -1 and drawn.max() < 3
    assert abs(drawn.astype(float).mean() - 1) < 0.05
    assert abs(drawn.astype(float).std() - 4 / 12**0.5) < 0.03
    assert len(np.unique(drawn)) > 3000
    assert (run("random_uniform", shape=[9], low=np.array(2, dtype), high=np.array(2, dtype)) == 2).all()


def test_one_parameter_sets_the_type_of_the_other():
    assert run("random_uniform", shape=[3], high=np.float16(2)).dtype == np.float16
    assert run("random_normal", shape=[3], mean=np.float16(2)).dtype == np.float16


@pytest.mark.parametrize("mode", ["logits", "probs"])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_categorical(mode, dtype):
    chances = np.array([[0, 0.5, 0.2, 0.3, 0], [1, 0, 0, 0, 0]])
    with np.errstate(divide="ignore"):
        x = (np.log(chances) if mode == "logits" else chances).astype(dtype)
    drawn = run("random_categorical", x=x, mode=mode, size=N, seed=3)
    assert drawn.dtype == dtype and drawn.shape == (2, N)
    for row, expected in zip(drawn, chances, strict=True):
        found = np.bincount(row.astype(int), minlength=5) / N
        np.testing.assert_allclose(found, expected, atol=0.02)
        assert (found[expected == 0] == 0).all()


def test_categorical_of_one_or_three_dimensions():
    assert run("random_categorical", x=np.zeros(4, np.float32)).shape == (1,)
    assert run("random_categorical", x=np.zeros((2, 3, 4), np.float32), size=2).shape == (2, 3, 2)
