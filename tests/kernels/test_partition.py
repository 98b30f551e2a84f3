"""The partition of numbers into runs beside the textbook recursion over all runs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corepress.kernels import partition as kernels
from corepress.kernels.partition import means_of_runs, partition
from tests.kernels.guarded import guarded, guarding


def run_costs(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(n + 1, n + 1): the error of each run i..j, by updates that do not cancel; inf below."""
    n = len(values)
    costs = np.full((n + 1, n + 1), np.inf)
    mass, mean, error = np.zeros(n), values.copy(), np.zeros(n)
    for j in range(n):
        step, share = values[j] - mean[: j + 1], counts[j] / (mass[: j + 1] + counts[j])
        mean[: j + 1] += step * share
        error[: j + 1] += mass[: j + 1] * share * step**2
        mass[: j + 1] += counts[j]
        costs[: j + 1, j + 1] = error[: j + 1]
    return costs


def least_error(values: np.ndarray, counts: np.ndarray, k: int) -> float:
    """O(k n^2), in float64."""
    costs = run_costs(values, counts)
    least = costs[0]
    for _ in range(min(k, len(values)) - 1):
        least = (least[:, None] + costs).min(axis=0)
    return float(least[-1])


def error_of(values: np.ndarray, counts: np.ndarray, bounds: np.ndarray) -> tuple[np.ndarray, float]:
    """The twin of `means_of_runs`."""
    runs = [slice(*pair) for pair in np.lib.stride_tricks.sliding_window_view(bounds, 2)]
    means = np.array([np.average(values[run], weights=counts[run]) for run in runs])
    return means, sum(
        float((counts[run] * (values[run] - mean) ** 2).sum()) for run, mean in zip(runs, means, strict=True)
    )


def check(values: np.ndarray, counts: np.ndarray, k: int, before: bool = False) -> None:
    with guarding(kernels):
        values, counts = guarded(values, before=before), guarded(counts, before=before)
        bounds = partition(values, counts, k)
        means, error = means_of_runs(values, counts, bounds)
    assert bounds.dtype == np.int32 and len(bounds) == min(len(values), k) + 1
    assert bounds[0] == 0 and bounds[-1] == len(values) and (np.diff(bounds) > 0).all()
    expected, least = error_of(values, counts, bounds)
    scale = np.ptp(values)
    np.testing.assert_allclose(means, expected, rtol=1e-12, atol=1e-12 * scale)
    # What float64 can't tell apart in sums of squares is a share of the total; a mean has its own last digit.
    total = float((counts * (values - np.average(values, weights=counts)) ** 2).sum())
    digits = 1e-14 * total + counts.sum() * (1e-15 * np.abs(values).max()) ** 2
    assert error == pytest.approx(least, rel=1e-9, abs=digits)
    assert error <= least_error(values, counts, k) * (1 + 1e-9) + digits


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.tuples(st.integers(-60, 60), st.integers(1, 50)), min_size=1, max_size=70),
    st.integers(1, 80),
    st.integers(-140, 100),
    st.booleans(),
)
def test_of_integers_with_many_ties(drawn, k, exponent, before) -> None:
    values, first = np.unique([float(value) for value, _ in drawn], return_index=True)
    check(np.ldexp(values, exponent), np.array([count for _, count in drawn], np.float64)[first], k, before)


@pytest.mark.parametrize("n", [1, 2, 33, 64, 65, 66, 97, 300, 700])
@pytest.mark.parametrize("k", [1, 2, 3, 10, 256])
def test_with_and_without_the_coarse_grid(n, k) -> None:
    rng = np.random.default_rng(n + k)
    check(np.unique(rng.standard_t(2, n)), rng.integers(1, 1000, n).astype(np.float64), k)


def test_of_nothing() -> None:
    assert partition(np.empty(0), np.empty(0), 3).tolist() == [0]
    means, error = means_of_runs(np.empty(0), np.empty(0), np.zeros(1, np.int32))
    assert means.size == 0 and error == 0


@settings(deadline=None, max_examples=200)
@given(st.lists(st.tuples(st.floats(), st.floats()), min_size=1, max_size=90), st.integers(1, 9), st.booleans())
def test_of_what_no_caller_may_give_is_some_partition(drawn, k, before) -> None:
    """NaN, infinities, any order, counts that are none: the result is worth nothing, but ends, and stays in place."""
    values, counts = (guarded(np.array(column), before=before) for column in zip(*drawn, strict=True))
    with guarding(kernels):
        bounds = partition(values, counts, k)
        means_of_runs(values, counts, bounds)
    assert len(bounds) == min(len(values), k) + 1
    assert bounds[0] == 0 and bounds[-1] == len(values) and (np.diff(bounds) > 0).all()


def test_what_a_kernel_would_read_beyond_is_refused() -> None:
    with pytest.raises(ValueError, match="shape"):
        partition(np.arange(3.0), np.ones(2), 2)
    with pytest.raises(ValueError, match="0 runs"):
        partition(np.arange(3.0), np.ones(3), 0)
    for bounds in ([0, 4], [-1, 3], [2, 1], []):
        with pytest.raises(ValueError, match="ascend"):
            means_of_runs(np.arange(3.0), np.ones(3), np.array(bounds, np.int32))
