"""The last stage of a detector: of boxes that overlap, keep the most confident one.

The rules are those that Apple's `NonMaximumSuppression.proto` states. It leaves three things open, in which this
follows the operation `non_maximum_suppression`: the confidence of a box is that of its likeliest class; a box as
confident as the threshold is kept; boxes whose intersection over union is just the threshold stay both.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from corepress.errors import FormatError
from corepress.formats.features import Feature, Interface, interface_of
from corepress.runtime import limits
from corepress.runtime.boxes import survivors
from corepress.runtime.executor import Executor
from corepress.runtime.plan import Block, Computed, Step
from corepress.runtime.precision import Precision
from corepress.runtime.program import Program

KIND = "nonMaximumSuppression"


def suppress(
    confidence: Tensor,
    coordinates: Tensor,
    iou_threshold: Tensor,
    confidence_threshold: Tensor,
    per_class: bool,
    rows: tuple[int, int],
) -> tuple[Tensor, Tensor]:
    """The boxes that are kept, most confident first: their confidences (n, classes) and coordinates (n, 4).

    `confidence`: (boxes, classes). `coordinates`: (boxes, 4), each center x, center y, width, height. `per_class`: a
    box puts out only boxes of its likeliest class. `rows`: how many boxes there are at least, filled up with zeros, and
    at most (-1: any number).
    """
    confidence, coordinates = _matrix(confidence), _matrix(coordinates)
    if coordinates.shape[1] != 4 or len(coordinates) != len(confidence) or not confidence.shape[1]:
        shapes = " and ".join("x".join(map(str, part.shape)) for part in (confidence, coordinates))
        raise ValueError(f"confidences and coordinates are {shapes}, not (boxes x classes) and (boxes x 4)")
    best, label = confidence.max(-1)
    order = torch.argsort(best, descending=True, stable=True)
    candidates = order[best[order] >= float(confidence_threshold.reshape(-1)[0])]
    group = label if per_class else torch.zeros_like(label)
    least, most = rows
    kept = survivors(
        coordinates.double(), group, candidates, float(iou_threshold.reshape(-1)[0]), None if most < 0 else most
    )
    missing = max(0, least - len(kept))
    limits.check(len(kept) + missing, max(4, confidence.shape[1]))
    return F.pad(confidence[kept], (0, 0, 0, missing)), F.pad(coordinates[kept], (0, 0, 0, missing))


def _matrix(x: Tensor) -> Tensor:
    """(1, ..., rows, columns) as (rows, columns)."""
    if x.dim() < 2 or any(size != 1 for size in x.shape[:-2]):
        raise ValueError(f"it takes matrices, not {'x'.join(map(str, x.shape)) or 'a number'}")
    return x.reshape(x.shape[-2:])


class Suppression(Program):
    """A program of this one step, which runs on the CPU."""

    def __init__(self, interface: Interface, step: Block, precision: Precision):
        super().__init__(interface, Executor(step, {}), torch.device("cpu"), precision)

    @property
    def coordinates(self) -> str:
        """The input that holds the coordinates of the boxes."""
        return self.interface.inputs[1].name


def load_suppression(spec: Any, path: Path | None, name: str, precision: Precision) -> Suppression:
    """The model that `spec` is, the stage `name` of that at `path`."""
    what = f"{path or 'the model'}: stage {name!r}"
    message = spec.nonMaximumSuppression
    described = interface_of(spec.description, "")
    # By the names of the step's arguments.
    names = {
        "confidence": message.confidenceInputFeatureName,
        "coordinates": message.coordinatesInputFeatureName,
        **dict(zip(("iou_threshold", "confidence_threshold"), _threshold_names(message), strict=True)),
    }
    outputs = (message.confidenceOutputFeatureName, message.coordinatesOutputFeatureName)
    if "" in (*names.values(), *outputs) or len({*names.values()}) < 4 or outputs[0] == outputs[1]:
        raise FormatError(f"{what}: its inputs and outputs must have different names")
    defaults = thresholds(spec)
    features = tuple(_input(described, name, defaults.get(name)) for name in names.values())
    interface = replace(described, inputs=features, outputs=tuple(_output(described, name) for name in outputs))
    arguments: dict[str, Any] = {key: Computed(name) for key, name in names.items()}
    arguments |= {"per_class": message.pickTop.perClass, "rows": _rows(interface.outputs, what)}
    # The results may have the names of the inputs, which stay what they are.
    results = tuple(f"{name} (kept)" for name in outputs)
    step = Step(KIND, name, arguments, results, function=suppress)
    block = Block(tuple(names.values()), [step], tuple(map(Computed, results)), outputs)
    return Suppression(interface, block, precision)


def thresholds(spec: Any) -> dict[str, float]:
    """By the names of the inputs that may set them: the thresholds of intersection over union and of confidence."""
    message = spec.nonMaximumSuppression
    return dict(zip(_threshold_names(message), (message.iouThreshold, message.confidenceThreshold), strict=True))


def _threshold_names(message: Any) -> tuple[str, str]:
    return (
        message.iouThresholdInputFeatureName or "iouThreshold",
        message.confidenceThresholdInputFeatureName or "confidenceThreshold",
    )


def _input(described: Interface, name: str, default: float | None) -> Feature:
    """An input; that of a threshold may be left out, of the description and of what is given."""
    array = Feature(name, "array" if default is None else "number", (), np.float64)
    found = next((feature for feature in described.inputs if feature.name == name), array)
    return found if default is None else replace(found, optional=True, default=default)


def _output(described: Interface, name: str) -> Feature:
    return next((f for f in described.outputs if f.name == name), Feature(name, "array", (), np.float64))


def _rows(outputs: tuple[Feature, ...], what: str) -> tuple[int, int]:
    """How many boxes the outputs are described to hold, at least and at most; either of them may say so."""
    least, most = 0, -1
    for feature in outputs:
        sizes = feature.ranges[:1] or tuple((size, size) for size in feature.shape[:1])
        for low, high in sizes:
            least, most = max(least, low), high if most < 0 else min(most, high) if high >= 0 else most
    if 0 <= most < least:
        raise FormatError(f"{what}: its outputs are described to hold at least {least} and at most {most} boxes")
    return least, most
