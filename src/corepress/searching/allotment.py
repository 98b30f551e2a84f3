"""The choice under a budget: one candidate for each item, so that their sizes fit and their damages sum up to least.

This is the multiple-choice knapsack problem. For a price of bytes, each item alone takes the candidate with the least
damage + price * size (Everett 1963, "Generalized Lagrange multiplier method"); as the price falls, items step along the
lower convex hulls of their (size, damage) points, the steepest step of all first. That is the optimum for every budget
that a step ends at. In between, what is left is filled with the candidates off the hulls that still fit. The result is
above the optimum by less than the damage of one step, the first that did not fit.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from corepress.searching.subject import Choice

# For each item, for each candidate: what it costs. Infinite damage stands for one that can't be had.
Table = Sequence[Sequence[float]]


def hull(sizes: Sequence[float], damages: Sequence[float]) -> list[int]:
    """The candidates of one item on the lower convex hull of (size, damage), from the smallest to the least damage."""
    order = sorted(range(len(sizes)), key=lambda index: (sizes[index], damages[index]))
    kept: list[int] = []
    for index in order:
        if damages[index] == float("inf") or (kept and damages[index] >= damages[kept[-1]]):
            continue
        while len(kept) > 1 and _slope(sizes, damages, kept[-2], kept[-1]) <= _slope(sizes, damages, kept[-2], index):
            kept.pop()
        kept.append(index)
    return kept


def _slope(sizes: Sequence[float], damages: Sequence[float], one: int, other: int) -> float:
    """The damage that a byte takes away between two candidates."""
    return (damages[one] - damages[other]) / (sizes[other] - sizes[one])


def least(sizes: Table, damages: Table) -> float:
    """The smallest size that any choice has."""
    return sum(
        min(size for size, damage in zip(*pair, strict=True) if damage < float("inf"))
        for pair in zip(sizes, damages, strict=True)
    )


def steps(sizes: Table, damages: Table) -> list[tuple[float, Choice]]:
    """All choices that are best for some price of a byte, with their size: from the smallest to the largest."""
    hulls = [hull(*pair) for pair in zip(sizes, damages, strict=True)]
    choice = [path[0] for path in hulls]
    size = total(sizes, choice)
    found = [(size, tuple(choice))]
    waiting = [_next_step(sizes, damages, item, hulls[item], 0) for item in range(len(hulls)) if len(hulls[item]) > 1]
    heapq.heapify(waiting)
    while waiting:
        _, item, place = heapq.heappop(waiting)
        path = hulls[item]
        size += sizes[item][path[place + 1]] - sizes[item][path[place]]
        choice[item] = path[place + 1]
        found.append((size, tuple(choice)))
        if place + 2 < len(path):
            heapq.heappush(waiting, _next_step(sizes, damages, item, path, place + 1))
    return found


def _next_step(sizes: Table, damages: Table, item: int, path: list[int], place: int) -> tuple[float, int, int]:
    """How steep the step of an item from a place on its hull is, the steepest first in a heap."""
    return -_slope(sizes[item], damages[item], path[place], path[place + 1]), item, place


def allot(sizes: Table, damages: Table, budget: float, costs: Table | None = None) -> Choice | None:
    """The choice of least damage whose size is not above the budget; None where there is none.

    Args:
        sizes: Bytes of each candidate of each item.
        damages: What each of them does; infinite for one that can't be had.
        budget: Bytes.
        costs: What a candidate costs in the choice, if that is something else than its bytes.

    Returns:
        The index of the candidate of each item.
    """
    path = [choice for _, choice in steps(costs or sizes, damages)]
    within = [choice for choice in path if total(sizes, choice) <= budget]
    if not within:
        return None
    return _filled(sizes, damages, list(within[-1]), budget)


def total(table: Table, choice: Sequence[int]) -> float:
    """The sum over the items of what a choice has."""
    return sum(row[index] for row, index in zip(table, choice, strict=True))


def _filled(sizes: Table, damages: Table, choice: list[int], budget: float) -> Choice:
    """Take, again and again, the single change that takes away most damage and still fits."""
    left = budget - total(sizes, choice)
    while True:
        gains = [
            (damages[item][now] - damage, item, index)
            for item, now in enumerate(choice)
            for index, (size, damage) in enumerate(zip(sizes[item], damages[item], strict=True))
            if size - sizes[item][now] <= left and damage < damages[item][now]
        ]
        if not gains:
            return tuple(choice)
        _, item, index = max(gains)
        left -= sizes[item][index] - sizes[item][choice[item]]
        choice[item] = index
