"""A function of a program, ready to run: operations found in the registry, constants in the form they are wanted."""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Union

import numpy as np
import torch
from torch import Tensor

import corepress.runtime.ops  # noqa: F401 - fills the registry
from corepress.errors import CorepressError, FormatError
from corepress.mlprogram import Model
from corepress.mlprogram.constexpr import read_weight
from corepress.mlprogram.program import Node, Operand
from corepress.mlprogram.schema import ListValue
from corepress.mlprogram.values import read_tensor, tensor_type
from corepress.runtime.packed import Packed, pack, product
from corepress.runtime.precision import Precision
from corepress.runtime.registry import FAULTS, OPERATIONS
from corepress.weights import decompress

# Done by the interpreter itself.
CONTROL = frozenset({"cond", "while_loop", "read_state", "write_state", "coreml_update_state"})
# The argument that names the state.
_STATES = {"read_state": "input", "write_state": "input", "coreml_update_state": "state"}
# Arguments that name a data type.
_DTYPE_ARGUMENTS = frozenset({"dtype", "output_dtype"})


@dataclass(frozen=True)
class Computed:
    """A value that an earlier step computes, or an input; `kind` is the Python type it is wanted as, None: a tensor."""

    name: str
    kind: type | None = None


@dataclass(frozen=True)
class Held:
    """A tensor that the program holds, by the name of its buffer."""

    name: str


@dataclass
class Step:
    """One operation. `arguments`: `Computed`, `Held`, Python constants, or lists of these.

    `function`: what computes it; None where the executor does. `drop`: values that nothing reads after it.
    `state`: the one that the result of a `slice_update` is written to at once. `writes`: values that its blocks may
    compute for all that follows, because they have no scope of their own.
    """

    kind: str
    name: str
    arguments: dict[str, Any]
    outputs: tuple[str, ...]
    blocks: tuple[Block, ...] = ()
    function: Callable[..., Any] | None = None
    drop: tuple[str, ...] = ()
    state: str | None = None
    writes: tuple[str, ...] = ()
    # The arguments once more, sorted by how the executor finds their values.
    constant: dict[str, Any] = field(init=False)
    held: list[tuple[str, str]] = field(init=False)
    computed: list[tuple[str, str]] = field(init=False)
    converted: list[tuple[str, Any]] = field(init=False)

    def __post_init__(self) -> None:
        self.constant, self.held, self.computed, self.converted = {}, [], [], []
        for key, argument in self.arguments.items():
            if isinstance(argument, Held):
                self.held.append((key, argument.name))
            elif isinstance(argument, Computed) and argument.kind is None:
                self.computed.append((key, argument.name))
            elif isinstance(argument, Computed) or (isinstance(argument, list) and _is_open(argument)):
                self.converted.append((key, argument))
            else:
                self.constant[key] = argument


@dataclass
class Block:
    """Steps in order; the names that go in, and what comes out under which name."""

    inputs: tuple[str, ...]
    steps: list[Step]
    outputs: tuple[Any, ...]
    output_names: tuple[str, ...]


class Planner:
    """Plans the blocks of one function. `held` collects the constant tensors; with `on_the_fly`, the compressed
    weights that only products of matrices read stay `Packed`."""

    def __init__(self, model: Model, precision: Precision, on_the_fly: bool = False):
        self.model = model
        self.precision = precision
        self.on_the_fly = on_the_fly
        self.held: dict[str, Tensor | Packed] = {}
        self.buffers: dict[str, str] = {}  # of constants, by the name of their value

    def function(self, nodes: Sequence[Node], proto: Any) -> Block:
        """Plan a function of `nodes`, whose message is `proto`."""
        self._dense = set(self._read_dense(nodes, proto)) if self.on_the_fly else set()
        plan = self.block(nodes, proto)
        _mark_updates(plan.steps)
        return plan

    def _read_dense(self, nodes: Sequence[Node], proto: Any) -> Iterator[int]:
        """The ids of the constants that something reads in another way than as the weight of a product."""
        names = set(proto.outputs)
        for node in nodes:
            if names & {output.name for output in node.op.outputs}:
                yield id(node)
            for key, operands in node.operands.items():
                if not self._is_weight(node, key):
                    yield from (id(operand.node) for operand in operands if operand.node is not None)
            for inner, block in zip(node.inner, node.op.blocks, strict=True):
                yield from self._read_dense(inner, block)

    def _is_weight(self, node: Node, argument: str) -> bool:
        if node.type == "linear":
            return argument == "weight"
        if node.type != "matmul" or argument != "y":
            return False
        transposed = node.operand("transpose_y")
        return transposed is not None and self._argument(transposed, bool, node, "transpose_y") is True

    def block(self, nodes: Sequence[Node], proto: Any) -> Block:
        """Plan a block of `nodes`, whose message is `proto`."""
        produced = {output.name: (node, i) for node in nodes for i, output in enumerate(node.op.outputs)}
        steps = [self._planned(node) for node in nodes if not (node.is_const or node.is_constexpr)]
        outputs = tuple(self._output(name, produced) for name in proto.outputs)
        plan = Block(tuple(value.name for value in proto.inputs), steps, outputs, tuple(proto.outputs))
        mark_last_uses(plan)
        return plan

    def _output(self, name: str, produced: dict[str, tuple[Node, int]]) -> Any:
        node, index = produced.get(name, (None, 0))
        if node is not None and (node.is_const or node.is_constexpr):
            return self._argument(Operand(node=node, output=index), None, node, "")
        return Computed(name)

    def _planned(self, node: Node) -> Step:
        try:
            return self._step(node)
        except CorepressError:
            raise
        except FAULTS as error:
            raise FormatError(f"{node} can't be read: {error}") from error

    def _step(self, node: Node) -> Step:
        known = OPERATIONS.get(node.type)
        if known is None and node.type not in CONTROL:
            raise FormatError(
                f"{node}: the runtime does not know this operation (of {node.function.opset}); "
                "docs/operations.md lists those that it does"
            )
        hints = known.hints if known is not None else {}
        arguments = {}
        for entry in node.op.inputs:
            if known is not None and entry.key not in hints:
                raise FormatError(f"{node}: it has no argument {entry.key!r}")
            kind = _wanted(hints.get(entry.key))
            values = [self._argument(operand, kind, node, entry.key) for operand in node.operands[entry.key]]
            if kind is tuple and not (len(values) == 1 and isinstance(values[0], Computed)):
                # One vector, or several scalars; the lone name of a size is no sequence of letters.
                arguments[entry.key] = [part for v in values for part in (v if isinstance(v, list) else [v])]
                continue
            variadic = kind is list or len(values) != 1 or (known is None and entry.key == "loop_vars")
            arguments[entry.key] = values if variadic else values[0]
        if (state := _STATES.get(node.type)) is not None and not isinstance(arguments.get(state), Computed):
            raise FormatError(f"{node}: it names no state")
        blocks = tuple(self.block(inner, proto) for inner, proto in zip(node.inner, node.op.blocks, strict=True))
        outputs = tuple(output.name for output in node.op.outputs)
        function = None if known is None else known.function
        if any(isinstance(a, Held) and isinstance(self.held[a.name], Packed) for a in arguments.values()):
            function = partial(_packed_product, node.type)
        return Step(node.type, node.name, arguments, outputs, blocks, function)

    def _argument(self, operand: Operand, kind: type | None, node: Node, argument: str) -> Any:
        if operand.value is not None:
            return self._constant(operand.value, kind, f"{node}, {argument}", argument)
        source = operand.node
        if source is None:
            return Computed(operand.name, kind)
        if not (source.is_const or source.is_constexpr):
            return Computed(source.op.outputs[operand.output].name, kind)
        if source.is_const:
            value = source.operand("val")
            if value is None or value.value is None:
                raise FormatError(f"{source}: it has no value")
            if (kind is not None and kind is not list) or tensor_type(value.value) is None:
                return self._constant(value.value, kind, str(source), argument)
        return self._hold(source)

    def _hold(self, node: Node) -> Held:
        """Keep the dense value of a constant, once for all that read it."""
        return self._buffer(node.op.outputs[0].name, lambda: self._value(node, read_weight(node, self.model)))

    def _buffer(self, name: str, value: Callable[[], Tensor | Packed]) -> Held:
        if name not in self.buffers:
            # Names of a program may hold any character, those of buffers may not.
            self.buffers[name] = f"constant_{len(self.held)}"
            self.held[self.buffers[name]] = value()
        return Held(self.buffers[name])

    def _value(self, node: Node, weight: Any) -> Tensor | Packed:
        if self.on_the_fly and not node.is_const and id(node) not in self._dense:
            dtype = self.precision.tensor(_tensor(np.empty(0, weight.dtype))).dtype
            if (packed := pack(weight, dtype)) is not None:
                return packed
        return self.precision.tensor(_tensor(decompress(weight)))

    def _constant(self, value: Any, kind: type | None, what: str, argument: str) -> Any:
        if tensor_type(value) is None:
            return self._python(value, what, argument)
        array = read_tensor(value, self.model, what)
        if kind is None or kind is list:
            return self._buffer(what, lambda: self.precision.tensor(_tensor(array)))
        return python_value(array, kind, what)

    def _python(self, value: Any, what: str, argument: str) -> Any:
        """A string, or a list of strings or of numbers."""
        immediate = value.immediateValue
        if immediate.WhichOneof("value") == "tensor":
            texts = list(immediate.tensor.strings.values)
            text = texts[0] if len(texts) == 1 and not value.type.tensorType.dimensions else texts
            return self.precision.dtype(text) if argument in _DTYPE_ARGUMENTS and isinstance(text, str) else text
        if immediate.WhichOneof("value") in ("list", "tuple"):
            items = ListValue.FromString(getattr(immediate, immediate.WhichOneof("value"))).values
            return [
                self._python(item, what, "") if tensor_type(item) is None
                else read_tensor(item, self.model, what).item()
                for item in items
            ]  # fmt: skip
        raise FormatError(f"{what}: a constant of a kind that the runtime does not know")


def _packed_product(kind: str, **arguments: Any) -> Tensor | None:
    return product(kind, arguments)


def _tensor(array: Any) -> Tensor:
    # A copy: the memory map is not the model's to keep.
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.astype(np.float32)).to(torch.bfloat16)
    return torch.from_numpy(np.array(array, order="C"))


def python_value(array: Any, kind: type, what: str) -> Any:
    """A constant as the Python type that an operation wants; `array` is one of NumPy or PyTorch."""
    if kind is tuple:
        return array.reshape(-1).tolist()
    if kind is str:
        raise FormatError(f"{what}: text is needed, not numbers")
    if int(np.prod(array.shape)) != 1:
        raise FormatError(f"{what}: one number is needed, not {tuple(array.shape)}")
    return kind(array.reshape(-1)[0].item())


def _wanted(hint: Any) -> type | None:
    """The Python type of an annotation: int, float, bool, str; tuple for their sequences; list for tensors; or None."""
    if typing.get_origin(hint) in (Union, types.UnionType):
        (hint,) = (part for part in typing.get_args(hint) if part is not type(None))
    if hint in (int, float, bool, str):
        return typing.cast(type, hint)
    if hint == Sequence[Tensor]:
        return list
    return tuple if typing.get_origin(hint) is Sequence else None


def check_names(plan: Block, known: Iterable[str]) -> None:
    """A FormatError where a step or an output reads a value that is not there yet."""
    defined = {*known, *plan.inputs}
    for step in plan.steps:
        for name in _names(step.arguments.values()):
            if name not in defined:
                raise FormatError(f"{step.kind} {step.name!r} reads {name!r}, which nothing has computed")
        for block in step.blocks:
            check_names(block, defined)
            if step.writes:  # the next block, such as the body of a loop after its condition, knows them
                defined.update(name for inner in block.steps for name in (*inner.outputs, *inner.writes))
        defined.update(step.outputs)
    for name in _names(plan.outputs):
        if name not in defined:
            raise FormatError(f"the output {name!r} is not computed by anything")


def mark_last_uses(plan: Block) -> None:
    """Note after each step what nothing reads any more, so that memory is freed early."""
    alive = set(_names(plan.outputs))
    for step in reversed(plan.steps):
        mine = {name for value in step.arguments.values() for name in _names([value])}
        for block in step.blocks:
            mine |= _read_inside(block)
        step.drop = tuple(mine.union(step.outputs, step.writes) - alive)
        alive |= mine


def _mark_updates(steps: Sequence[Step]) -> None:
    """Leave to the executor the slices that go back into a state at once: it can change the state in place."""
    written: dict[Computed, str] = {}  # what the next step writes to which state
    for step in reversed(steps):
        result = Computed(step.outputs[0]) if step.outputs else None
        if step.kind == "write_state":
            data = step.arguments.get("data")
            written = {data: step.arguments["input"].name} if isinstance(data, Computed) else {}
        elif step.kind == "cast" and result in written:
            x = step.arguments.get("x")
            written = {x: written[result]} if isinstance(x, Computed) else {}
        else:
            if step.kind == "slice_update" and result in written and _goes_forward(step.arguments.get("stride")):
                step.function, step.state = None, written[result]
            written = {}


def _goes_forward(stride: Any) -> bool:
    return stride is None or (isinstance(stride, list) and all(isinstance(n, int) and n > 0 for n in stride))


def _is_open(items: list[Any]) -> bool:
    """Whether a list holds values that are known only in a run, or tensors."""
    return any(isinstance(item, Computed | Held) or (isinstance(item, list) and _is_open(item)) for item in items)


def _names(values: Any) -> list[str]:
    flat = [item for value in values for item in (value if isinstance(value, list) else [value])]
    return [value.name for value in flat if isinstance(value, Computed)]


def _read_inside(block: Block) -> set[str]:
    names = set(_names(block.outputs))
    for step in block.steps:
        names |= set(_names(step.arguments.values()))
        for inner in step.blocks:
            names |= _read_inside(inner)
    return names
