"""How far two values are apart: each metric once, with its unit and what number is good.

| metric | is | unit | good |
| --- | --- | --- | --- |
| `snr` | energy of the original over the energy of the difference | dB | 20 and more; 40 looks the same |
| `psnr` | square of the original's greatest value over the mean square of the difference | dB | 20 and more |
| `cosine` | cosine of the angle between the two | 1 is the same direction | 0.99 and more |
| `top1` | part of the rows with the same largest value, or the same label | 1 is all | 0.97 and more |
| `kl` | Kullback-Leibler divergence of the copy's probabilities from the original's | nats | 0.05 and less |
| `perplexity` | of a language model: that of the copy over that of the original | 1 is the same | 1.05 and less |
| `max_abs` | largest difference of one element | that of the value | 0.1 and less |

Where nothing differs the SNR is infinite, even of an original that is zero everywhere. Any difference from an original
that is zero everywhere is infinitely larger than that: the SNR is minus infinity. JSON says "inf" and "-inf".
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from corepress.errors import ConfigError
from corepress.kernels.half import widen


class Metric(NamedTuple):
    """The name and the unit for people, and the threshold when none is given: the least good value, or if `at_most`
    the greatest."""

    label: str
    unit: str
    threshold: float
    at_most: bool = False

    def meets(self, value: float, threshold: float) -> bool:
        """Whether a value is good; NaN never is."""
        return value <= threshold if self.at_most else value >= threshold

    def order(self, value: float) -> float:
        """A number that is the less the worse a value is."""
        return -math.inf if math.isnan(value) else -value if self.at_most else value


METRICS = {
    "snr": Metric("SNR", " dB", 20.0),
    "cosine": Metric("cosine", "", 0.99),
    "psnr": Metric("PSNR", " dB", 20.0),
    "top1": Metric("top-1 agreement", "", 0.97),
    "kl": Metric("KL divergence", " nats", 0.05, at_most=True),
    "perplexity": Metric("perplexity (original 1)", "", 1.05, at_most=True),
    "max_abs": Metric("largest difference", "", 0.1, at_most=True),
}
# What a metric can be, where that is not any number.
_RANGES = {
    "cosine": (-1.0, 1.0),
    "top1": (0.0, 1.0),
    "kl": (0.0, math.inf),
    "perplexity": (0.0, math.inf),
    "max_abs": (0.0, math.inf),
}
# Weights are compared in pieces that stay in the cache, each in float32, and their sums in float64.
_PIECE = 1 << 16
# Rows are probabilities if they sum to 1 but for what float16 rounds off; the least number that it holds is no zero.
_ROUNDED, _LEAST = 1e-2, 2.0**-24


def decibels(signal: float, noise: float) -> float:
    """10 log10 of signal / noise, both energies; infinite without noise, minus infinity where noise is all there is."""
    if not noise:
        return math.inf
    ratio = signal / noise
    return 10 * math.log10(ratio) if ratio > 0 else math.nan if math.isnan(ratio) else -math.inf


def energies(exact: NDArray[Any], other: NDArray[Any]) -> tuple[float, float]:
    """The sums of the squares of a weight, and of its differences from another of the same size."""
    signal = noise = 0.0
    for one, two in _pieces(exact.reshape(-1), other.reshape(-1)):
        difference = one - two
        signal += float(one @ one)
        noise += float(difference @ difference)
    return signal, noise


def _pieces(one: NDArray[Any], other: NDArray[Any]) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    for start in range(0, one.size, _PIECE):
        yield _single(one[start : start + _PIECE]), _single(other[start : start + _PIECE])


def _single(values: NDArray[Any]) -> NDArray[np.float32]:
    return widen(values) if values.dtype == np.float16 else values.astype(np.float32, copy=False)


def limit_of(metric: str, threshold: float | None = None) -> float:
    """The value of a metric that decides: `threshold`, or its default. ConfigError for what it can never be."""
    if metric not in METRICS:
        raise ConfigError(f"metric must be one of {', '.join(METRICS)}, not {metric!r}")
    if threshold is None:
        return METRICS[metric].threshold
    low, high = _RANGES.get(metric, (-math.inf, math.inf))
    if not low <= threshold <= high:  # nor is NaN
        allowed = f"from {low:g} to {high:g}" if metric in _RANGES else "a number"
        raise ConfigError(f"the threshold of {metric} must be {allowed}, not {threshold:g}")
    return threshold


@dataclass(frozen=True)
class Row:
    """One value of the program in both models, over all samples.

    Measures that make no sense are None: all but `top1` of a label, `top1` of a single number, all where the original
    holds no finite number.

    Args:
        name: Of the output or value.
        kind: The operation that computes it.
        snr: In dB; infinite where nothing differs, minus infinity where the copy is not finite but the original is.
        cosine: Of the angle between both, from -1 to 1.
        psnr: In dB, by the greatest value of the original.
        top1: The part of the samples with the same greatest value, or the same label.
        max_abs: The greatest difference of one number.
        elements: How many numbers the original gave.
        left_out: Those of them that are NaN or infinite there, which can't be compared.
        kl: In nats, of outputs that are probabilities, or logits of a language model; None of others.
        perplexity: Of a language model's logits: that of the copy over that of the original.
        original_perplexity: That of the original, on the tokens of the samples.

    Examples:
        >>> row = cto.verify("model.mlpackage", "small.mlpackage", "samples.npz").rows[0]
        >>> row.name, row.elements
        ('logits', 200)
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
    kl: float | None = None
    perplexity: float | None = None
    original_perplexity: float | None = None

    def of(self, metric: str) -> float | None:
        """The value of the metric of that name; None where it makes no sense."""
        value: float | None = getattr(self, metric)
        return value


def worded(metric: str) -> tuple[str, str]:
    """The label and the unit of a metric; of somebody's own its name, and none."""
    return METRICS[metric][:2] if metric in METRICS else (metric, "")


def worst(rows: Iterable[Row], metric: str) -> float | None:
    """The worst value of a metric among some rows; None where none of them has it."""
    values = [value for row in rows if (value := row.of(metric)) is not None]
    return min(values, key=METRICS[metric].order, default=None)


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
    divergence: float = 0.0
    distributions: int = 0
    others: bool = False  # whether there are rows that are no probabilities

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
            self._add_probabilities(before, now)

    def _add_probabilities(self, before: NDArray[Any], now: NDArray[Any]) -> None:
        """Count the divergences of rows, if all rows of the original are probabilities, in this and all other pairs."""
        if self.others or not are_probabilities(before):
            self.others = True
            return
        with np.errstate(invalid="ignore"):  # of a copy that is not finite
            one, other = (rows / rows.sum(-1, keepdims=True) for rows in (before.clip(_LEAST), now.clip(_LEAST)))
            divergences = (one * np.log(one / other)).sum(-1)
        self.divergence += float(divergences.sum())
        self.distributions += divergences.size

    def add_output(self, name: str, before: Any, now: Any, choices: bool = True) -> None:
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
            self.add(one, other, choices=choices)

    def row(self, name: str, kind: str = "") -> Row:
        """The metrics of all that was counted."""
        top1 = self.agreed / self.choices if self.choices else None
        left_out = self.elements - self.compared
        if not self.compared:
            return Row(name, kind, top1=top1, elements=self.elements, left_out=left_out)
        kl = None if self.others or not self.distributions else self.divergence / self.distributions
        if self.broken:
            kl = None if kl is None else math.nan
            return Row(name, kind, -math.inf, math.nan, -math.inf, top1, math.inf, self.elements, left_out, kl)
        snr = decibels(self.signal, self.noise)
        psnr = decibels(self.peak * self.peak, self.noise / self.compared)
        return Row(name, kind, snr, self._cosine(), psnr, top1, self.max_abs, self.elements, left_out, kl)

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


def are_probabilities(rows: NDArray[Any]) -> bool:
    """Whether each row along the last axis sums to 1, but for what float16 rounds off, and holds nothing negative."""
    return bool((rows >= 0).all() and (np.abs(rows.sum(-1) - 1) <= _ROUNDED).all())
