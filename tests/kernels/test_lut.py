"""The steps that fit look-up tables, beside twins that take one number at a time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corepress.kernels.lut import descend, entries_of, feedback, sum_by_code
from tests.kernels.guarded import guarded
from tests.kernels.twins import fused

Array = np.ndarray
F = np.float32
SHAPES = st.tuples(
    st.integers(0, 6),
    st.integers(1, 4),
    st.integers(0, 20),
    st.integers(1, 3),
    st.sampled_from([1, 2, 4, 5, 16, 64, 256]),
)  # rows of a table, dim, columns, tables, entries


def nearest(table: Array, wanted: Array, entry: int) -> int:
    """The entry of least squared distance: `entry`, else the first, of several."""
    distances = np.zeros(len(table), F)
    for j, value in enumerate(wanted):
        distances = distances + (value - table[:, j]) ** 2
    best = int(np.argmin(np.where(np.isnan(distances), np.inf, distances)))
    return best if distances[best] < distances[entry] else entry


def feedback_twin(target: Array, units: Array, tables: Array, codes: Array, errors: Array, begin: int) -> None:
    for r in range(len(target)):
        table, unit = (of[r * len(of) // len(target)] for of in (tables, units))
        for i in range(target.shape[2]):
            code = codes[r, begin + i] = nearest(table, target[r, :, i], 0)
            errors[r, :, begin + i] -= table[code]
            made = errors[r, :, begin + i, None]
            target[r, :, i + 1 :] = fused(made, unit[i, None, i + 1 :], target[r, :, i + 1 :])


def descend_twin(pull: Array, hessians: Array, tables: Array, codes: Array) -> None:
    for r in range(len(pull)):
        table, hessian = (of[r * len(of) // len(pull)] for of in (tables, hessians))
        for i in range(pull.shape[2]):
            code = codes[r, i]
            better = nearest(table, table[code] + pull[r, :, i] / hessian[i, i], int(code))
            if better != code:
                codes[r, i] = better
                pull[r] = fused(-(table[better] - table[code])[:, None], hessian[i][None], pull[r])


def case(seed: int, shape: tuple[int, ...], strange: bool) -> tuple[np.random.Generator, Array, Array, Array]:
    """Numbers (n, dim, columns), tables and codes; `strange`: not all of the numbers are finite."""
    of_table, dim, columns, groups, entries = shape
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(of_table * groups, dim, columns)).astype(F)
    if strange and values.size:
        values.flat[rng.integers(0, values.size, 2)] = rng.choice(np.array([np.nan, np.inf, -np.inf, 1e30], F), 2)
    tables = np.round(rng.normal(size=(groups, entries, dim)), 1).astype(F)  # some entries are equal
    codes = rng.integers(0, entries, (of_table * groups, columns)).astype(np.uint8)
    return rng, values, tables, codes


def parts(rng: np.random.Generator, rows: int) -> list[tuple[int, int]]:
    middle = int(rng.integers(0, rows + 1))
    return [(0, middle), (middle, rows)]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), SHAPES, st.integers(0, 3), st.integers(0, 3), st.booleans(), st.integers(1, 4))
def test_feedback(seed, shape, begin, after, strange, inputs) -> None:
    rng, target, tables, _ = case(seed, shape, strange)
    rows, dim, width = target.shape
    columns = begin + width + after
    units = rng.normal(size=(inputs, width, width)).astype(F)
    errors, codes = rng.normal(size=(rows, dim, columns)).astype(F), np.full((rows, columns), 7, np.uint8)
    found = [guarded(array) for array in (target, codes, errors)]
    with np.errstate(all="ignore"):
        for first, last in parts(rng, rows):
            own = units[0] if inputs == 1 else units
            feedback(found[0], guarded(own), guarded(tables), found[1], found[2], begin, first, last)
        feedback_twin(target, units, tables, codes, errors, begin)
    for one, other in zip(found, (target, codes, errors), strict=True):
        np.testing.assert_array_equal(one, other)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), SHAPES, st.booleans(), st.integers(1, 4))
def test_descend(seed, shape, strange, groups) -> None:
    rng, pull, tables, codes = case(seed, shape, strange)
    columns = pull.shape[2]
    inputs = rng.normal(size=(groups, columns, columns + 3)).astype(F)
    hessians = inputs @ inputs.swapaxes(1, 2)
    found, own = guarded(pull), guarded(codes)
    with np.errstate(all="ignore"):
        for first, last in parts(rng, len(pull)):
            descend(found, guarded(hessians[0] if groups == 1 else hessians), guarded(tables), own, first, last)
        descend_twin(pull, hessians, tables, codes)
    np.testing.assert_array_equal(own, codes)
    np.testing.assert_array_equal(found, pull)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), SHAPES)
def test_entries_and_their_sums(seed, shape) -> None:
    rng, values, tables, codes = case(seed, shape, False)
    group = np.arange(len(codes)) * len(tables) // max(len(codes), 1)
    found = guarded(np.zeros_like(values))
    for first, last in parts(rng, len(codes)):
        entries_of(found, guarded(tables), guarded(codes), first, last)
    np.testing.assert_array_equal(found, tables[group[:, None], codes].swapaxes(1, 2))

    expected = np.zeros(tables.shape)
    np.add.at(expected, (group[:, None, None], codes[:, None], np.arange(values.shape[1])[:, None]), values)
    np.testing.assert_array_equal(sum_by_code(guarded(values), guarded(codes), tables.shape), expected)


def test_what_a_kernel_would_read_beyond_is_refused() -> None:
    values, tables, codes = np.ones((4, 1, 6), F), np.ones((2, 4, 1), F), np.zeros((4, 6), np.uint8)
    with pytest.raises(ValueError, match="below 4"):
        entries_of(values, tables, codes + np.uint8(4), 0, 4)
    with pytest.raises(ValueError, match="no rows from 0 to 5 of 4"):
        descend(values, np.eye(6, dtype=F), tables, codes, 0, 5)
    with pytest.raises(ValueError, match="shape"):
        descend(values, np.ones((2, 6, 5), F), tables, codes, 0, 4)
    with pytest.raises(ValueError, match="no matrix"):
        descend(values, np.ones((0, 6, 6), F), tables, codes, 0, 4)
    with pytest.raises(ValueError, match="up to 256"):
        entries_of(values, np.ones((2, 4, 2), F), codes, 0, 4)
    with pytest.raises(ValueError, match="6 columns from 1 on"):
        feedback(values, np.eye(6, dtype=F), tables, codes, values.copy(), 1, 0, 4)
