"""Observers: the range of an activation, from all that went through it, in memory that does not grow.

One observer is made for each activation. `update` takes the values of a run, with the least and the greatest of them;
`limits` says which numbers the integers are to cover. What lies beyond is clipped.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from corepress.errors import ConfigError
from corepress.fields import suggestion

Array = NDArray[Any]

# How much the newest values count in a moving average.
MOMENTUM = 0.1
# The part of the values that a percentile gives up at each end.
TAIL = 1e-4
# Bins of a histogram on each side of zero: 16 for each step of 8 bits.
HALF = 2048
# The parts of the whole range that the search for the least error tries.
SHARES = np.linspace(0.02, 1, 99)


class Observer(Protocol):
    """What calibration needs to know of an observer."""

    def update(self, values: Array, low: float, high: float) -> None: ...

    def limits(self, symmetric: bool) -> tuple[float, float]: ...


class MinMax:
    """From the least to the greatest value."""

    def __init__(self) -> None:
        self.low, self.high = math.inf, -math.inf

    def update(self, values: Array, low: float, high: float) -> None:
        self.low, self.high = min(self.low, low), max(self.high, high)

    def limits(self, symmetric: bool) -> tuple[float, float]:
        return self.low, self.high


class Fixed(MinMax):
    """A range that is known."""

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = low, high


class MovingAverage(MinMax):
    """From the mean of the least to the mean of the greatest values; what was seen long ago counts less."""

    def update(self, values: Array, low: float, high: float) -> None:
        if self.low > self.high:
            self.low, self.high = low, high
        self.low += MOMENTUM * (low - self.low)
        self.high += MOMENTUM * (high - self.high)


class Histogram(MinMax):
    """Counts values in bins of one width around zero. When values outgrow the bins, the width doubles and neighbours
    merge, which loses nothing: widths are powers of two."""

    def __init__(self) -> None:
        super().__init__()
        self.counts = np.zeros(2 * HALF, np.int64)
        self.exponent: int | None = None

    def update(self, values: Array, low: float, high: float) -> None:
        super().update(values, low, high)
        reach = max(abs(low), abs(high))
        if reach == 0:  # zero belongs to the same bin at every width
            self.counts[HALF] += values.size
            return
        exponent = math.frexp(reach)[1] - HALF.bit_length() + 1
        if self.exponent is None:
            self.exponent = exponent
        while self.exponent < exponent:
            self.counts = np.pad(self.counts.reshape(-1, 2).sum(1), HALF // 2)
            self.exponent += 1
        bins = np.floor(np.ldexp(values.reshape(-1).astype(np.float64), -self.exponent)).astype(np.int64)
        self.counts += np.bincount(bins + HALF, minlength=2 * HALF)

    def edges(self) -> Array:
        """The borders of the bins, one more than there are bins."""
        return np.ldexp(np.arange(-HALF, HALF + 1, dtype=np.float64), self.exponent or 0)


class Percentile(Histogram):
    """All but the outermost 0.01 % of the values: of the largest magnitudes, or at either end."""

    def limits(self, symmetric: bool) -> tuple[float, float]:
        edges, spare = self.edges(), TAIL * self.counts.sum()
        if symmetric:
            magnitudes = self.counts[HALF:] + self.counts[HALF - 1 :: -1]
            reach = edges[HALF + 1 :][_first_above(magnitudes[::-1], spare, backwards=True)]
            return max(self.low, -reach), min(self.high, reach)
        low = edges[_first_above(self.counts, spare)]
        high = edges[1:][_first_above(self.counts[::-1], spare, backwards=True)]
        return max(self.low, low), min(self.high, high)


def _first_above(counts: Array, spare: float, backwards: bool = False) -> int:
    """The first bin up to which there are more than `spare` values; counted from the other end when `backwards`."""
    index = int(np.argmax(np.cumsum(counts) > spare))
    return len(counts) - 1 - index if backwards else index


class LeastSquares(Histogram):
    """The range whose steps give the least squared error."""

    def limits(self, symmetric: bool) -> tuple[float, float]:
        if self.exponent is None:
            return self.low, self.high
        held = self.counts > 0
        values = (self.edges()[:-1] + np.ldexp(0.5, self.exponent))[held]
        counts = self.counts[held]
        if symmetric:
            reaches = max(-self.low, self.high) * SHARES
            reach = float(reaches[np.argmin(_errors(values, counts, -reaches, reaches, 254))])
            return max(self.low, -reach), min(self.high, reach)
        low, high = min(self.low, 0.0), max(self.high, 0.0)
        lows, highs = low * SHARES, high * SHARES
        for _ in range(2):  # one end at a time: the other hardly moves after the first round
            high = float(highs[np.argmin(_errors(values, counts, np.full_like(highs, low), highs, 255))])
            low = float(lows[np.argmin(_errors(values, counts, lows, np.full_like(lows, high), 255))])
        return low, high


def _errors(values: Array, counts: Array, lows: Array, highs: Array, steps: int) -> Array:
    """For each range, the squared error of values that are rounded to so many steps of it."""
    lows, scales = lows[:, None], np.maximum((highs - lows) / steps, np.finfo(np.float64).tiny)[:, None]
    # Zero lies on a step.
    below = np.round(-lows / scales)
    rounded = np.clip(np.round(values / scales), -below, steps - below) * scales
    errors: Array = (np.square(rounded - values) * counts).sum(1)
    return errors


# These ranges begin as the whole ones (`narrowing.py`); of "auto", which is no observer by itself, they may stay so.
OUTPUT, AUTO = "output", "auto"
OBSERVERS: dict[str, Callable[[], Observer]] = {
    "min_max": MinMax,
    "moving_average": MovingAverage,
    "percentile": Percentile,
    "mse": LeastSquares,
    OUTPUT: MinMax,
}


def observer_of(name: str) -> Callable[[], Observer]:
    """What makes observers of that name; a ConfigError for an unknown one."""
    if name == AUTO:
        return MinMax
    if name not in OBSERVERS:
        raise ConfigError(f"there is no observer {name!r}. {suggestion(name, OBSERVERS)}")
    return OBSERVERS[name]
