"""Which constants of a compressed program learn, and both programs as functions of a batch of samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from corepress.algorithms.learned.stored import Learned, learned
from corepress.errors import ConfigError, CorepressError
from corepress.formats.features import Interface
from corepress.formats.mlprogram import Model, Weight
from corepress.formats.mlprogram.revalue import places
from corepress.opsets import KNOWN
from corepress.runtime.executor import Run
from corepress.runtime.ops.core_ai import ranges
from corepress.runtime.ops.quantization import along, quantize
from corepress.runtime.plan import Block, Step
from corepress.runtime.program import Program
from corepress.runtime.samples import finite_tensors
from corepress.runtime.walk import without_labels
from corepress.sequences import Sample, steps_of

# Arguments that hold a number for each channel: biases, and the gains and shifts of norms.
_CHANNELS = ("bias", "gamma", "beta")
# Bytes of the values that the samples of a batch compute at once: they are kept until their derivatives are known.
_ROOM = 1 << 29
# One batch: for each step of a sequence, which is mostly one alone, the inputs in order; each has the samples along a
# first axis of its own.
Batch = Sequence[Sequence[Tensor]]


@dataclass(frozen=True)
class Part:
    """A constant that learns. `weights`: those that share its data. `buffers`: by which the program knows them."""

    weights: tuple[Weight, ...]
    buffers: tuple[str, ...]
    module: Learned

    @property
    def compressed(self) -> bool:
        """Whether it is a compressed weight."""
        return any(weight.compression for weight in self.weights)


@dataclass(frozen=True)
class Parts:
    """The constants of a model that learn. `frozen`: by name, why compressed weights do not."""

    learning: tuple[Part, ...]
    frozen: Mapping[str, str]

    def dense(self) -> dict[str, Tensor]:
        """The dense values, as what is stored would decompress to, by buffer."""
        found = {}
        for part in self.learning:
            value = part.module()
            found.update(dict.fromkeys(part.buffers, value))
        return found


def parts_of(original: Model, small: Model, programs: Mapping[str, Program]) -> Parts:
    """The weights that functions of a compressed model read and that can learn. `programs`: by the functions' names,
    which stand before those of their buffers."""
    exact = {(weight.function, weight.output): weight for weight in original.weights()}
    sharing: dict[Any, list[Weight]] = {}
    for weight in small.weights():
        sharing.setdefault(weight.key, []).append(weight)
    learning, frozen = [], {}
    devices = [program.device for program in programs.values()]
    for weights in sharing.values():
        buffers = tuple(
            f"{weight.function}/{programs[weight.function].constants[weight.output]}"
            for weight in weights
            if weight.function in programs and weight.output in programs[weight.function].constants
        )
        first = weights[0]
        if not buffers or not (first.compression or _of_channels(weights)):
            continue
        try:
            module = _module(first, exact.get((first.function, first.output))).to(devices[0])
        except CorepressError as error:
            if first.compression:
                frozen[first.name] = str(error)
            continue
        learning.append(Part(tuple(weights), buffers, module))
    return Parts(tuple(learning), frozen)


def _module(weight: Weight, exact: Weight | None) -> Learned:
    value = weight.read()
    places(weight, value)  # refuses what could not be written
    dense = exact.dense() if exact is not None and exact.shape == weight.shape and weight.compression else None
    return learned(value, dense)


def _of_channels(weights: Iterable[Weight]) -> bool:
    """Whether plain weights are biases, gains or shifts, wherever they are read."""
    return all(
        weight.argument is None
        and weight.dtype in ("float16", "float32")
        and not weight.is_output
        and bool(weight.consumers)
        and all(consumer.argument in _CHANNELS for consumer in weight.consumers)
        for weight in weights
    )


class Answers(NamedTuple):
    """What a program computes of a batch: its outputs, and the values at its cuts; each step's after the other's."""

    outputs: list[Tensor]
    inside: list[Tensor]


class Batched:
    """A program as a function of a batch, with some of its constants replaced. `names`: of its values at cuts.

    Operations run on all samples of a batch at once, by `torch.vmap`; one by one where an operation can't.
    """

    def __init__(self, program: Program, names: Sequence[str] = ()):
        self.program, self.names = program, names
        self.plan = straight(without_labels(program.module.plan))
        self.at_once = True
        self._room: dict[Any, int] = {}

    def batches(self, samples: Sequence[Sample], most: int) -> Iterator[tuple[Batch, int]]:
        """The samples as tensors, those of equal shapes together, at most a batch at once and as many as there is room
        for; and how many they are."""
        alike: dict[Any, list[Batch]] = {}
        program = self.program
        for sample in samples:
            steps = [program.tensors(finite_tensors(program.interface.inputs, step)) for step in steps_of(sample)]
            alike.setdefault(tuple((t.shape, t.dtype) for step in steps for t in step), []).append(steps)
        for shapes, group in alike.items():
            part = min(most, self._fitting(shapes, group[0])) if self.at_once else 1
            for first in range(0, len(group), part):
                some = group[first : first + part]
                yield (
                    [[torch.stack(values) for values in zip(*step, strict=True)] for step in zip(*some, strict=True)],
                    len(some),
                )

    @torch.no_grad()
    def _fitting(self, shapes: Any, sample: Batch) -> int:
        """For how many samples of these shapes there is room."""
        if shapes not in self._room:
            sizes: list[int] = []

            def count(_: str, value: Any) -> None:
                sizes.append(value.nbytes if isinstance(value, Tensor) else 0)

            state, held = self.program.make_state(), self.program.module.constants()
            for given in sample:
                Run(held, state, count).block(self.plan, dict(zip(self.plan.inputs, given, strict=True)))
            self._room[shapes] = max(1, _ROOM // max(1, sum(sizes)))
        return self._room[shapes]

    def __call__(self, batch: Batch, constants: Mapping[str, Tensor], *, inside: bool = False) -> Answers:
        """`inside`: whether values at cuts are wanted."""
        held = {**self.program.module.constants(), **constants}
        names = self.names if inside else ()
        count = len(batch[0][0])
        if self.at_once and count > 1:
            try:
                return Answers(*torch.vmap(lambda given: self._one(given, held, names))([list(step) for step in batch]))
            except (CorepressError, RuntimeError):
                self.at_once = False
        answers = [self._one([[tensor[i] for tensor in step] for step in batch], held, names) for i in range(count)]
        return Answers(
            *([torch.stack(found) for found in zip(*part, strict=True)] for part in zip(*answers, strict=True))
        )

    def _one(self, steps: Batch, held: Mapping[str, Any], names: Sequence[str]) -> tuple[list[Tensor], list[Tensor]]:
        """Of one sample the outputs, as far as they are tensors, and the values of these names."""
        state = self.program.make_state()
        outputs: list[Tensor] = []
        inside: list[Tensor] = []
        for given in steps:
            seen: dict[str, Tensor] = {}

            # With an observer no state is changed in place, which would end the derivative.
            def observe(name: str, value: Any, seen: dict[str, Tensor] = seen) -> None:
                if name in names:
                    seen[name] = value

            run = Run(held, state, observe if state or names else None)
            found = run.block(self.plan, dict(zip(self.plan.inputs, given, strict=True)))
            outputs += [value for value in found if isinstance(value, Tensor)]
            inside += [seen[name] for name in names]
        return outputs, inside


def straight(plan: Block) -> Block:
    """A plan in which the rounding of activations has a derivative, that of no rounding."""
    steps = [replace(step, function=_straight(step)) if step.kind == "quantize" else step for step in plan.steps]
    return replace(plan, steps=steps)


def _straight(step: Step) -> Callable[..., Tensor]:
    """What computes a `quantize`; that of Core AI has other arguments."""
    return _core_ai_quantized if "offset" in step.arguments else _quantized


def _quantized(
    input: Tensor, scale: Tensor, output_dtype: str, zero_point: Tensor | None = None, axis: int | None = None
) -> Tensor:
    """The integers that `quantize` gives, as floating-point numbers."""
    moving = input / along(axis, scale, input)
    if zero_point is not None:
        moving = moving + along(axis, zero_point, input).to(moving.dtype)
    return _through(quantize(input, scale, output_dtype, zero_point, axis), moving)


def _core_ai_quantized(
    input: Tensor, scale: Tensor, offset: Tensor, minimum: Tensor, axis: Sequence[int], output_dtype: str
) -> Tensor:
    """The same of Core AI's."""
    spread = ranges.spread_over(input, axis)
    moving = (input - spread(minimum)) / spread(scale) + spread(offset).to(input.dtype)
    return _through(ranges.quantize(input, scale, offset, minimum, axis, output_dtype), moving)


def _through(whole: Tensor, moving: Tensor) -> Tensor:
    """Integers as floating-point numbers with the derivative of what was rounded; what is cut off has none."""
    ends = torch.iinfo(whole.dtype)
    inside = (moving > ends.min - 0.5) & (moving < ends.max + 0.5)
    through = moving - moving.detach()
    return whole.to(moving.dtype) + torch.where(inside, through, torch.zeros_like(through))


def check_interface(original: Interface, small: Interface, path: Any) -> None:
    """A ConfigError where what two models take and give differs."""
    for what, one, other in (
        ("inputs", original.inputs, small.inputs),
        ("outputs", original.outputs, small.outputs),
        ("states", original.states, small.states),
    ):
        if [(f.name, f.shape) for f in one] != [(f.name, f.shape) for f in other]:
            raise ConfigError(f"{path}: its {what} are not those of the original: is it the same model, compressed?")


def check_same(original: Program, small: Program, path: Any) -> None:
    """A ConfigError where two programs are not of one model: other inputs, outputs or operations, but for some that
    compression adds."""
    check_interface(original.interface, small.interface, path)
    mine = small.kinds()
    for name, kind in original.kinds().items():
        # Of a product that was taken apart, to keep outliers by themselves, the sum has its name.
        if mine.get(name) != kind and not (mine.get(name) == "add" and KNOWN[kind].sums):
            raise ConfigError(f"{path}: its operations are not those of the original, from {name!r} on")
