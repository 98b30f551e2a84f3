"""Samples to judge by: whether what was fitted to others is better than what the plain method gives."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from corepress.errors import ConfigError
from corepress.formats.mlprogram import Model
from corepress.metrics import decibels
from corepress.runtime import load
from corepress.runtime.load import interface as interface_of
from corepress.runtime.runnable import in_steps
from corepress.runtime.samples import checked
from corepress.runtime.stages.pipeline import Pipeline
from corepress.sequences import Sample
from corepress.split import hold_back

log = logging.getLogger(__name__)

WORSE_AS_A_WHOLE = "with fitted weights the model was worse on the samples held back"


@dataclass(frozen=True)
class Split:
    """Samples by input name: those to learn from, and those to judge by, which may be none.

    `of`: of several functions the samples of each, which together are all of them; empty for those of one function.
    `counted`: for those who compress one model again and again, each time by these samples: takes how much their
    vectors count in that model (`sensitivity.of_vectors`), by the name of its function.
    """

    learnt: Sequence[Sample]
    judged: Sequence[Sample]
    of: Mapping[str, Split] = field(default_factory=dict)
    counted: dict[str, Mapping[str, Sequence[Tensor]]] | None = None

    @property
    def samples(self) -> list[Sample]:
        """All of them, those to learn from first."""
        return [*self.learnt, *self.judged]

    def parts(self, function: str | None) -> Mapping[str | None, Split]:
        """By the name of the function; `function`: that of the samples of one function."""
        return dict(self.of.items()) if self.of else {function: self}

    def judged_by(self, function: str | None) -> Mapping[str | None, Sequence[Sample]]:
        """Those to judge by, by the name of the function."""
        return {name: part.judged for name, part in self.parts(function).items()}

    def all_learnt(self) -> Split:
        """The same samples, all of them to learn from."""
        return Split(self.samples, [], {name: part.all_learnt() for name, part in self.of.items()}, self.counted)


Samples = Iterable[Sample] | Mapping[str, Iterable[Sample]] | Split


def split_of(model: Model, samples: Samples, held_back: float | Samples, function: str | None) -> Split:
    """The samples of a caller, checked: of one function, or {function: samples}. `held_back`: the part of them to judge
    by, or others for that. What was split before stays as it is.

    Raises ConfigError, with its number, for a sample that does not fit the model or is not finite.
    """
    if isinstance(samples, Split):
        return samples
    names = {entry.key for entry in model.spec.mlProgram.functions}
    if not isinstance(samples, Mapping) or not samples or not set(samples) <= names:
        return _split(model, samples, held_back, function, ("sample_data", "held_back"))
    if function is not None:
        raise ConfigError(f"function={function!r} has no effect beside samples for each function")
    others = held_back if isinstance(held_back, Mapping) else {}
    if not isinstance(held_back, int | float) and set(others) != set(samples):
        raise ConfigError(
            "what is held back must be a number, or samples for each function that sample_data has some for"
        )
    splits = {
        name: _split(model, own, others.get(name, held_back), name, (f"sample_data[{name!r}]", f"held_back[{name!r}]"))
        for name, own in samples.items()
    }
    learnt = [sample for part in splits.values() for sample in part.learnt]
    return Split(learnt, [sample for part in splits.values() for sample in part.judged], splits)


def _split(model: Model, samples: Any, held_back: Any, function: str | None, arguments: tuple[str, str]) -> Split:
    """The samples of one function. `arguments`: what the caller calls them, and those to judge by."""
    interface = interface_of(model, function)
    given = list(checked(samples, interface, arguments[0], finite=True, warns=True))
    if not isinstance(held_back, int | float):
        return Split(given, list(checked(held_back, interface, arguments[1], finite=True)))
    split = Split(*hold_back(given, held_back))
    if held_back and not split.judged:
        log.warning(
            "%s holds too few different samples to hold some back: whether the fit is better than none was not "
            "measured", arguments[0],
        )  # fmt: skip
    return split


def is_better(
    original: Model,
    fitted: Model,
    plain: Model,
    judged: Sequence[Sample] | Mapping[str | None, Sequence[Sample]],
    function: str | None,
    device: str,
) -> bool:
    """Whether a fitted model's outputs are as near to the original's, on the samples to judge by, as those of the one
    that the plain method made; a warning says so if not. `judged`: the samples, or those of several functions by their
    names, of which the mean counts."""
    found, parts = [], judged if isinstance(judged, Mapping) else {function: judged}
    for name, own in parts.items():
        exact, one, two = (answers_of(model, own, name, device) for model in (original, fitted, plain))
        found.append((error(exact, one), error(exact, two)))
    errors = [float(np.mean(column)) for column in zip(*found, strict=True)]
    # Written so that NaN never wins.
    if errors[0] <= errors[1] or math.isnan(errors[1]):
        return True
    log.warning(
        "the weights are compressed without the samples, which is better: on the %d held back the outputs have an SNR "
        "of %.1f dB, and of %.1f dB with weights fitted to the others",
        sum(map(len, parts.values())), decibels(1, errors[1]), decibels(1, errors[0]),
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
