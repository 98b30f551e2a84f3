"""Inliers and outliers add up to the weight, bit for bit, and the outliers are the largest."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corepress.algorithms.outliers import split_outliers
from corepress.errors import DataError


@given(st.floats(0, 0.49), st.integers(0, 99), st.sampled_from([np.float16, np.float32]))
def test_the_sum_is_the_weight(fraction: float, seed: int, dtype: type) -> None:
    weight = np.random.default_rng(seed).standard_t(2, (7, 33)).astype(dtype)
    inliers, outliers = split_outliers(weight, fraction)
    dense = outliers.decompress()
    assert inliers.dtype == dense.dtype == dtype
    np.testing.assert_array_equal(inliers + dense, weight)
    assert not (inliers.astype(bool) & outliers.mask).any()
    # As many as asked for, but for one at the limit.
    assert abs(outliers.mask.sum() - fraction * weight.size) < 2
    if outliers.mask.any():
        assert np.abs(weight[outliers.mask]).min() > np.abs(inliers).max()


def test_infinities_are_refused() -> None:
    with pytest.raises(DataError):
        split_outliers(np.full((2, 2), np.inf, np.float16), 0.1)
