"""How far two values are apart: the metrics, and the sums over samples that they are computed from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corepress.errors import ConfigError

# For each metric its name and unit for people, and the threshold when none is given; all but max_abs are minima.
METRICS: dict[str, tuple[str, str, float]] = {
    "snr": ("SNR", " dB", 20.0),
    "cosine": ("cosine", "", 0.99),
    "psnr": ("PSNR", " dB", 20.0),
    "top1": ("top-1 agreement", "", 0.97),
    "max_abs": ("largest difference", "", 0.1),
}
# What a metric can be, where that is not any number.
_RANGES = {"cosine": (-1.0, 1.0), "top1": (0.0, 1.0), "max_abs": (0.0, math.inf)}


def limit_of(metric: str, threshold: float | None = None) -> float:
    """The value of a metric that decides: `threshold`, or its default. ConfigError for what it can never be."""
    if metric not in METRICS:
        raise ConfigError(f"metric must be one of {', '.join(METRICS)}, not {metric!r}")
    if threshold is None:
        return METRICS[metric][2]
    low, high = _RANGES.get(metric, (-math.inf, math.inf))
    if not low <= threshold <= high:  # nor is NaN
        allowed = f"from {low:g} to {high:g}" if metric in _RANGES else "a number"
        raise ConfigError(f"the threshold of {metric} must be {allowed}, not {threshold:g}")
    return threshold


@dataclass(frozen=True)
class Row:
    """One value of the program in both models, over all samples. `kind`: the operation that computes it.

    `snr`, `psnr`: in dB, infinite where nothing differs, minus infinity where the copy is not finite but the original
    is. Metrics that make no sense are None: all but `top1` of a label, `top1` of a single number, all where the
    original holds no finite number. `elements`: how many numbers the original gave; `left_out`: those of them that are
    NaN or infinite there, which can't be compared.
    """

    name: str
    kind: str = ""
    snr: float | None = None
    cosine: float | None = None
    psnr: float | None = None
    top1: float | None = None
    max_abs: float | None = None
    elements: int = 0
    left_out: int = 0


@dataclass
class Sums:
    """What the metrics of one value need, summed over samples."""

    elements: int = 0
    compared: int = 0
    broken: bool = False
    signal: float = 0.0
    other: float = 0.0
    noise: float = 0.0
    dot: float = 0.0
    peak: float = 0.0
    max_abs: float = 0.0
    agreed: int = 0
    choices: int = 0

    def add(
        self, before: NDArray[Any], now: NDArray[Any], both: NDArray[np.bool_] | None = None, choices: bool = True
    ) -> None:
        """Count one pair of arrays. Where the original is not finite there is nothing to compare with.

        `both`: which rows stand for something that both have; the others don't agree. `choices`: whether the largest
        value of a row is a choice; of coordinates it is none.
        """
        finite = np.isfinite(before)
        one, other = before[finite], now[finite]
        sound = np.isfinite(other)
        if not sound.all():
            self.broken = True
            one, other = one[sound], other[sound]
        difference = one - other
        self.elements += before.size
        self.compared += int(finite.sum())
        self.signal += float(one @ one)
        self.other += float(other @ other)
        self.noise += float(difference @ difference)
        self.dot += float(one @ other)
        self.peak = max(self.peak, float(np.abs(one).max(initial=0)))
        self.max_abs = max(self.max_abs, float(np.abs(difference).max(initial=0)))
        if choices and before.size and before.ndim and before.shape[-1] > 1:
            decided = ~np.isnan(before).any(-1)
            agreed = (before.argmax(-1) == now.argmax(-1)) & ~np.isnan(now).any(-1)
            agreed = agreed if both is None else agreed & both
            self.agreed += int((agreed & decided).sum())
            self.choices += int(decided.sum())

    def add_output(self, name: str, before: Any, now: Any) -> None:
        """Count one pair of outputs as `predict` gives them: arrays, numbers, labels, probabilities by label."""
        if isinstance(before, Mapping) and isinstance(now, Mapping):
            if before.keys() != now.keys():
                raise ConfigError(f"output {name!r} has different labels in the two models")
            before, now = (np.array([value[key] for key in before], np.float64) for value in (before, now))
        one, other = numbers(before), numbers(now)
        if one is None or other is None:
            self.agreed += bool(before == now)
            self.choices += 1
        elif one.shape != other.shape:
            raise ConfigError(f"output {name!r} has the shapes {one.shape} and {other.shape} in the two models")
        else:
            self.add(one, other)

    def row(self, name: str, kind: str = "") -> Row:
        """The metrics of all that was counted."""
        top1 = self.agreed / self.choices if self.choices else None
        left_out = self.elements - self.compared
        if not self.compared:
            return Row(name, kind, top1=top1, elements=self.elements, left_out=left_out)
        if self.broken:
            return Row(name, kind, -math.inf, math.nan, -math.inf, top1, math.inf, self.elements, left_out)
        snr = _decibels(self.signal, self.noise)
        psnr = _decibels(self.peak * self.peak, self.noise / self.compared)
        return Row(name, kind, snr, self._cosine(), psnr, top1, self.max_abs, self.elements, left_out)

    def _cosine(self) -> float:
        if not self.noise:
            return 1.0
        lengths = math.sqrt(self.signal) * math.sqrt(self.other)
        return self.dot / lengths if lengths else 0.0


def numbers(value: Any) -> NDArray[Any] | None:
    """An array, a tensor or an image as float64; None for text, lists and others."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = (value.float() if value.is_floating_point() else value).numpy()
    known = isinstance(value, np.ndarray | np.generic | float | int) or hasattr(value, "__array_interface__")
    array = np.asarray(value) if known else None
    return None if array is None or array.dtype.kind not in "biuf" else array.astype(np.float64)


def _decibels(signal: float, noise: float) -> float:
    if not noise:
        return math.inf
    return 10 * math.log10(signal / noise) if signal else -math.inf
