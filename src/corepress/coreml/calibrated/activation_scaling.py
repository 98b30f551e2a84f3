"""Activation-aware scales in a package: what `algorithms/fitted/scaling.py` needs to know of its operations.

Constants with a number for each channel that a value is computed with are tried as what gives it its scale. Only values
of constants change.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from corepress.algorithms.fitted.awq import Inputs, Rounding, Scaling
from corepress.algorithms.fitted.layout import Layout
from corepress.algorithms.fitted.scaling import NEAREST, Answers, Group, Pair, Reader, Source, pairs, warn_of_others
from corepress.algorithms.fitted.statistics import Statistics
from corepress.coreml.calibrated.constants import plain_constants, with_constants
from corepress.coreml.calibrated.layers import counted_vectors, layout_of
from corepress.coreml.calibrated.sensitivity import of_vectors
from corepress.engine import Skip
from corepress.errors import CorepressError, DataError
from corepress.formats.mlprogram import Model, Weight
from corepress.runtime import load
from corepress.runtime.plan import Step
from corepress.runtime.program import Program
from corepress.runtime.samples import finite_tensors
from corepress.runtime.walk import each_program, walk
from corepress.sequences import Sample, each_step
from corepress.weights import decompress

# What gives the channels of an operation's output their scale.
_PARTS = {
    "layer_norm": ("gamma", "beta"),
    "batch_norm": ("gamma", "beta"),
    "instance_norm": ("gamma", "beta"),
    "linear": ("weight", "bias"),
    "conv": ("weight", "bias"),
    "matmul": ("y",),
    "mul": ("x", "y"),
}


@dataclass(frozen=True)
class _Product(Reader):
    """An operation that multiplies by a constant, its argument `argument`; `key`: the name of the buffer."""

    step: Step
    argument: str

    @property
    def multiplied(self) -> str:
        """Under which the operation reads what it multiplies."""
        return "y" if self.step.kind == "matmul" and self.argument == "x" else "x"


def scale_activations(
    model: Model,
    choose: Callable[[Weight], Any],
    samples: Sequence[Sample],
    function: str | None,
    device: str,
) -> Model:
    """A model that answers the same, whose weights are rounded with less effect on the outputs of their layers.

    `choose`: the action on a weight; raises Skip for one that is left alone. Weights whose input nothing before them
    can scale stay as they are; a warning says how many.
    """
    program = load(model, device, precision="float32", function=function)
    values: dict[tuple[str, str], Tensor] = {}
    rounded = without = 0
    for name, stage, given in each_program(program, samples):
        weights = plain_constants(model, stage, name)
        if not weights:
            continue
        roundings, scaled = _scale(stage, weights, choose, given)
        changed = {id(tensor) for pair in scaled for tensor in pair.tensors}
        constants = stage.module.constants()
        values |= {(name, weights[b].output): constants[b] for b in weights if id(constants[b]) in changed}
        rounded += len(roundings)
        without += len(roundings - {layer.key for pair in scaled for layer in pair.layers})
    warn_of_others(without, rounded)
    result = with_constants(model, values)
    # It counts as the model that a compression begins with, so that reports don't take scales for errors.
    result.origin = None
    return result


def _scale(
    program: Program, weights: Mapping[str, Weight], choose: Callable[[Weight], Any], given: Sequence[Sample]
) -> tuple[set[str], list[Pair[_Product]]]:
    """Scale constants of a program. The buffers of the weights that will be rounded, and what was scaled."""
    first = next(each_step(given))
    products = _products(program, first, weights)
    roundings: dict[str, Rounding] = {}
    for product in products:
        with contextlib.suppress(Skip):
            weight = weights[product.key]
            roundings[product.key] = _rounding(choose(weight), weight.dtype, product.layout)
    found = list(pairs(_groups(program, products, weights), _answers(program, first), roundings))
    if not found:
        return set(roundings), []
    counting = of_vectors(program, {layer.key for pair in found for layer in pair.layers}, given)
    scalings: list[tuple[Pair[_Product], Scaling]] = []
    by_first = {pair.layers[0].step.name: pair for pair in found}

    def visit(step: Step, arguments: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        if (pair := by_first.get(step.name)) is not None:
            values = [own[pair.layers[0].multiplied] for own in arguments]
            with contextlib.suppress(CorepressError):  # which fitting the weight will find as well, and say
                inputs = [_inputs(layer, values, counting.get(layer.step.name)) for layer in pair.layers]
                scalings.append((pair, pair.best_scale(inputs, roundings)))
        return {}

    walk(program, given, visit)
    for pair, scaling in scalings:
        pair.apply(scaling.scale)
    return set(roundings), [pair for pair, _ in scalings]


def _products(program: Program, sample: Mapping[str, Any], weights: Mapping[str, Weight]) -> list[_Product]:
    found: list[_Product] = []
    constants = program.module.constants()

    def visit(step: Step, arguments: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        for argument, buffer in step.held:
            layout = layout_of(step.kind, argument, arguments[0]) if buffer in weights else None
            if layout is not None:
                found.append(_Product(buffer, constants[buffer], layout, step, argument))
        return {}

    walk(program, [sample], visit)
    return found


def _rounding(action: Any, dtype: str, layout: Layout) -> Rounding:
    def rounded(weight: Tensor, matrices: Tensor) -> Tensor:
        statistics = Statistics(layout)
        statistics.hessian.matrix = matrices.cpu()
        form = action.fit(weight.reshape(layout.shape).cpu().numpy().astype(dtype), statistics)
        if form is None:
            raise DataError("it is compressed without data")
        return torch.from_numpy(decompress(form)).to(weight).reshape(weight.shape)

    return rounded


def _inputs(product: _Product, values: Sequence[Tensor], counting: Sequence[Tensor] | None) -> Inputs:
    """Statistics of what a product makes of a value, one for each step. `counting`: how much its vectors count."""
    found = Inputs(product.layout, values[0].device)
    for number, value in enumerate(values):
        arguments = product.step.constant | {product.multiplied: value}
        counts = None if counting is None else counting[number]
        for part in counted_vectors(product.step.kind, product.argument, arguments, product.layout, counts):
            found.add(*part)
    return found


def _groups(program: Program, products: Sequence[_Product], weights: Mapping[str, Weight]) -> Iterator[Group[_Product]]:
    """The products of one value."""
    readers: dict[str, list[_Product]] = {}
    for product in products:
        if (value := dict(product.step.computed).get(product.multiplied)) is not None:
            readers.setdefault(value, []).append(product)
    place = {step.name: number for number, step in enumerate(program.module.plan.steps)}
    for value, group in readers.items():
        first = place[group[0].step.name]
        behind = {product.step.outputs[0] for product in products if place[product.step.name] >= first}
        yield Group(tuple(group), itertools.islice(_sources(program, value, products, weights), NEAREST), behind)


def _sources(
    program: Program, value: str, products: Sequence[_Product], weights: Mapping[str, Weight]
) -> Iterator[Source]:
    """The constants with a number for each channel that a value is computed with, the nearest first.

    What is computed before one is not looked at: it may be scaled anew there.
    """
    makers = {name: step for step in program.module.plan.steps for name in step.outputs}
    constants = program.module.constants()
    waiting, seen = [value], {value}
    while waiting:
        step = makers.get(waiting.pop(0))
        if step is None:
            continue
        if parts := _parts(step, weights):
            made_by = tuple(product for product in products if product.key in parts)
            yield Source(tuple((constants[buffer], axis) for buffer, axis in parts.items()), made_by)
            continue
        for _, name in step.computed:
            if name not in seen:
                seen.add(name)
                waiting.append(name)


def _parts(step: Step, weights: Mapping[str, Weight]) -> dict[str, int]:
    """The constants of an operation that give the channels of its result their scale, and the axis of these."""
    names = _PARTS.get(step.kind, ())
    held = [(argument, buffer) for argument, buffer in step.held if argument in names]
    parts: dict[str, int] = {}
    for argument, buffer in held:
        if buffer not in weights:
            return {}
        wide = [axis for axis, size in enumerate(weights[buffer].shape) if size > 1]
        if step.kind == "matmul":
            parts[buffer] = 0 if step.constant.get("transpose_y") else 1
        elif step.kind in ("linear", "conv") and argument == "weight":
            parts[buffer] = 0
        elif len(wide) == 1:
            parts[buffer] = wide[0]
        else:
            return {}
    channels = {weights[buffer].shape[axis] for buffer, axis in parts.items()}
    return parts if len(channels) == 1 else {}


def _answers(program: Program, sample: Mapping[str, Any]) -> Answers:
    """The values of these names in one run, and the outputs."""
    tensors = finite_tensors(program.interface.inputs, sample)
    given = program.tensors(tensors)

    def answers(names: Collection[str]) -> Mapping[str | None, list[Tensor]]:
        found: dict[str | None, list[Tensor]] = {}

        def observe(name: str, value: Any) -> None:
            if name in names:
                found[name] = [value]

        states = program.make_state() if program.interface.states else None
        results = program.module(*given, states=states, observe=observe)
        return found | {None: [result for result in results if isinstance(result, Tensor)]}

    return answers
