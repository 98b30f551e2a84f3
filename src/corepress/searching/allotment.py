"""The choice under a budget: one candidate for each item, so that their sizes fit and their damages sum up to least.

This is the multiple-choice knapsack problem. For a price of bytes, each item alone takes the candidate with the least
damage + price * size (Everett 1963, "Generalized Lagrange multiplier method"); as the price falls, items step along the
lower convex hulls of their (size, damage) points, the steepest step of all first. That is the optimum for every budget
that a step ends at. In between, the items whose steps are nearest to the price are chosen anew by dynamic programming
over all their candidates: up to so many items exactly, and with more of them, whose steps are small, nearly so.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from corepress.searching.subject import Choice

# For each item, for each candidate: what it costs. Infinite damage stands for one that can't be had.
Table = Sequence[Sequence[float]]
# How many items are chosen anew, and how many sums of their sizes and damages are kept on the way.
_UNCLEAR, _SUMS = 64, 4096


def hull(sizes: Sequence[float], damages: Sequence[float]) -> list[int]:
    """The candidates of one item on the lower convex hull of (size, damage), from the smallest to the least damage."""
    order = sorted(range(len(sizes)), key=lambda index: (sizes[index], damages[index]))
    kept: list[int] = []
    for index in order:
        if damages[index] == math.inf or (kept and damages[index] >= damages[kept[-1]]):
            continue
        while len(kept) > 1 and _slope(sizes, damages, kept[-2], kept[-1]) <= _slope(sizes, damages, kept[-2], index):
            kept.pop()
        kept.append(index)
    return kept


def _slope(sizes: Sequence[float], damages: Sequence[float], small: int, large: int) -> float:
    """The damage that a byte takes away from a smaller candidate of an item to a larger one."""
    return (damages[small] - damages[large]) / (sizes[large] - sizes[small])


def least(sizes: Table, damages: Table) -> float:
    """The smallest size that any choice has."""
    return sum(
        min(size for size, damage in zip(*pair, strict=True) if damage < math.inf)
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
    choice = _filled(sizes, damages, list(within[-1]), budget)
    return choice if costs else _chosen_anew(sizes, damages, choice, budget)


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


def _chosen_anew(sizes: Table, damages: Table, choice: Choice, budget: float) -> Choice:
    """The best choice that differs only in the items for which it is least clear."""
    items = _unclear(sizes, damages, choice)
    left = budget - sum(sizes[item][choice[item]] for item in range(len(choice)) if item not in items)
    found = list(choice)
    for item, index in zip(items, _exactly(sizes, damages, items, left), strict=True):
        found[item] = index
    anew = _filled(sizes, damages, found, budget)
    return min(choice, anew, key=lambda one: total(damages, one))


def _unclear(sizes: Table, damages: Table, choice: Choice) -> list[int]:
    """The items whose step down from what they have, or up, has a slope nearest to the price of a byte."""
    if len(choice) <= _UNCLEAR:
        return list(range(len(choice)))
    up, down = [], []
    for size, damage, now in zip(sizes, damages, choice, strict=True):
        others = [index for index, value in enumerate(damage) if value < math.inf and index != now]
        gains = [_slope(size, damage, now, other) for other in others if size[other] > size[now]]
        losses = [_slope(size, damage, other, now) for other in others if size[other] < size[now]]
        up.append(max(gains, default=0.0))
        down.append(min(losses, default=math.inf))
    # The best gain that did not fit is the price: whoever would gain about as much, or lose hardly more, is unclear.
    price = max(up)
    if price <= 0:
        return list(range(_UNCLEAR))

    def distance(item: int) -> float:
        slopes = [slope for slope in (up[item], down[item]) if 0 < slope < math.inf]
        return min((abs(math.log(slope / price)) for slope in slopes), default=math.inf)

    return sorted(sorted(range(len(choice)), key=distance)[:_UNCLEAR])


def _exactly(sizes: Table, damages: Table, items: Sequence[int], budget: float) -> list[int]:
    """The choice of least damage for some items: dynamic programming over all sums that no other sum beats in both size
    and damage. Where there are too many, the one of least damage in each of some thousand steps of size stays."""
    size, damage = np.zeros(1), np.zeros(1)
    trail: list[tuple[NDArray[np.intp], NDArray[np.intp]]] = []
    for item in items:
        own = np.array([i for i, value in enumerate(damages[item]) if value < math.inf])
        sums = np.add.outer(size, np.array(sizes[item], float)[own]).ravel()
        harms = np.add.outer(damage, np.array(damages[item], float)[own]).ravel()
        fits = np.flatnonzero(sums <= budget)
        order = fits[np.lexsort((harms[fits], sums[fits]))]
        lowest = np.minimum.accumulate(harms[order])
        kept = order[np.r_[True, lowest[1:] < lowest[:-1]]]
        if len(kept) > _SUMS:
            steps_of_size = (sums[kept] * (_SUMS / budget)).astype(np.int64)
            kept = kept[np.r_[steps_of_size[1:] != steps_of_size[:-1], True]]
        size, damage = sums[kept], harms[kept]
        trail.append((kept // len(own), own[kept % len(own)]))
    place = len(size) - 1
    found = []
    for before, index in reversed(trail):
        found.append(int(index[place]))
        place = int(before[place])
    return found[::-1]


def neighbours(sizes: Table, damages: Table, choice: Choice, budget: float) -> list[Choice]:
    """Choices that differ from one in one or two items and fit the budget, those of least damage first.

    Of many items only those are changed for which it is least clear.
    """
    left = budget - total(sizes, choice)
    items = _unclear(sizes, damages, choice)
    changes = [
        (item, index, sizes[item][index] - sizes[item][choice[item]], damage - damages[item][choice[item]])
        for item in items
        for index, damage in enumerate(damages[item])
        if index != choice[item] and damage < math.inf
    ]
    if not changes:
        return []
    item, _, size, harm = (np.array(column, float) for column in zip(*changes, strict=True))
    found: list[tuple[float, tuple[int, ...]]] = [(float(harm[k]), (int(k),)) for k in np.flatnonzero(size <= left)]
    one, other = np.nonzero((item[:, None] < item) & (np.add.outer(size, size) <= left))
    together = harm[one] + harm[other]
    order = np.argsort(together, kind="stable")[:_SUMS]
    found += [(float(together[k]), (int(one[k]), int(other[k]))) for k in order]
    neighbours = []
    for _, places in sorted(found):
        changed = list(choice)
        for place in places:
            changed[changes[place][0]] = changes[place][1]
        neighbours.append(tuple(changed))
    return neighbours
