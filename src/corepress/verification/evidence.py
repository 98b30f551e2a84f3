"""What inputs and answers are worth as a proof: samples that are alike, constant inputs, answers that never change."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from corepress.metrics import numbers
from corepress.sequences import ALONE

if TYPE_CHECKING:
    from corepress.formats.features import Feature, Interface
    from corepress.runtime.domains import Domain

# Answers that differ by less than that part of their length (80 dB) are the same.
_SAME = 1e-4


@dataclass
class Evidence:
    """Gathers, sample by sample, what makes a verdict weaker than its numbers look.

    `interface`: of the original; `domains`: what its inputs take, as far as that is known.
    """

    interface: Interface
    domains: Mapping[str, Domain]
    samples: int = 0
    goes_on: bool = False  # whether a sample has several steps
    seen: list[Any] = field(default_factory=list)  # the hash of each sample
    inputs: dict[str, _Range] = field(default_factory=dict)
    outputs: dict[str, _Answers] = field(default_factory=dict)

    def add(self, inputs: Mapping[str, Any], answers: Mapping[str, Any], begins: bool = True) -> None:
        """Count one sample, or one step of a sequence, and what the original answered to it. `begins`: whether it is
        not a further step of the sample before."""
        if begins:
            self.samples += 1
            self.seen.append(hashlib.blake2b(digest_size=16))
        self.goes_on |= not begins
        for name in sorted(inputs):
            given = inputs[name]
            array = numbers(np.asarray(given) if isinstance(given, list | tuple) else given)
            if array is not None:
                self.seen[-1].update(f"{name} {array.shape} ".encode())
                self.seen[-1].update(array.tobytes())
                self.inputs.setdefault(name, _Range()).add(array)
        for name, answer in answers.items():
            self.outputs.setdefault(name, _Answers()).add(answer)

    @property
    def distinct(self) -> int:
        """How many of the samples differ from all others."""
        return len({one.digest() for one in self.seen})

    def notes(self) -> Iterator[str]:
        """What was found, a sentence each."""
        if self.samples == 1:
            yield "a single sample proves little"
        elif self.distinct == 1:
            yield "all samples are the same"
        for feature in self.interface.inputs:
            if feature.name in self.inputs:
                yield from _about_input(feature, self.inputs[feature.name], self.domains.get(feature.name))
        for name, answers in self.outputs.items():
            yield from answers.notes(name, self.distinct)
        if self.interface.states and not self.goes_on:
            yield ALONE


@dataclass
class _Range:
    """The numbers that one input got."""

    low: float = np.inf
    high: float = -np.inf
    constant: bool = True  # within each sample
    size: int = 0

    def add(self, array: NDArray[Any]) -> None:
        low, high = array.min(initial=np.inf), array.max(initial=-np.inf)
        self.constant &= bool(low == high)
        self.low, self.high = float(min(self.low, low)), float(max(self.high, high))
        self.size = max(self.size, array.size)


def _about_input(feature: Feature, found: _Range, domain: Domain | None) -> Iterator[str]:
    name = feature.name
    picture = feature.kind == "image" and feature.color != "grayscale_float16"
    limit = 255.0 if picture else domain.high if domain is not None and domain.kind == "pixels" else None
    if limit == 255 and 0 <= found.low < found.high <= 1:
        yield f"input {name!r} takes pixels from 0 to 255, but got numbers from 0 to 1"
    elif limit == 1 and found.high > 2:
        yield f"input {name!r} takes pixels from 0 to 1, but got numbers up to {found.high:g}"
    if found.constant and found.size > 1 and not _may_be_constant(feature, found, domain):
        yield f"input {name!r} is one number repeated, in every sample"


def _may_be_constant(feature: Feature, found: _Range, domain: Domain | None) -> bool:
    """Masks, and numbers of segments, are often the same everywhere."""
    if domain is not None:
        return domain.kind in ("mask", "bias") or (domain.kind == "index" and domain.high <= 1)
    whole = np.issubdtype(feature.dtype, np.integer) and found.low >= 0 and found.high <= 1
    return whole or "mask" in feature.name.lower()


@dataclass
class _Answers:
    """What the original gave for one output."""

    first: Any = None
    samples: int = 0
    varies: bool = False
    low: float = np.inf
    high: float = -np.inf
    binary: bool = True
    real: bool = True  # floating-point numbers
    size: int = 0

    def add(self, answer: Any) -> None:
        if isinstance(answer, Mapping):
            answer = np.array(list(answer.values()), np.float64)
        self.real &= bool(getattr(answer, "dtype", np.dtype(object)).kind == "f")
        array = numbers(answer)
        value = answer if array is None else array
        if not self.samples:
            self.first = value
        self.samples += 1
        self.varies |= not _same(self.first, value)
        if array is not None:
            finite = array[np.isfinite(array)]
            self.low = float(finite.min(initial=self.low))
            self.high = float(finite.max(initial=self.high))
            self.binary &= bool(np.isin(finite, (0, 1)).all())
            self.size = max(self.size, array.size)

    def notes(self, name: str, distinct: int) -> Iterator[str]:
        text = not isinstance(self.first, np.ndarray)
        if self.size > 1 and self.low == self.high:
            yield f"output {name!r} of the original is {self.low:g} everywhere"
        elif self.size > 1 and self.binary and self.real and self.low < self.high:
            yield f"output {name!r} of the original holds only 0 and 1: it is saturated"
        elif distinct > 1 and not self.varies:
            which = f", {self.first!r}," if text else ""
            yield f"output {name!r} of the original{which} is the same for all samples"


def _same(one: Any, other: Any) -> bool:
    if not isinstance(one, np.ndarray) or not isinstance(other, np.ndarray):
        return bool(one == other)
    if one.shape != other.shape:
        return False
    with np.errstate(invalid="ignore"):
        difference = np.where(one == other, 0.0, one - other)
    both = np.isfinite(one) & np.isfinite(other)
    if not np.array_equal(np.isfinite(one), np.isfinite(other)):
        return False
    return bool(np.linalg.norm(difference[both]) <= _SAME * np.linalg.norm(one[both]))
