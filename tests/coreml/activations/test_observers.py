"""Observers find ranges over many batches, in memory that does not grow."""

from __future__ import annotations

import numpy as np
import pytest

from corepress.coreml.activations.observers import OBSERVERS


def seen(observer: str, *batches: np.ndarray):
    made = OBSERVERS[observer]()
    for batch in batches:
        made.update(batch, float(batch.min()), float(batch.max()))
    return made


def error(values: np.ndarray, limits: tuple[float, float]) -> float:
    """The squared error of values in 254 steps of a symmetric range."""
    scale = max(map(abs, limits)) / 127
    return float(np.square(np.clip(np.round(values / scale), -127, 127) * scale - values).mean())


def test_observers_and_an_outlier() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=200_000).astype(np.float32)
    values[0] = 40
    parts = np.split(values, 10)
    assert seen("min_max", *parts).limits(True)[1] == 40
    for symmetric in (True, False):
        low, high = seen("percentile", *parts).limits(symmetric)
        assert low == pytest.approx(np.quantile(values, 5e-5 if symmetric else 1e-4), abs=0.3)
        assert high == pytest.approx(np.quantile(np.abs(values) if symmetric else values, 1 - 1e-4), abs=0.3)
    best = seen("mse", *parts).limits(True)
    assert error(values, best) < min(
        error(values, seen(name, *parts).limits(True)) for name in ("min_max", "percentile")
    )
    tried = min(error(values, (-reach, reach)) for reach in np.linspace(1, 40, 400))
    assert error(values, best) < 1.05 * tried
    low, high = seen("mse", np.maximum(values, 0)).limits(False)
    assert low == 0 and 3 < high < 40


def test_a_histogram_does_not_depend_on_how_its_values_came() -> None:
    rng = np.random.default_rng(1)
    small, large, nothing = rng.normal(size=5000) * 0.01, rng.normal(size=3000) * 1000, np.zeros(100)
    for name in ("percentile", "mse"):
        one, other = seen(name, nothing, small, large), seen(name, np.concatenate([large, small, nothing]))
        np.testing.assert_array_equal(one.counts, other.counts)
        assert one.limits(False) == other.limits(False) and one.counts.sum() == 8100
    for name in OBSERVERS:
        assert seen(name, nothing).limits(True) == (0, 0)
