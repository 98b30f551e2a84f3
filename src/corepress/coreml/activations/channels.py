"""Between which constants of a program a factor for each channel can move without a change of any answer.

A layer can make its output channels smaller by some factors if all that reads them multiplies by these. Where channels
go in between isn't guessed: each number of a value gets the number of its channel as a label, and operations that only
move numbers move the labels. A group of constants is complete when every value that carries the factors is computed
and read by operations that pass factors on, put them in or take them out; if another operation reads one, or it is
an output of the program, there is no group.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from corepress.coreml.activations.labels import Stuck, along, check_reshape, compact, reduced, spread, spread_over
from corepress.runtime import plan
from corepress.runtime.plan import Block, Computed, Step
from corepress.runtime.program import Program
from corepress.runtime.walk import outputs_of

# What computes each number of its own, and takes a positive factor along.
_HOMOGENEOUS = frozenset({"relu", "leaky_relu", "identity"})
_CLIPS = frozenset({"clip", "relu6"})
# What only moves numbers, or repeats or leaves out some.
_MOVES = frozenset(
    {
        *("reshape", "transpose", "expand_dims", "squeeze", "slice_by_index", "slice_by_size", "pad"),
        *("tile", "reverse"),
        *("depth_to_space", "space_to_depth", "pixel_shuffle", "pixel_unshuffle", "upsample_nearest_neighbor"),
    }
)  # fmt: skip
_POOLS = frozenset({"max_pool", "avg_pool"})
_REDUCTIONS = frozenset({"reduce_mean", "reduce_sum", "reduce_max", "reduce_min"})
_PRODUCTS = frozenset({"conv", "linear", "matmul"})
# What gives the channels of an operation's result their size.
_PARTS = {
    "layer_norm": ("gamma", "beta"),
    "batch_norm": ("gamma", "beta"),
    "instance_norm": ("gamma", "beta"),
    "conv": ("weight", "bias"),
    "linear": ("weight", "bias"),
    "matmul": ("y",),
    "mul": ("x", "y"),
}
# A value with its labels, and whether what computes it has to be asked.
_Labelled = tuple[str, Tensor, bool]


@dataclass(frozen=True)
class Held:
    """A constant by the name of its buffer. `labels`, which can be broadcast to it: the factor of each number; 0: 1."""

    buffer: str
    labels: Tensor


@dataclass(frozen=True)
class Reader(Held):
    """The weight of a product that reads a value; it is the argument `argument` of the operation `step`, and multiplies
    `multiplied`, whose numbers have the labels `given`. `rows`: the axis of the weight that the products lie along."""

    step: Step
    argument: str
    multiplied: str
    given: Tensor
    rows: int

    @property
    def value(self) -> str:
        """The name of what is multiplied."""
        return dict(self.step.computed)[self.multiplied]


@dataclass(frozen=True)
class Bound:
    """An operation clips a value, by its name, to `low` and `high`."""

    value: str
    low: float
    high: float


@dataclass
class Group:
    """Constants that channels can be divided in, `makers` (by their buffers), and multiplied in again, `readers`.

    `channels`: how many there are; labels are 1 to this. `values`: of all that carries factors the labels, which can
    be broadcast to it.
    """

    channels: int
    values: dict[str, Tensor] = field(default_factory=dict)
    makers: dict[str, Held] = field(default_factory=dict)
    readers: list[Reader] = field(default_factory=list)
    bounds: list[Bound] = field(default_factory=list)


def groups(program: Program, sample: Mapping[str, Any], usable: Iterable[str]) -> Iterator[Group]:
    """All groups of a program, in order. `usable`: the buffers of constants that may get other numbers."""
    graph = _Graph(program, sample, set(usable))
    seen: set[str] = set()
    for step in program.module.plan.steps:
        if step.outputs and step.outputs[0] not in seen and (group := graph.group(step)) is not None:
            seen.update(group.values)
            yield group


class _Graph:
    """Who computes and reads each value of a program, and their sizes with a sample."""

    def __init__(self, program: Program, sample: Mapping[str, Any], usable: set[str]):
        whole = program.module.plan
        self.constants = program.module.constants()
        self.makers = {name: step for step in whole.steps for name in step.outputs}
        self.readers: dict[str, list[Step]] = defaultdict(list)
        for step in whole.steps:
            for name in dict.fromkeys(name for _, name in step.computed):
                self.readers[name].append(step)
        # Values that something reads that isn't looked into.
        self.closed = set(_computed(whole.outputs)).union(*map(_read_otherwise, whole.steps))
        holders = Counter(_buffers(whole))
        self.usable = {buffer for buffer in usable if holders[buffer] == 1}
        self.flexible = any(feature.ranges or len(feature.shapes) > 1 for feature in program.interface.inputs)
        self.sizes: dict[str, tuple[int, ...]] = {}

        def observe(name: str, value: Any) -> None:
            if isinstance(value, Tensor) and value.is_floating_point():
                self.sizes[name] = tuple(value.shape)

        with torch.no_grad():
            outputs_of(program, sample, observe)

    def group(self, first: Step) -> Group | None:
        """The group that begins with an operation; None if there is none."""
        size = self.sizes.get(first.outputs[0])
        axis = self._made_along(first)
        if size is None or axis is None or first.function is None:
            return None
        group = Group(size[axis])
        labels = spread(torch.arange(1, size[axis] + 1), axis, size)
        waiting: list[_Labelled] = [(first.outputs[0], labels, True)]
        try:
            while waiting:
                name, labels, ask = waiting.pop()
                if name not in group.values:
                    if name in self.closed or self.sizes.get(name) != tuple(labels.shape):
                        return None
                    group.values[name] = labels
                    for step in self.readers[name]:
                        waiting += self._read(step, name, labels, group)
                    if ask:
                        waiting += self._made(self.makers.get(name), labels, group)
                elif not torch.equal(group.values[name], labels):
                    return None
        except Stuck:
            return None
        group.values = {name: compact(labels) for name, labels in group.values.items()}
        return group if group.readers and group.channels > 1 else None

    def _made_along(self, step: Step) -> int | None:
        """The axis of a result along which constants of its operation can divide it, counted from the first."""
        if not step.outputs or (size := self.sizes.get(step.outputs[0])) is None:
            return None
        held = {name: self.constants[buffer].shape for name, buffer in step.held}
        if step.kind in ("conv", "batch_norm", "instance_norm"):
            return 1 if _PARTS[step.kind][0] in held else None
        if step.kind == "linear":
            return len(size) - 1 if "weight" in held else None
        if step.kind == "matmul":
            return len(size) - 1 if len(held.get("y", ())) == 2 else None
        if step.kind == "layer_norm":
            axes: Sequence[int] = step.constant.get("axes") or ()
            return axes[0] % len(size) if len(axes) == 1 and "gamma" in held else None
        if step.kind == "mul" and len(held) == 1:
            shape = next(iter(held.values()))
            wide = [axis + len(size) - len(shape) for axis, length in enumerate(shape) if length > 1]
            return wide[0] if len(wide) == 1 else None
        return None

    def _made(self, step: Step | None, labels: Tensor, group: Group) -> Iterator[_Labelled]:
        """Let the operation that computes a value with these labels divide it, or what that reads be divided."""
        if step is None or step.function is None:
            raise Stuck
        axis = self._made_along(step)
        if axis is not None:
            channels = along(labels, axis)
            held = dict(step.held)
            for name in _PARTS[step.kind]:
                if name in held:
                    shape = self.constants[held[name]].shape
                    self._hold(held[name], spread(channels, _wide(step, shape), [1] * len(shape)), group)
                elif step.kind != "mul" and step.arguments.get(name) is not None:
                    raise Stuck
        elif step.kind in _HOMOGENEOUS | _CLIPS | {"cast"}:
            yield self._argument(step, "x"), labels, True
        elif step.kind in ("add", "sub"):
            yield from self._summands(step, labels, group)
        elif step.kind == "reshape" and not self.flexible:
            name = self._argument(step, "x")
            yield name, labels.reshape(self.sizes.get(name, (-1,))), True
        elif step.kind == "transpose":
            order = [axis % labels.dim() for axis in step.constant["perm"]]
            yield self._argument(step, "x"), labels.permute([order.index(axis) for axis in range(labels.dim())]), True
        else:
            raise Stuck

    def _read(self, step: Step, name: str, labels: Tensor, group: Group) -> Iterator[_Labelled]:
        """What an operation that reads a value makes of its factors."""
        if step.function is None:
            raise Stuck
        own = [argument for argument, read in step.computed if read == name]
        result = step.outputs[0]
        size = self.sizes.get(result)
        if size is None or len(own) != 1:
            raise Stuck
        kind, argument = step.kind, own[0]
        if kind in _HOMOGENEOUS | {"cast"}:
            yield result, labels, False
        elif kind in _CLIPS:
            group.bounds.append(_bound(step, name))
            yield result, labels, False
        elif kind in _MOVES and len(step.computed) == 1 and not step.converted:
            yield result, self._moved(step, argument, labels, group.channels), False
        elif kind in _POOLS and argument == "x":
            yield result, spread(along(labels, 1), 1, size), False
        elif kind in _REDUCTIONS:
            yield result, reduced(step, labels, size), False
        elif kind in ("add", "sub"):
            yield from self._summands(step, labels, group)
            yield result, labels, False
        elif kind == "mul" or (kind == "real_div" and argument == "x"):
            _once(step, argument, group)
            yield result, labels.broadcast_to(size), False
        elif kind == "scaled_dot_product_attention" and argument == "value":
            _once(step, argument, group)
            yield result, spread_over(labels, -2, size), False
        elif kind == "matmul" and len(step.computed) == 2:
            _once(step, argument, group)
            yield result, self._mixed(step, argument, labels, size), False
        elif kind in _PRODUCTS and argument in ("x", "y"):
            self._product(step, argument, labels, group)
        else:
            raise Stuck

    def _moved(self, step: Step, argument: str, labels: Tensor, channels: int) -> Tensor:
        filled = step.constant.get("mode", "constant") == "constant" and step.constant.get("constant_val")
        if step.kind == "pad" and filled:
            raise Stuck
        held = {name: self.constants[buffer] for name, buffer in step.held}
        if self.flexible and step.kind == "reshape":
            check_reshape(labels, channels, step.constant.get("shape") or ())
        assert step.function is not None
        moved = step.function(**{**step.constant, **held, argument: labels.float()})
        if not isinstance(moved, Tensor):
            raise Stuck
        return moved.long()

    def _mixed(self, step: Step, argument: str, labels: Tensor, size: Sequence[int]) -> Tensor:
        """The labels of sums of a value's rows (of its columns, where it is `x`), weighted by another value."""
        other = next(read for name, read in step.computed if name != argument)
        if len(self.sizes.get(other, ())) < 2 or labels.dim() < 2:
            raise Stuck
        if step.constant.get(f"transpose_{argument}"):
            labels = labels.transpose(-1, -2)
        return spread_over(labels, -2 if argument == "y" else -1, size)

    def _summands(self, step: Step, labels: Tensor, group: Group) -> Iterator[_Labelled]:
        """Both operands of a sum have to have the factors; a constant one gets them."""
        for _, name in step.computed:
            yield name, labels, True
        for _, buffer in step.held:
            constant = self.constants[buffer]
            wide = [axis for axis, length in enumerate(constant.shape) if length > 1]
            if len(wide) != 1:
                raise Stuck
            axis = wide[0] + labels.dim() - constant.dim()
            self._hold(buffer, spread(along(labels, axis), wide[0], [1] * constant.dim()), group)
        if len(step.computed) + len(step.held) != 2:
            raise Stuck

    def _product(self, step: Step, argument: str, labels: Tensor, group: Group) -> None:
        held = dict(step.held)
        weight = "weight" if step.kind != "matmul" else "y" if argument == "x" else "x"
        if weight not in held:
            raise Stuck
        shape = self.constants[held[weight]].shape
        if step.kind == "conv":
            channels, count = along(labels, 1), int(step.constant.get("groups", 1))
            # (groups, columns): each output channel reads those of its group.
            columns = channels.reshape(count, -1).repeat_interleave(shape[0] // count, 0)
            own, rows = columns.reshape(*columns.shape, *[1] * (len(shape) - 2)), 0
        elif step.kind == "linear":
            own, rows = along(labels, -1)[None], 0
        else:
            if len(shape) != 2:
                raise Stuck
            # x is multiplied along its last axis, y along its last but one, unless transposed.
            last = bool(step.constant.get(f"transpose_{argument}", False)) is (argument == "y")
            channels = along(labels, -1 if last else -2)
            first = bool(step.constant.get(f"transpose_{weight}", False)) is (weight == "x")
            own, rows = (channels[:, None], 1) if first else (channels[None], 0)
        if held[weight] not in self.usable:
            raise Stuck
        group.readers.append(Reader(held[weight], own, step, weight, argument, compact(labels), rows))

    def _argument(self, step: Step, argument: str) -> str:
        name = dict(step.computed).get(argument)
        if name is None:
            raise Stuck
        return name

    def _hold(self, buffer: str, labels: Tensor, group: Group) -> None:
        """Note that a constant gets factors; zeros may stay."""
        if buffer in self.usable:
            group.makers[buffer] = Held(buffer, labels)
        elif self.constants[buffer].any():
            raise Stuck


def _once(step: Step, argument: str, group: Group) -> None:
    """Stop where another operand has the factors, too, so that they would come in twice."""
    if any(name in group.values for other, name in step.computed if other != argument):
        raise Stuck


def _wide(step: Step, shape: Sequence[int]) -> int:
    """The axis of a constant that the channels of the result lie along."""
    if step.kind == "matmul":
        return 0 if step.constant.get("transpose_y") else 1
    if step.kind == "mul":
        return next(axis for axis, length in enumerate(shape) if length > 1)
    return 0


def _bound(step: Step, value: str) -> Bound:
    low, high = (0.0, 6.0) if step.kind == "relu6" else (step.constant.get(name) for name in ("alpha", "beta"))
    if not isinstance(low, float | int) or not isinstance(high, float | int) or low > 0 or high < 0:
        raise Stuck
    return Bound(value, float(low), float(high))


def _computed(argument: Any) -> Iterator[str]:
    if isinstance(argument, list | tuple):
        for item in argument:
            yield from _computed(item)
    elif isinstance(argument, Computed):
        yield argument.name


def _read_otherwise(step: Step) -> set[str]:
    """The names that a step reads in lists or in blocks of its own."""
    names = {name for _, argument in step.converted for name in _computed(argument)}
    return names.union(*(_read_in(block) for block in step.blocks))


def _read_in(block: Block) -> set[str]:
    names = set(_computed(block.outputs))
    for step in block.steps:
        names |= {name for _, name in step.computed} | _read_otherwise(step)
    return names


def _buffers(block: Block) -> Iterator[str]:
    """The buffers that a block reads, as often as it does."""
    for step in block.steps:
        yield from _held(step.arguments.values())
        for inner in step.blocks:
            yield from _buffers(inner)
    yield from _held(block.outputs)


def _held(arguments: Iterable[Any]) -> Iterator[str]:
    for argument in arguments:
        if isinstance(argument, list | tuple):
            yield from _held(argument)
        elif isinstance(argument, plan.Held):
            yield argument.name
