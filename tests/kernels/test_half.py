"""float16 in kernels, against NumPy's."""

from __future__ import annotations

import numpy as np

from corepress.kernels.half import narrow, round_to_half, widen
from tests.kernels.guarded import guarded


def test_all_65536_values_widen_to_the_same_bits() -> None:
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    wide, expected = widen(guarded(halves)), halves.astype(np.float32)
    numbers = ~np.isnan(expected)
    np.testing.assert_array_equal(wide.view(np.uint32)[numbers], expected.view(np.uint32)[numbers])
    assert np.isnan(wide[~numbers]).all()


def test_float32_rounds_to_the_nearest_half_ties_to_even() -> None:
    rng = np.random.default_rng(0)
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
    halves = np.unique(halves[np.isfinite(halves)])
    ties = (halves[1:] + halves[:-1]) / 2
    anything = rng.integers(0, 1 << 32, 1_000_000, dtype=np.uint32).view(np.float32)
    values = np.concatenate([
        halves, ties, np.nextafter(ties, np.float32(-np.inf)), np.nextafter(ties, np.float32(np.inf)), anything,
        np.exp(rng.uniform(-20, 12, 500_000)).astype(np.float32),
        np.array([65504, 65519.996, 65520, 65536, 1e38, np.inf, -np.inf, 0.0, -0.0, 2.0**-25, 2.0**-149], np.float32),
    ])  # fmt: skip
    with np.errstate(over="ignore", invalid="ignore"):
        expected = values.astype(np.float16)
    numbers = ~np.isnan(values)

    halves = narrow(guarded(values))
    np.testing.assert_array_equal(halves.view(np.uint16)[numbers], expected.view(np.uint16)[numbers])
    assert np.isnan(halves[~numbers]).all()

    rounded = round_to_half(guarded(values))
    same = expected.astype(np.float32).view(np.uint32)
    np.testing.assert_array_equal(rounded.view(np.uint32)[numbers], same[numbers])
