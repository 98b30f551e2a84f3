"""Samples to judge by: whether what was fitted to others is better than what the plain method gives."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corepress.formats.mlprogram import Model
from corepress.metrics import decibels
from corepress.runtime import load
from corepress.runtime.load import interface as interface_of
from corepress.runtime.runnable import in_steps
from corepress.runtime.samples import checked
from corepress.runtime.stages.pipeline import Pipeline
from corepress.sequences import Sample
from corepress.split import hold_back

Samples = Iterable[Sample]

log = logging.getLogger(__name__)

WORSE_AS_A_WHOLE = "with fitted weights the model was worse on the samples held back"


@dataclass(frozen=True)
class Split:
    """Samples by input name: those to learn from, and those to judge by, which may be none."""

    learnt: Sequence[Sample]
    judged: Sequence[Sample]

    @property
    def samples(self) -> list[Sample]:
        """All of them, those to learn from first."""
        return [*self.learnt, *self.judged]


def split_of(model: Model, samples: Samples, held_back: float | Samples, function: str | None) -> Split:
    """The samples of a caller, checked. `held_back`: the part of them to judge by, or others for that.

    Raises ConfigError, with its number, for a sample that does not fit the model or is not finite.
    """
    interface = interface_of(model, function)

    given = list(checked(samples, interface, finite=True, warns=True))
    if not isinstance(held_back, int | float):
        return Split(given, list(checked(held_back, interface, "held_back", finite=True)))
    split = Split(*hold_back(given, held_back))
    if held_back and not split.judged:
        log.warning(
            "sample_data holds too few different samples to hold some back: whether the fit is better than none was "
            "not measured"
        )
    return split


def is_better(
    original: Model, fitted: Model, plain: Model, judged: Sequence[Sample], function: str | None, device: str
) -> bool:
    """Whether a fitted model's outputs are as near to the original's, on the samples to judge by, as those of the one
    that the plain method made; a warning says so if not."""
    exact, one, two = (answers_of(model, judged, function, device) for model in (original, fitted, plain))
    errors = error(exact, one), error(exact, two)
    # Written so that NaN never wins.
    if errors[0] <= errors[1] or math.isnan(errors[1]):
        return True
    log.warning(
        "the weights are compressed without the samples, which is better: on the %d held back the outputs have an SNR "
        "of %.1f dB, and of %.1f dB with weights fitted to the others",
        len(judged), decibels(1, errors[1]), decibels(1, errors[0]),
    )  # fmt: skip
    return False


def answers_of(model: Model, samples: Sequence[Sample], function: str | None, device: str) -> dict[str, list[Any]]:
    """By name, what a model answers to each step of each sample, as far as it is numbers."""
    program = load(model, device, precision="float32", function=function)
    if isinstance(program, Pipeline) and program.detections is not None:
        # Which boxes are kept, and in which rows, hangs by a hair: what goes into that stage can be compared.
        program = program.showing(-1, alone=True)
    found: dict[str, list[Any]] = {feature.name: [] for feature in program.interface.outputs}
    for answer in (answer for sample in samples for answer in in_steps(program, sample)):
        for name, value in answer.items():
            array = np.asarray(list(value.values()) if isinstance(value, Mapping) else value)
            if array.dtype.kind in "fiub":
                found[name].append(array)
    return found


def error(exact: Mapping[str, list[Any]], others: Mapping[str, list[Any]]) -> float:
    """The energy of the difference over that of the outputs: its mean over the outputs, each over all samples."""
    ratios = []
    for name, arrays in exact.items():
        sums = [_energies(one, other) for one, other in zip(arrays, others[name], strict=True)]
        signal, noise = (sum(part) for part in zip(*sums, strict=True)) if sums else (0.0, 0.0)
        if signal or noise:
            ratios.append(noise / signal if signal else math.inf)
    return float(np.mean(ratios)) if ratios else 0.0


def _energies(exact: NDArray[Any], other: NDArray[Any]) -> tuple[float, float]:
    one = exact.astype(np.float64).ravel()
    finite = np.isfinite(one)
    signal = float(one[finite] @ one[finite])
    # Such as more boxes, or fewer.
    if exact.shape != other.shape:
        return signal, signal
    difference = other.astype(np.float64).ravel()[finite] - one[finite]
    return signal, float(difference @ difference)
