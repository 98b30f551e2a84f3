"""Zeros shared out among the weights of a model: many where they cost its outputs little, few where they cost much.

To set an element w to zero adds about F w^2 / 2 to the error of the outputs, F being its Fisher information (LeCun,
Denker, Solla 1990, "Optimal Brain Damage"; Theis et al. 2018, arXiv 1801.05787, section 2). The zeros that are asked of
all weights together fall on the elements of least cost, which says how many each weight gets; which of its elements
these are then, its method finds with the inputs that it has.
"""

from __future__ import annotations

import contextlib
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from corepress.coreml.action import Action
from corepress.coreml.calibrated.judging import Split
from corepress.coreml.calibrated.sensitivity import sums_of_squares
from corepress.coreml.method import Choose
from corepress.coreml.prune import GlobalSparseGpt
from corepress.engine import Skip
from corepress.formats.mlprogram import Model, Weight
from corepress.runtime import load
from corepress.runtime.walk import each_program

Key = TypeVar("Key", bound=Hashable)

# How many samples the costs are measured on, evenly chosen.
_SAMPLES = 32
# No weight loses more than this: what all is lost of can't be made up for.
_MOST = 0.95
# With fewer zeros than this the mask, a bit for each value, takes more than they save of 16 bits.
_LEAST = 1 / 16


def shared_out(model: Model, choose: Choose, split: Split, function: str | None, device: str) -> Choose:
    """The same choice of actions, but that those which ask for a part of all weights together ask each for its own."""
    asking: list[Weight] = []
    asked: dict[Any, float] = {}
    for weight in model.weights():
        with contextlib.suppress(Skip):  # the compression itself will say so
            action = choose(weight)
            if isinstance(action, GlobalSparseGpt) and action.asked is not None and not weight.compression:
                asking.append(weight)
                asked[weight.key] = action.asked
    if not asking:
        return choose
    costs = _costs(model, asking, split, function, device)
    found = shares(costs, {key: asked[key] for key in costs})

    def chosen(weight: Weight) -> Action:
        action = choose(weight)
        if not isinstance(action, GlobalSparseGpt) or weight.key not in found:
            return action
        if not found[weight.key]:
            raise Skip("zeros cost more in it than in the other weights")
        return action.asking(found[weight.key])

    return chosen


def shares(costs: Mapping[Key, NDArray[Any]], asked: Mapping[Key, float]) -> dict[Key, float]:
    """The part of each weight that becomes zero: as many zeros together as if each had the part that is `asked` of it.

    `costs`: of each weight those of its elements, flat. A weight that few zeros fall on gets none.
    """
    zeros = round(sum(asked[key] * len(own) for key, own in costs.items()))
    # The few elements of each weight that stay in any case have no place among the others.
    free = {key: np.partition(own, int(_MOST * len(own)))[: int(_MOST * len(own))] for key, own in costs.items()}
    found = dict.fromkeys(costs, 0.0)
    while free:
        owners = np.repeat(np.arange(len(free)), [len(own) for own in free.values()])
        together = np.concatenate(list(free.values()))
        first = np.argpartition(together, zeros)[:zeros] if zeros < len(together) else np.arange(len(together))
        counts = np.bincount(owners[first], minlength=len(free))
        parts = {key: int(count) / len(costs[key]) for key, count in zip(free, counts, strict=True)}
        if min(parts.values()) >= _LEAST or not zeros:
            return found | parts
        free = {key: own for key, own in free.items() if parts[key] >= _LEAST}
    return found


def _costs(
    model: Model, weights: Sequence[Weight], split: Split, function: str | None, device: str
) -> dict[Any, NDArray[np.float32]]:
    """What zeros cost in each weight that outputs depend on, by its key: of several functions that read it in all."""
    sums: dict[Any, Any] = {}
    for own, part in split.parts(function).items():
        samples = part.learnt[:: max(1, len(part.learnt) // _SAMPLES)]
        for name, stage, given in each_program(load(model, device, precision="float32", function=own), samples):
            buffers = {
                stage.constants[weight.output]: weight.key
                for weight in weights
                if weight.function == name and weight.output in stage.constants
            }
            for buffer, total in (sums_of_squares(stage, set(buffers), given) if buffers else {}).items():
                sums[buffers[buffer]] = sums.get(buffers[buffer], np.float32(0)) + total.cpu().numpy()
    found = {}
    for weight in weights:
        if weight.key in sums:
            found[weight.key] = (sums.pop(weight.key) * np.square(weight.dense().astype(np.float32))).ravel()
            weight.release()
    return found
