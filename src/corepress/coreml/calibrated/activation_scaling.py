"""Activation-aware scales in a package: layers are scaled up, and what makes their input is scaled down in turn.

As in `corepress.torch.layerwise_compression.activation_scaling`, what belongs together is found by trial: operations
that come before, with a constant for each channel, are candidates; one power of two for each channel goes into the
layers and out of a candidate, and if all products and outputs for the first sample stay the same, it will do. Only
values of constants change.
"""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from corepress.algorithms.fitted.awq import (
    Inputs,
    Layer,
    Rounding,
    Scaling,
    activation_scale,
    by_channel,
    keeps_rows,
    spread,
    trial_scale,
    unchanged,
)
from corepress.algorithms.fitted.hessian import Hessian
from corepress.algorithms.fitted.layout import Layout
from corepress.coreml.calibrated.fit import fit
from corepress.coreml.calibrated.layers import layout_of, vectors_of
from corepress.coreml.calibrated.sensitivity import of_vectors
from corepress.coreml.choose import FLOATS
from corepress.coreml.engine import Skip, run
from corepress.errors import CorepressError, DataError
from corepress.formats.mlprogram import Model, Weight
from corepress.runtime import load
from corepress.runtime.plan import Step
from corepress.runtime.program import Program
from corepress.runtime.samples import finite_tensors
from corepress.runtime.walk import each_program, walk
from corepress.weights import decompress

log = logging.getLogger(__name__)

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
_NEAREST = 6  # candidates that are tried


@dataclass(frozen=True)
class _Product:
    """An operation that multiplies by a constant. `key`, `buffer`: its argument and the name of the buffer."""

    step: Step
    key: str
    buffer: str
    layout: Layout

    @property
    def argument(self) -> str:
        """Under which the operation reads what it multiplies."""
        return "y" if self.step.kind == "matmul" and self.key == "x" else "x"

    @property
    def input(self) -> str | None:
        return dict(self.step.computed).get(self.argument)


@dataclass(frozen=True)
class _Pair:
    """Products of one value, and the constants, (buffer, axis), that give its channels their scale."""

    made_by: tuple[tuple[str, int], ...]
    products: tuple[_Product, ...]
    channels: int

    def apply(self, constants: Mapping[str, Tensor], scale: Tensor) -> None:
        for product in self.products:
            layout = self.layout(product)
            assert layout is not None
            constants[product.buffer].view(layout.shape).mul_(spread(scale, layout))
        for buffer, axis in self.made_by:
            value = constants[buffer]
            value.div_(scale.reshape(-1, *[1] * (value.dim() - 1 - axis)))

    def layout(self, product: _Product) -> Layout | None:
        """That of a product, by these channels; None if it has others."""
        return by_channel(product.layout, self.channels)

    @property
    def giving(self) -> list[str]:
        return [buffer for buffer, _ in self.made_by]

    @property
    def buffers(self) -> list[str]:
        return self.giving + [product.buffer for product in self.products]


def scale_activations(
    model: Model,
    choose: Callable[[Weight], Any],
    samples: Sequence[Mapping[str, Any]],
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
        weights = _weights(model, stage, name)
        if not weights:
            continue
        roundings, pairs = _scale(stage, weights, choose, given)
        constants = stage.module.constants()
        values |= {(name, weights[buffer].output): constants[buffer] for pair in pairs for buffer in pair.buffers}
        rounded += len(roundings)
        without += len(roundings - {product.buffer for pair in pairs for product in pair.products})
    if without:
        log.warning(
            "activation_aware_scale: %d of %d weights do without, since no single constant before them could take up "
            "the inverse of their scale", without, rounded,
        )  # fmt: skip
    return _rewritten(model, values)


def _scale(
    program: Program, weights: Mapping[str, Weight], choose: Callable[[Weight], Any], given: Sequence[Mapping[str, Any]]
) -> tuple[set[str], list[_Pair]]:
    """Scale constants of a program. The buffers of the weights that will be rounded, and what was scaled."""
    products = _products(program, given[0], weights)
    roundings: dict[str, Rounding] = {}
    for product in products:
        with contextlib.suppress(Skip):
            weight = weights[product.buffer]
            roundings[product.buffer] = _rounding(choose(weight), weight.dtype, product.layout)
    with torch.no_grad():
        pairs = list(_pairs(program, given[0], products, roundings, weights))
    counting = of_vectors(program, {product.buffer for pair in pairs for product in pair.products}, given)
    constants = program.module.constants()
    with torch.no_grad():
        gathering = _Gathering(pairs, roundings, constants, counting)
        walk(program, given, gathering.visit)
        for pair, scaling in gathering.scalings:
            pair.apply(constants, scaling.scale)
    return set(roundings), [pair for pair, _ in gathering.scalings]


def _weights(model: Model, program: Program, function: str) -> dict[str, Weight]:
    """The plain weights of the function whose numbers nothing else shares, by the name of their buffer."""
    everything = model.weights()
    holders = Counter(weight.key for weight in everything)
    return {
        program.constants[weight.output]: weight
        for weight in everything
        if weight.function == function
        and weight.output in program.constants
        and holders[weight.key] == 1
        and not (weight.compression or weight.is_output or weight.argument)
        and weight.dtype in FLOATS
    }


def _products(program: Program, sample: Mapping[str, Any], weights: Mapping[str, Weight]) -> list[_Product]:
    found: list[_Product] = []

    def visit(step: Step, arguments: list[dict[str, Any]]) -> dict[str, Tensor]:
        for key, buffer in step.held:
            layout = layout_of(step.kind, key, arguments[0]) if buffer in weights else None
            if layout is not None:
                found.append(_Product(step, key, buffer, layout))
        return {}

    walk(program, [sample], visit)
    return found


def _rounding(action: Any, dtype: str, layout: Layout) -> Rounding:
    def rounded(weight: Tensor, matrices: Tensor) -> Tensor:
        hessian = Hessian(layout.columns, layout.groups)
        hessian.matrix = matrices.cpu()
        form = fit(action, weight.reshape(layout.shape).cpu().numpy().astype(dtype), layout, hessian)
        if form is None:
            raise DataError("it is compressed without data")
        return torch.from_numpy(decompress(form)).to(weight).reshape(weight.shape)

    return rounded


class _Gathering:
    """The best scale of each pair, found when the first of its products is reached."""

    def __init__(
        self,
        pairs: Sequence[_Pair],
        roundings: Mapping[str, Rounding],
        constants: Mapping[str, Tensor],
        counting: Mapping[str, list[Tensor]],
    ):
        self.roundings, self.constants, self.counting = roundings, constants, counting
        self.by_step = {pair.products[0].step.name: pair for pair in pairs}
        self.scalings: list[tuple[_Pair, Scaling]] = []

    def visit(self, step: Step, arguments: list[dict[str, Any]]) -> dict[str, Tensor]:
        if (pair := self.by_step.get(step.name)) is not None:
            with contextlib.suppress(CorepressError):  # which fitting the weight will find as well, and say
                self.scalings.append((pair, self.scaling(pair, arguments)))
        return {}

    def scaling(self, pair: _Pair, arguments: list[dict[str, Any]]) -> Scaling:
        layers = []
        known = [
            self.inputs(product, [own[pair.products[0].argument] for own in arguments]) for product in pair.products
        ]
        for product, inputs in zip(pair.products, known, strict=True):
            if product.buffer in self.roundings:
                layout = pair.layout(product)
                assert layout is not None
                weight = self.constants[product.buffer].view(layout.shape)
                layers.append(Layer(weight, layout, inputs.hessian.matrix, self.roundings[product.buffer]))
        return activation_scale(layers, known[0].magnitude.reshape(pair.channels, -1).mean(1))

    def inputs(self, product: _Product, values: list[Tensor]) -> Inputs:
        """Statistics of what one product makes of a value, (one for each sample)."""
        found = Inputs(product.layout, values[0].device)
        factors = self.counting.get(product.step.name)
        for number, value in enumerate(values):
            first = 0
            arguments = product.step.constant | {product.argument: value}
            for vectors in vectors_of(product.step.kind, product.key, arguments, product.layout):
                last = first + vectors.shape[1]
                found.add(vectors, None if factors is None else factors[number][first:last])
                first = last
        return found


def _pairs(
    program: Program,
    sample: Mapping[str, Any],
    products: Sequence[_Product],
    roundings: Mapping[str, Rounding],
    weights: Mapping[str, Weight],
) -> Iterator[_Pair]:
    """The products, one of them rounded at least, whose input can be scaled, with the constants that scale it."""
    groups: dict[str | None, list[_Product]] = {}
    for product in products:
        groups.setdefault(product.input, []).append(product)
    groups.pop(None, None)
    steps = program.module.plan.steps
    makers = {name: step for step in steps for name in step.outputs}
    place = {step.name: number for number, step in enumerate(steps)}
    multiplying = [product.step for product in products]
    answers = _answers(program, sample, {step.outputs[0] for step in multiplying})
    for value, group in groups.items():
        if not any(product.buffer in roundings for product in group):
            continue
        compared = {step.outputs[0] for step in multiplying if place[step.name] >= place[group[0].step.name]}
        for made_by, channels in _candidates(str(value), makers, weights):
            pair = _Pair(made_by, tuple(group), channels)
            if None in map(pair.layout, group):
                continue
            with _scaled_at_random(program, pair):
                tried = _answers(program, sample, compared)
            if all(unchanged(answers[name], other) for name, other in tried.items()):
                if all(_keeps_rows(program, each, roundings) for each in products if each.buffer in pair.giving):
                    yield pair
                break


def _keeps_rows(program: Program, product: _Product, roundings: Mapping[str, Rounding]) -> bool:
    if product.buffer not in roundings:
        return True
    weight = program.module.constants()[product.buffer]
    return keeps_rows(Layer(weight, product.layout, weight, roundings[product.buffer]))


def _candidates(
    value: str, makers: Mapping[str, Step], weights: Mapping[str, Weight]
) -> Iterator[tuple[tuple[tuple[str, int], ...], int]]:
    """The constants with a number for each channel that a value is computed with, and the channels: the nearest first.

    What is computed before a candidate is not looked at: it may be scaled anew there.
    """
    waiting, seen, found = [value], {value}, 0
    while waiting and found < _NEAREST:
        step = makers.get(waiting.pop(0))
        if step is None:
            continue
        parts = _parts(step, weights)
        if parts is not None:
            found += 1
            yield parts
            continue
        for _, name in step.computed:
            if name not in seen:
                seen.add(name)
                waiting.append(name)


def _parts(step: Step, weights: Mapping[str, Weight]) -> tuple[tuple[tuple[str, int], ...], int] | None:
    names = _PARTS.get(step.kind, ())
    held = [(key, buffer) for key, buffer in step.held if key in names]
    if not held or not all(buffer in weights for _, buffer in held):
        return None
    parts = []
    for key, buffer in held:
        shape = weights[buffer].shape
        wide = [axis for axis, size in enumerate(shape) if size > 1]
        if step.kind == "matmul":
            axis = 0 if step.constant.get("transpose_y") else 1
        elif step.kind in ("linear", "conv") and key == "weight":
            axis = 0
        elif len(wide) == 1:
            axis = wide[0]
        else:
            return None
        parts.append((buffer, axis))
    channels = {weights[buffer].shape[axis] for buffer, axis in parts}
    return (tuple(parts), channels.pop()) if len(channels) == 1 else None


def _answers(program: Program, sample: Mapping[str, Any], wanted: set[str]) -> dict[str, Tensor]:
    """The values of these names in one run, and the outputs."""
    found: dict[str, Tensor] = {}

    def observe(name: str, value: Any) -> None:
        if name in wanted:
            found[name] = value

    tensors = finite_tensors(program.interface.inputs, sample)
    given = [program.precision.tensor(tensors[name]).to(program.device) for name in program.module.plan.inputs]
    states = program.make_state() if program.interface.states else None
    results = program.module(*given, states=states, observe=observe)
    return found | {f"output {number}": r for number, r in enumerate(results) if isinstance(r, Tensor)}


@contextlib.contextmanager
def _scaled_at_random(program: Program, pair: _Pair) -> Iterator[None]:
    """The constants with a power of two for each channel, for a while."""
    constants = program.module.constants()
    before = {buffer: constants[buffer].clone() for buffer in pair.buffers}
    try:
        pair.apply(constants, trial_scale(pair.channels).to(program.device))
        yield
    finally:
        for buffer, value in before.items():
            constants[buffer].copy_(value)


def _rewritten(model: Model, values: Mapping[tuple[str, str], Tensor]) -> Model:
    """The model with other values for some constants, by their functions and the names of their outputs.

    It counts as the model that a compression begins with, so that reports don't take scales for errors.
    """

    def choose(weight: Weight) -> Callable[[Weight], Any]:
        if (weight.function, weight.output) not in values:
            raise Skip("it is not scaled", quiet=True)
        value = values[weight.function, weight.output].cpu().numpy().astype(weight.dtype)
        return lambda _: value

    result = run(model, choose)
    result.origin, result.skipped = None, dict(model.skipped)
    return result
