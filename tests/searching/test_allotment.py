"""The choice under a budget, against all choices that there are."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corepress.searching.allotment import allot, hull, least, steps, total

NUMBERS = st.integers(0, 60)
ITEM = st.lists(st.tuples(st.integers(1, 60), NUMBERS), min_size=1, max_size=5)
PROBLEM = st.lists(ITEM, min_size=1, max_size=5)


def tables(problem):
    sizes = [[float(size) for size, _ in item] for item in problem]
    damages = [[float(damage) for _, damage in item] for item in problem]
    return sizes, damages


def best(sizes, damages, budget):
    """The least damage of all choices that fit, by trying all."""
    choices = itertools.product(*(range(len(row)) for row in sizes))
    return min((total(damages, c) for c in choices if total(sizes, c) <= budget), default=None)


@given(PROBLEM, st.integers(0, 320))
def test_it_is_the_best_of_all_choices(problem, budget):
    sizes, damages = tables(problem)
    choice, expected = allot(sizes, damages, budget), best(sizes, damages, budget)
    if expected is None:
        assert choice is None
        return
    assert total(sizes, choice) <= budget
    assert total(damages, choice) == expected


@given(PROBLEM, st.integers(0, 320))
def test_of_many_items_none_could_be_changed_for_the_better(problem, budget):
    # So many items that only some of them are chosen anew.
    sizes, damages = tables(problem * 40)
    budget *= 40
    choice = allot(sizes, damages, budget)
    if choice is None:
        assert least(sizes, damages) > budget
        return
    left = budget - total(sizes, choice)
    assert left >= 0
    for item, now in enumerate(choice):
        for size, damage in zip(sizes[item], damages[item], strict=True):
            assert damage >= damages[item][now] or size - sizes[item][now] > left


@given(PROBLEM)
def test_every_step_is_the_optimum_for_its_own_size(problem):
    sizes, damages = tables(problem)
    path = steps(sizes, damages)
    assert [size for size, _ in path] == sorted(size for size, _ in path)
    for size, choice in path:
        assert size == total(sizes, choice)
        assert total(damages, choice) == best(sizes, damages, size)


def test_a_hull_leaves_out_what_a_mixture_of_others_beats():
    assert hull([1, 2, 3, 4], [10, 9, 2, 3]) == [0, 2]
    assert hull([4, 1], [math.inf, 5]) == [1]


def test_what_cannot_be_had_is_never_chosen():
    sizes, damages = [[1.0, 2.0], [1.0, 5.0]], [[math.inf, 3.0], [1.0, 0.0]]
    assert least(sizes, damages) == 3
    assert allot(sizes, damages, 2) is None
    assert allot(sizes, damages, 100) == (1, 1)


@pytest.mark.parametrize("price", [1.0, 4.0])
def test_what_costs_more_than_its_bytes_is_chosen_later(price):
    sizes, damages = [[1.0, 2.0], [1.0, 2.0]], [[9.0, 4.0], [9.0, 5.0]]
    costs = [[1.0, 1.0 + price], [1.0, 2.0]]
    assert allot(sizes, damages, 3, costs) == ((1, 0) if price == 1 else (0, 1))
