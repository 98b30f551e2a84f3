"""Ranges of quantized activations as something that learns: the scale of a `quantize` and of what undoes it.

With s the scale, x an activation and q the integer of x / s, the derivative of s q with regard to s is q - x / s
between the ends of the integers, and q where x was cut off: LSQ (Esser et al. 2020, arXiv 1902.08153, equation 3). It
comes of itself where the rounding has the derivative of no rounding (`student.straight`), and both operations have one
scale.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from corepress.algorithms.learned.stored import LearnedNumbers
from corepress.formats.mlprogram import Model
from corepress.formats.mlprogram.program import Node, nodes
from corepress.formats.mlprogram.values import read_tensor
from corepress.refining.student import Part
from corepress.runtime.program import Program

Array = NDArray[Any]

# A step of a scale, as a part of it: few numbers lie where a range ends, and 8 bits bear a wider one.
_STEP = 1 / 8


@dataclass(frozen=True)
class Range(Part):
    """The scale of several operations. `places`: of each its function and the name of what it gives."""

    places: tuple[tuple[str, str], ...]


def ranges_of(model: Model, programs: Mapping[str, Program]) -> tuple[list[Range], dict[str, str]]:
    """The ranges of functions of a model that can learn; and by the name of a `quantize` why others can't. `programs`:
    as `student.parts_of` takes them."""
    found, frozen = [], {}
    steps = {
        (function, name): step
        for function, program in programs.items()
        for step in program.module.plan.steps
        for name in step.outputs
    }
    for node in nodes(model.spec):
        function = str(node.function)
        if node.type != "quantize" or (function, _output(node)) not in steps:
            continue
        together = [node, *(use.node for use in node.uses if use.node is not None)]
        reason = _reason(node, together, model)
        if reason:
            frozen[node.name] = reason
            continue
        scale = _scale(node, model)
        buffers = {f"{function}/{dict(steps[function, _output(one)].held)['scale']}" for one in together}
        module = LearnedNumbers(scale, torch.from_numpy(np.array(scale, np.float32)) * _STEP).to(
            programs[function].device
        )
        places = tuple((function, _output(one)) for one in together)
        found.append(Range((), tuple(sorted(buffers)), module, places))
    return found, frozen


def write(model: Model, ranges: Iterable[Range]) -> None:
    """Put what they hold now into the operations of a model."""
    known = {(str(node.function), _output(node)): node for node in nodes(model.spec) if node.op.outputs}
    for part in ranges:
        scale = part.module.stored()
        assert isinstance(scale, np.ndarray)
        for place in part.places:
            _holder(known[place]).value.CopyFrom(model.store(scale))


def _reason(node: Node, together: list[Node], model: Model) -> str:
    """Why the scale of a `quantize` can't learn; empty if it can."""
    if len(together) != len(node.uses) + 1 or any(other.type != "dequantize" for other in together[1:]):
        return "its integers are not only dequantized"
    if any(_holder(one).value is None for one in together):
        return "its scale is computed"
    scales = [_scale(one, model) for one in together]
    if any(not np.array_equal(scale, scales[0]) or scale.dtype != scales[0].dtype for scale in scales[1:]):
        return "it is dequantized by another scale"
    held = [operand.node for one in together if (operand := one.operand("scale")) is not None and operand.node]
    if any(use.node not in together for constant in held for use in constant.uses):
        return "its scale is shared with other operations"
    return "" if (scales[0] > 0).all() else "its scale is not positive"


def _holder(node: Node) -> Any:
    """The operand that holds the scale of an operation, in place or in a constant."""
    operand = node.operand("scale")
    if operand is not None and operand.node is not None and operand.node.is_const:
        return operand.node.operand("val")
    return operand


def _scale(node: Node, model: Model) -> Array:
    return read_tensor(_holder(node).value, model, f"{node}, scale")


def _output(node: Node) -> str:
    return str(node.op.outputs[0].name)
