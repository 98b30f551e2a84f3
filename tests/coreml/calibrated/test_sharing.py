"""Zeros asked of all weights together fall where they cost least, and are as many as were asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import corepress
from corepress.coreml import OpMagnitudePrunerConfig, OptimizationConfig, calibrated
from corepress.coreml.calibrated.sharing import shares
from corepress.formats.mlprogram import Model

ROOT = Path(__file__).resolve().parents[3]
DIGITS = ROOT / "examples/digits.mlpackage"


def brute(costs: dict[str, np.ndarray], zeros: int) -> dict[str, int]:
    """One zero after the other, each where it costs least, up to 95 % of a weight; then without those of few zeros."""
    left = {key: sorted(own)[: int(0.95 * len(own))] for key, own in costs.items()}
    while True:
        counts = dict.fromkeys(left, 0)
        for _ in range(zeros):
            open_ones = [key for key in left if counts[key] < len(left[key])]
            if not open_ones:
                break
            counts[min(open_ones, key=lambda key: left[key][counts[key]])] += 1
        few = [key for key, count in counts.items() if count < len(costs[key]) / 16]
        if not few:
            return counts
        left = {key: own for key, own in left.items() if key not in few}


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), sizes=st.lists(st.integers(16, 60), min_size=1, max_size=4),
       part=st.sampled_from([0.2, 0.5, 0.75]))  # fmt: skip
def test_shares_are_those_of_one_zero_after_the_other(seed, sizes, part) -> None:
    random = np.random.default_rng(seed)
    costs = {str(n): random.permutation(10**6)[:size] * 10.0 ** random.integers(-2, 3) for n, size in enumerate(sizes)}
    costs = {key: own + random.random(len(own)) * 1e-3 for key, own in costs.items()}
    found = shares(costs, dict.fromkeys(costs, part))
    wanted = brute(costs, round(part * sum(sizes)))
    assert {key: round(found[key] * len(own)) for key, own in costs.items()} == {
        key: wanted.get(key, 0) for key in costs
    }


def test_elements_that_cost_nothing_are_as_many_as_asked() -> None:
    costs = {"idle": np.zeros(100), "busy": np.arange(1.0, 101)}
    found = shares(costs, dict.fromkeys(costs, 0.25))
    assert found == {"idle": 0.5, "busy": 0.0}
    assert shares({}, {}) == {}


def zeros(model: Model) -> dict[str, float]:
    return {weight.output: float((weight.dense() == 0).mean()) for weight in model.weights()}


def images(first: int, last: int) -> list[dict[str, np.ndarray]]:
    with np.load(ROOT / "examples/digits_test.npz") as file:
        return [{"image": image[None]} for image in file["images"][first:last]]


@pytest.fixture(scope="module")
def pruned() -> dict[str, Model]:
    config = OptimizationConfig(OpMagnitudePrunerConfig(target_sparsity=0.7, weight_threshold=100))
    learnt = images(0, 64)
    return {
        method: calibrated.prune_weights(DIGITS, config, learnt, method=method, held_back=0)
        for method in ("sparsegpt", "sparsegpt-global")
    }


def test_as_many_zeros_in_all_as_were_asked_for_and_nearer_answers(pruned) -> None:
    sizes = {weight.output: weight.dense().size for weight in corepress.load(DIGITS).weights()}
    sizes = {name: size for name, size in sizes.items() if size > 100}
    parts = {method: zeros(model) for method, model in pruned.items()}
    for found in parts.values():
        # SparseGPT takes a number of zeros of every 128 columns, rounded down, and ties go together.
        whole = sum(found[name] * size for name, size in sizes.items()) / sum(sizes.values())
        assert whole == pytest.approx(0.7, abs=0.02)
    own = [parts["sparsegpt-global"][name] for name in sizes]
    assert max(own) - min(own) > 0.1  # or there is nothing to share out
    test = images(64, 164)
    snr = {method: corepress.verify(DIGITS, model, test).worst.snr for method, model in pruned.items()}
    assert snr["sparsegpt-global"] > snr["sparsegpt"] + 1
