"""What two models answered, sample by sample, as far as a page shows it: pictures, and decisions that changed.

An `Answers` is given to `verify(..., watch=)`, which runs the models; so nothing is run for the page alone.
"""

from __future__ import annotations

import base64
import heapq
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from corepress.errors import importing
from corepress.formats.features import Interface
from corepress.metrics import are_probabilities, decibels, numbers

# Of pictures those of the samples that changed most, and of decisions the first that changed.
PICTURES, CHANGES = 4, 30
# A row of other numbers than probabilities is taken for logits where these are as sure as this on average: a thousand
# numbers of an embedding give probabilities near a thousandth, those of a classifier far larger ones.
SURE = 0.2
_WIDEST = 256
_CHANNELS = (1, 3)
_LEAST_SIDE = 4


@dataclass(frozen=True)
class Change:
    """A decision that changed: of which sample and output, the labels and their probabilities (NaN where there is
    none), before by the original and after by the copy, and the picture that was looked at, if any."""

    sample: int
    output: str
    before: str
    after: str
    before_probability: float
    after_probability: float
    picture: str = ""


@dataclass(frozen=True)
class Pictures:
    """A picture in or out: what was given, or the answers of both models with their difference times `factor`. As
    addresses that hold the picture."""

    sample: int
    name: str
    before: str
    after: str = ""
    difference: str = ""
    factor: int = 0
    snr: float = math.nan


class Decision(NamedTuple):
    """The label that an output decides for, its probability (NaN where there is none), and whether it was told by the
    output or is the largest of numbers that may be logits."""

    label: str
    probability: float
    told: bool


@dataclass
class Tally:
    """The decisions of one output, and those of them that changed."""

    decisions: int = 0
    changed: int = 0
    changes: list[Change] = field(default_factory=list)
    told: int = 0
    sureness: float = 0.0

    @property
    def counts(self) -> bool:
        """Whether its numbers are decisions at all."""
        return self.told > 0 or self.sureness >= SURE * self.decisions


@dataclass
class Answers:
    """Watches a verification. `interface`: that of the models."""

    interface: Interface
    samples: int = 0
    _tallies: dict[str, Tally] = field(default_factory=dict)
    _given: list[Pictures] = field(default_factory=list)
    _worst: list[tuple[float, int, str, NDArray[Any], NDArray[Any]]] = field(default_factory=list)

    def __call__(self, sample: Mapping[str, Any], before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
        """Look at one sample and the answers of both models to it."""
        self.samples += 1
        shown = self._look(sample)
        for name in [name for name in before if name in now]:
            self._compare_pictures(name, before[name], now[name])
            self._compare_decisions(name, before, now, shown)

    @property
    def pictures(self) -> list[Pictures]:
        """Pictures that models gave, those that changed most first; without such the first that they were given."""
        found = sorted(self._worst, key=lambda one: -one[0])
        return [_compared(-order, number, name, one, two) for order, number, name, one, two in found] or self._given

    @property
    def decisions(self) -> int:
        """How many there were, over all outputs that decide."""
        return sum(tally.decisions for tally in self._deciding)

    @property
    def changed(self) -> int:
        """How many of them the copy made otherwise."""
        return sum(tally.changed for tally in self._deciding)

    @property
    def changes(self) -> list[Change]:
        """The first of those, in the order of samples."""
        found = [change for tally in self._deciding for change in tally.changes]
        return sorted(found, key=lambda change: change.sample)[:CHANGES]

    @property
    def _deciding(self) -> list[Tally]:
        return [tally for tally in self._tallies.values() if tally.counts]

    def _look(self, sample: Mapping[str, Any]) -> NDArray[Any] | None:
        """The picture among the inputs, if there is one; kept if it is one of the first."""
        for name, value in sample.items():
            if (pixels := _pixels(value)) is not None:
                if len(self._given) < PICTURES:
                    self._given.append(Pictures(self.samples, name, _address(pixels)))
                return pixels
        return None

    def _compare_pictures(self, name: str, before: Any, now: Any) -> None:
        one, two = _pixels(before), _pixels(now)
        if one is None or two is None or one.shape != two.shape:
            return
        snr = decibels(float((one**2).sum()), float(((one - two) ** 2).sum()))
        order = math.inf if math.isnan(snr) else -snr
        # A sample's number is in it once for each output, so that arrays are never compared.
        (heapq.heappushpop if len(self._worst) >= PICTURES else heapq.heappush)(
            self._worst, (order, self.samples, name, one, two)
        )

    def _compare_decisions(
        self, name: str, before: Mapping[str, Any], now: Mapping[str, Any], shown: NDArray[Any] | None
    ) -> None:
        if name == self.interface.label and self.interface.probabilities in before:
            return  # the probabilities tell the same, and more
        one, two = _decided(before[name]), _decided(now[name])
        if one is None or two is None:
            return
        tally = self._tallies.setdefault(name, Tally())
        tally.decisions += 1
        tally.told += one.told
        tally.sureness += 0.0 if one.told else one.probability
        if one.label != two.label:
            tally.changed += 1
            if len(tally.changes) < CHANGES:
                picture = "" if shown is None else _address(shown)
                change = Change(self.samples, name, one.label, two.label, one.probability, two.probability, picture)
                tally.changes.append(change)


def _decided(value: Any) -> Decision | None:
    """What an output decides for: that of the largest of a row of numbers, of which other numbers than probabilities
    are taken for logits. None of what is no decision."""
    if isinstance(value, str):
        return Decision(value, math.nan, True)
    if isinstance(value, Mapping):
        scores = {str(label): float(score) for label, score in value.items()}
        label = max(scores, key=lambda one: scores[one], default="")
        return Decision(label, scores[label], True) if scores else None
    row = numbers(value)
    if row is None or row.ndim == 0 or row.shape[-1] < 2 or row.size != row.shape[-1] or not np.isfinite(row).all():
        return None
    row = row.reshape(-1)
    told = are_probabilities(row)
    if not told:
        row = np.exp(row - row.max())
        row /= row.sum()
    return Decision(str(int(row.argmax())), float(row.max()), told)


def _pixels(value: Any) -> NDArray[Any] | None:
    """A picture as (height, width, 1 or 3), of an image from 0 to 1, of an array its numbers; None of what is none."""
    array = numbers(value)
    if array is None or not np.isfinite(array).all():
        return None
    if array.ndim == 4 and array.shape[0] == 1 and array.shape[1] in _CHANNELS:
        array = array[0].transpose(1, 2, 0)
    elif hasattr(value, "__array_interface__") and not isinstance(value, np.ndarray):  # an image of Pillow
        array = array.reshape(*array.shape[:2], -1)[..., :3] / 255
    else:
        return None
    return array if min(array.shape[:2]) >= _LEAST_SIDE and array.shape[2] in _CHANNELS else None


def _compared(snr: float, sample: int, name: str, one: NDArray[Any], two: NDArray[Any]) -> Pictures:
    low, high = _range(one)
    difference = two - one
    largest = float(np.abs(difference).max())
    # As much as makes the largest difference a quarter of the range, in whole powers of two.
    factor = 1 if not largest else max(1, 2 ** int(math.log2(max((high - low) / (4 * largest), 1))))
    middle = 0.5 + difference * factor / (high - low) / 2
    return Pictures(
        sample, name, _address(one, low, high), _address(two, low, high), _address(middle, 0, 1), factor, snr
    )


def _range(pixels: NDArray[Any]) -> tuple[float, float]:
    """The numbers that are black and white: 0 and 1 where all lie between them, or else the least and the greatest."""
    low, high = float(pixels.min()), float(pixels.max())
    if low >= 0 and high <= 1:
        return 0.0, 1.0
    return (low, high) if high > low else (low, low + 1)


def _address(pixels: NDArray[Any], low: float | None = None, high: float | None = None) -> str:
    """A picture as a `data:` address of a PNG, no wider or higher than the page shows it."""
    with importing("a report with pictures"):
        from PIL import Image
    if low is None or high is None:
        low, high = _range(pixels)
    grey = np.clip((pixels - low) / (high - low) * 255 + 0.5, 0, 255).astype(np.uint8)
    image = Image.fromarray(grey[..., 0] if grey.shape[2] == 1 else grey)
    image.thumbnail((_WIDEST, _WIDEST))
    held = io.BytesIO()
    image.save(held, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(held.getvalue()).decode("ascii")
