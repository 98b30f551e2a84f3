"""Samples to learn from and samples to judge by are never the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from corepress import hold_back
from corepress.errors import ConfigError
from corepress.split import digest


def made(count: int, seed: int = 0) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    return [{"x": rng.normal(size=(2, 3)), "ids": np.arange(number, number + 2)} for number in range(count)]


@pytest.mark.parametrize(("count", "held"), [(0, 0), (4, 0), (5, 1), (9, 1), (10, 2), (64, 12), (100, 20)])
def test_a_fifth_is_held_back_and_nothing_is_lost(count: int, held: int) -> None:
    given = made(count)
    learnt, judged = hold_back(iter(given))
    assert len(judged) == held and len(learnt) == count - held
    places = [[id(sample) for sample in given].index(id(sample)) for sample in (*learnt, *judged)]
    assert sorted(places) == list(range(count))
    assert places[: len(learnt)] == sorted(places[: len(learnt)])


def test_equal_samples_stay_together_whatever_their_order() -> None:
    given = made(20)
    copies = [{name: array.copy() for name, array in given[number % 20].items()} for number in range(60)]
    learnt, judged = hold_back(copies)
    assert len(judged) == 3 * 4 and not {digest(s) for s in learnt} & {digest(s) for s in judged}
    rng = np.random.default_rng(1)
    again = hold_back([copies[number] for number in rng.permutation(60)])[1]
    assert {digest(sample) for sample in again} == {digest(sample) for sample in judged}
    # One sample a hundred times says no more than once.
    assert hold_back([given[0]] * 100) == ([given[0]] * 100, [])


@pytest.mark.parametrize("part", [0.0, 0.1, 0.29, 0.5, 0.75])
def test_the_part(part: float) -> None:
    assert len(hold_back(made(100), part)[1]) == round(100 * part)


@pytest.mark.parametrize("part", [-0.1, 1, 2.5, float("nan")])
def test_parts_that_make_no_sense(part: float) -> None:
    with pytest.raises(ConfigError, match="from 0 to below 1"):
        hold_back(made(10), part)


def test_what_counts_as_equal() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    same = [{"x": array}, {"x": torch.from_numpy(array)}, {"x": np.asfortranarray(array)}]
    assert len({digest(sample) for sample in same}) == 1
    others = [{"y": array}, {"x": array.T}, {"x": array.astype(np.float64)}, {"x": array + 1}, {"x": array, "y": 0}]
    assert len({digest(sample) for sample in (*same, *others)}) == 6
    with pytest.raises(ConfigError, match="sample 1 of sample_data must be a dictionary"):
        hold_back([{"x": array}, array])  # type: ignore[list-item]
