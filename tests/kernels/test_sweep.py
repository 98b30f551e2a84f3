"""Columns settled one by one, beside a twin that takes one column of one row at a time."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corepress.algorithms.fitted.grid import NORMAL_FLOAT
from corepress.kernels.sweep import Levels, settle, smallest
from tests.kernels.guarded import guarded
from tests.kernels.twins import fused

Array = np.ndarray
F = np.float32


def pruned_twin(cost: Array, pruned: int) -> list[int]:
    """Which of the costs of one row go: the least, the first of equal ones, NaN before all."""
    gone = []
    for _ in range(min(pruned, len(cost))):
        gone.append(int(np.argmin(cost)))
        cost[gone[-1]] = np.inf
    return gone


def settled_twin(target: Array, inverse: Array, kept: Array | None, n_m: tuple[int, int], grid: Levels | None):
    target, kept = target.copy(), None if kept is None else kept.copy()
    levels = np.zeros(target.shape, np.uint8)
    pruned, of = n_m
    for i in range(len(target)):
        if kept is not None and of and i % of == 0:
            for row in range(target.shape[1]):
                pivots = np.diag(inverse)[i : i + of]
                cost = np.where(kept[i : i + of, row], np.abs(target[i : i + of, row] / pivots), F(-1))
                kept[i : i + of, row][pruned_twin(cost, pruned)] = False
        wanted = target[i].copy()
        if kept is not None:
            target[i] *= kept[i]
        if grid is not None:
            scale, zero = grid.scale[grid.block_of[i]], grid.zero[grid.block_of[i]]
            ratio = target[i] / scale
            if grid.palette.size:
                level = (ratio[:, None] > (grid.palette[:-1] + grid.palette[1:]) / F(2)).sum(1)
                target[i] = scale * grid.palette[level]
            else:
                whole = np.rint(zero)
                level = np.minimum(np.maximum(np.rint(ratio + (zero - whole)) + whole, F(0)), F(grid.top))
                target[i] = scale * (level - zero)
            levels[i] = np.where(np.isnan(level), 0, level).astype(np.uint8)
        share = inverse[i, i + 1 :] / inverse[i, i]
        target[i + 1 :] = fused(-(wanted - target[i])[None], share[:, None], target[i + 1 :])
    return target, kept, levels


def a_grid(rng: np.random.Generator, kind: str, columns: int, rows: int) -> Levels | None:
    if kind == "none":
        return None
    blocks = int(rng.integers(1, 4))
    scale = rng.uniform(0.05, 0.5, (blocks, rows)).astype(F)
    zero = rng.integers(0, 16, (blocks, rows)).astype(F) + (rng.random() < 0.5) * rng.normal(
        size=(blocks, rows)
    ).astype(F)
    palette = np.array(NORMAL_FLOAT[int(kind[-1])] if kind.startswith("normal") else (), F)
    return Levels(scale, zero, rng.integers(0, blocks, columns), 15 if kind == "4 bits" else 255, palette)


def check(seed: int, columns: int, rows: int, kind: str, n_m: tuple[int, int], masked: bool, strange: bool) -> None:
    rng = np.random.default_rng(seed)
    target = rng.normal(size=(columns, rows)).astype(F)
    if strange and target.size:
        target.flat[rng.integers(0, target.size, 3)] = rng.choice(np.array([np.nan, np.inf, -np.inf, -0.0, 1e38], F), 3)
    inverse = (np.triu(rng.normal(size=(columns, columns))) + 3 * np.eye(columns)).astype(F)
    kept = rng.random((columns, rows)) < 0.7 if masked or n_m[1] else None
    grid, levels = a_grid(rng, kind, columns, rows), np.zeros((columns, rows), np.uint8)
    found, mask, level = guarded(target), None if kept is None else guarded(kept), guarded(levels)
    own = None if grid is None else Levels(*map(guarded, grid[:3]), grid.top, guarded(grid.palette))
    middle = int(rng.integers(0, rows + 1))
    with np.errstate(all="ignore"):
        for first, last in ((0, middle), (middle, rows)):
            settle(found, guarded(inverse), mask, n_m, own, level, first, last)
        expected, expected_mask, expected_level = settled_twin(target, inverse, kept, n_m, grid)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(level, expected_level if grid else levels)
    if kept is not None:
        np.testing.assert_array_equal(mask, expected_mask)


@pytest.mark.parametrize("n_m", [(0, 0), (2, 4), (1, 3), (5, 8)])
@pytest.mark.parametrize("kind", ["none", "4 bits", "8 bits", "normal float 3", "normal float 4"])
def test_as_the_twin(kind, n_m) -> None:
    shapes = st.integers(0, 12), st.integers(0, 9) | st.sampled_from([63, 64, 65, 130])

    @settings(max_examples=25, deadline=None)
    @given(st.integers(0, 2**32 - 1), *shapes, st.booleans(), st.booleans())
    def each(seed: int, columns: int, rows: int, masked: bool, strange: bool) -> None:
        check(seed, columns, rows, kind, n_m, masked, strange)

    each()


def test_a_whole_group() -> None:
    check(0, 128, 70, "4 bits", (2, 4), True, False)


def test_what_a_kernel_would_read_beyond_is_refused() -> None:
    target, inverse, levels = np.ones((4, 3), F), np.eye(4, dtype=F), np.zeros((4, 3), np.uint8)
    grid = Levels(np.ones((1, 3), F), np.ones((1, 3), F), np.zeros(4, np.int64), 15, np.zeros(0, F))
    with pytest.raises(ValueError, match="no rows from 0 to 4"):
        settle(target, inverse, None, (0, 0), grid, levels, 0, 4)
    with pytest.raises(ValueError, match="shape"):
        settle(target, inverse[:3], None, (0, 0), grid, levels, 0, 3)
    with pytest.raises(ValueError, match="no blocks but the 1"):
        settle(target, inverse, None, (0, 0), grid._replace(block_of=np.ones(4, np.int64)), levels, 0, 3)
    with pytest.raises(ValueError, match="no place 4 among 4"):
        smallest(np.ones(4, F), 4)


@pytest.mark.parametrize("count", [1, 63, 64, 65, 5000])
def test_the_smallest_but_some(count) -> None:
    rng = np.random.default_rng(count)
    values = np.abs(rng.standard_t(2, count)).astype(F)
    values[::3] = 0
    values[-1] = np.inf
    for k in {0, count // 3, count // 2, count - 1}:
        assert smallest(guarded(values), k) == np.sort(values)[k]
    equal = np.full(count, values[0])  # all in one bin
    assert smallest(guarded(equal), count // 2) == values[0]


def test_the_twins_fuse_exactly() -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.integers(1 << 23, 1 << 24, 3000).astype(F) for _ in range(2))
    # Beside products, what makes ties, and what float64 loses beside them.
    c = rng.choice(np.array([1, -1, 0.5, 2.0**-40, -(2.0**-40), 2.0**24, 2.0**70, -(2.0**71)], F), 3000)
    found = fused(a, b, c)
    for one, other, added, sum_ in zip(a, b, c, found, strict=True):
        exact = Fraction(float(one)) * Fraction(float(other)) + Fraction(float(added))
        near = [sum_, np.nextafter(sum_, F(np.inf)), np.nextafter(sum_, F(-np.inf))]
        distances = [abs(Fraction(float(number)) - exact) for number in near]
        assert distances[0] == min(distances)
