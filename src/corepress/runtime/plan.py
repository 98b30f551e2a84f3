"""A function of a program, ready to run: operations found in the registry, constants in the form they are wanted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import corepress.runtime.ops  # noqa: F401 - fills the registry
from corepress.errors import CorepressError, FormatError, UnsupportedError
from corepress.formats.coreai.view import OWN_NAME
from corepress.formats.mlprogram import Model
from corepress.formats.mlprogram.constexpr import read_weight
from corepress.formats.mlprogram.program import MAX_DEPTH, Node, Operand, block_nodes
from corepress.formats.mlprogram.values import read_string, read_tensor, tensor_type
from corepress.formats.mlprogram.weight import release
from corepress.formats.schema import ListValue
from corepress.runtime.forms import ANY, TENSOR, Form, fitted, form_of
from corepress.runtime.packed import Packed, pack, product
from corepress.runtime.precision import Precision
from corepress.runtime.registry import CORE_AI, FAULTS, OPERATIONS, Operation
from corepress.runtime.streamed import KEPT_BYTES, Streamed, streamed
from corepress.weights import CompressedWeight, decompress

# Done by the interpreter itself, and the arguments, all of which are needed.
CONTROL: Mapping[str, Mapping[str, Form]] = {
    "cond": {"pred": ANY},
    "while_loop": {"loop_vars": Form((object,), many=True)},
    "invoke": {"values": Form((object,), many=True), "function": Form((str,))},
    "read_state": {"input": ANY},
    "write_state": {"input": ANY, "data": ANY},
    "coreml_update_state": {"state": ANY, "value": ANY},
}
# The argument that names the state.
STATES = {"read_state": "input", "write_state": "input", "coreml_update_state": "state"}
# Arguments that name a data type.
_DTYPE_ARGUMENTS = frozenset({"dtype", "output_dtype"})


@dataclass(frozen=True)
class Computed:
    """A value that an earlier step computes, or an input, and the form that it is wanted in."""

    name: str
    form: Form = TENSOR


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

    def __str__(self) -> str:
        return f"{self.kind} {self.name!r}"

    def __post_init__(self) -> None:
        self.constant, self.held, self.computed, self.converted = {}, [], [], []
        for key, argument in self.arguments.items():
            if isinstance(argument, Held):
                self.held.append((key, argument.name))
            elif isinstance(argument, Computed) and argument.form == TENSOR:
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

    def kinds(self) -> Iterator[tuple[str, str]]:
        """The name of each value that is computed, in blocks inside it, too, and the operation that computes it."""
        for step in self.steps:
            yield from ((output, step.kind) for output in step.outputs)
            for inner in step.blocks:
                yield from ((name, step.kind) for name in inner.inputs)
                yield from inner.kinds()


class Planner:
    """Plans the blocks of one function. `held` collects the constant tensors. `weights`: with "on_the_fly", the
    compressed ones that only products of matrices read stay `Packed`; with "streamed", large ones become `Streamed`,
    to be read onto `device`."""

    def __init__(
        self,
        model: Model,
        precision: Precision,
        weights: str = "ahead_of_time",
        device: torch.device | None = None,
    ):
        self.model = model
        self.precision = precision
        self.on_the_fly = weights == "on_the_fly"
        self.stream_to = (device or torch.device("cpu")) if weights == "streamed" else None
        self.held: dict[str, Tensor | Packed | Streamed] = {}
        self.buffers: dict[str, str] = {}  # of constants, by the name of their value
        self.depth = 0  # of functions that are called by others
        self._kept: dict[int, Held] = {}  # by the id of the node
        self._dense: set[int] = set()  # the ids of the nodes that "on_the_fly" must not keep packed

    def function(self, nodes: Sequence[Node], proto: Any) -> Block:
        """Plan a function of `nodes`, whose message is `proto`."""
        plan = self._own(nodes, proto)
        _mark_updates(plan.steps)
        return plan

    def _own(self, nodes: Sequence[Node], proto: Any) -> Block:
        """Plan the block of a whole function."""
        if self.on_the_fly:
            self._dense.update(self._read_dense(nodes, proto))
        return self.block(nodes, proto)

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
        return transposed is not None and self._argument(transposed, form_of(bool), node, "transpose_y") is True

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
            return self._argument(Operand(node=node, output=index), ANY, node, "")
        return Computed(name, ANY)

    def _planned(self, node: Node) -> Step:
        try:
            return self._step(node)
        except CorepressError:
            raise
        except FAULTS as error:
            raise FormatError(f"{node} can't be read: {error}") from error

    def _step(self, node: Node) -> Step:
        known = _known(node)
        if known is None and node.type not in CONTROL:
            raise UnsupportedError(
                f"{node}: the runtime does not know this operation (of {node.function.opset}); "
                "docs/operations.md lists the operations that it knows"
            )
        arguments = self._arguments(node, known)
        if (state := STATES.get(node.type)) is not None and not isinstance(arguments.get(state), Computed):
            raise FormatError(f"{node}: it names no state")
        blocks = tuple(self.block(inner, proto) for inner, proto in zip(node.inner, node.op.blocks, strict=True))
        if node.type == "invoke":
            blocks = (self._invoked(node, str(arguments["function"])),)
        outputs = tuple(output.name for output in node.op.outputs)
        function = None if known is None else known.function
        if any(isinstance(a, Held) and isinstance(self.held[a.name], Packed) for a in arguments.values()):
            function = partial(product, node.type)
        return Step(node.type, node.name, arguments, outputs, blocks, function)

    def _invoked(self, node: Node, name: str) -> Block:
        """The plan of another function, as a block."""
        if self.depth > MAX_DEPTH:
            raise UnsupportedError(f"{node}: functions call each other more than {MAX_DEPTH} deep")
        chosen = next((f for f in self.model.spec.mlProgram.functions if f.key == name), None)
        if chosen is None:
            raise FormatError(f"{node}: there is no function {name!r}")
        [found] = chosen.value.block_specializations
        inner = Planner(self.model, self.precision)
        inner.on_the_fly, inner.stream_to = self.on_the_fly, self.stream_to
        # Values of different functions may have the same names.
        inner.held, inner.depth = self.held, self.depth + 1
        return inner._own(block_nodes(node.function._replace(name=name), found.value), found.value)

    def _arguments(self, node: Node, known: Operation | None) -> dict[str, Any]:
        """The arguments of an operation, each in its form; those of control flow (`known` is None) as they are."""
        forms = CONTROL[node.type] if known is None else known.forms
        arguments: dict[str, Any] = {}
        for entry in node.op.inputs:
            form, operands = forms.get(entry.key), node.operands[entry.key]
            if form is None:
                raise FormatError(f"{node}: it has no argument {entry.key!r}")
            if len(operands) != 1 and not form.many:
                raise FormatError(f"{node}, {entry.key}: one value is needed, not {len(operands)}")
            # A sequence of numbers is one vector, or else several scalars.
            each = form if form.python and len(operands) == 1 else replace(form, many=False)
            values = [self._argument(operand, each, node, entry.key) for operand in operands]
            arguments[entry.key] = values if form.many and each is not form else values[0]
        for key in forms if known is None else known.required:
            if key not in arguments:
                raise FormatError(f"{node}: its argument {key!r} is missing")
        return arguments

    def _argument(self, operand: Operand, form: Form, node: Node, argument: str) -> Any:
        if operand.value is not None:
            return self._constant(operand.value, form, node, argument, f"{node}, {argument}")
        source = operand.node
        if source is None:
            return Computed(operand.name, form)
        if not (source.is_const or source.is_constexpr):
            return Computed(source.op.outputs[operand.output].name, form)
        if source.is_const:
            value = source.operand("val")
            if value is None or value.value is None:
                raise FormatError(f"{source}: it has no value")
            if form.python or tensor_type(value.value) is None:
                return self._constant(value.value, form, node, argument, str(source))
        return self._hold(source)

    def _hold(self, node: Node) -> Held:
        """Keep the dense value of a constant, once for all that read it."""
        if id(node) not in self._kept:
            value = self._streamed(node) or self._value(node, read_weight(node, self.model))
            release(node, self.model)
            self._kept[id(node)] = kept = self._buffer(value)
            self.buffers.setdefault(node.op.outputs[0].name, kept.name)
        return self._kept[id(node)]

    def _streamed(self, node: Node) -> Streamed | None:
        """A constant to be read later, once those that are in memory take up enough of it."""
        if self.stream_to is None:
            return None
        # Not a method: what is read later must not keep what is in memory now.
        found = streamed(node, self.model, partial(_dense, self.precision), self.precision, self.stream_to)
        kept = sum(value.nbytes for value in self.held.values() if isinstance(value, Tensor))
        return None if found is None or kept + found.nbytes <= KEPT_BYTES else found

    def _buffer(self, value: Tensor | Packed | Streamed) -> Held:
        # Names of a program may hold any character, and may be there twice; those of buffers may not.
        name = f"constant_{len(self.held)}"
        self.held[name] = value
        return Held(name)

    def _value(self, node: Node, weight: NDArray[Any] | CompressedWeight) -> Tensor | Packed:
        if self.on_the_fly and not node.is_const and id(node) not in self._dense:
            dtype = self.precision.tensor(_tensor(np.empty(0, weight.dtype))).dtype
            if (packed := pack(weight, dtype)) is not None:
                return packed
        return _dense(self.precision, weight)

    def _constant(self, value: Any, form: Form, node: Node, argument: str, what: str) -> Any:
        """A constant that an operation reads; `what`: what holds it."""
        if tensor_type(value) is None:
            return fitted(self._python(value, what, argument), form, f"{node}, {argument}")
        array = read_tensor(value, self.model, what)
        if form.python:
            return fitted(array, form, f"{node}, {argument}")
        return self._buffer(self.precision.tensor(_tensor(array)))

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
        raise UnsupportedError(f"{what}: a constant of a kind that the runtime does not know")


def _known(node: Node) -> Operation | None:
    """The operation in the registry; those of Core AI's programs go by names of their own."""
    own = node.operand(OWN_NAME)
    return OPERATIONS.get(node.type) if own is None else CORE_AI.get(str(read_string(own.value)))


def _dense(precision: Precision, weight: NDArray[Any] | CompressedWeight) -> Tensor:
    """What `read_weight` gave as a tensor, in the type in which it takes part."""
    return precision.tensor(_tensor(decompress(weight)))


def _tensor(array: NDArray[Any]) -> Tensor:
    # A copy: the memory map is not the model's to keep.
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.astype(np.float32)).to(torch.bfloat16)
    return torch.from_numpy(np.array(array, order="C"))


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
        mine = reads(step)
        step.drop = tuple(mine.union(step.outputs, step.writes) - alive)
        alive |= mine


def reads(step: Step) -> set[str]:
    """The computed values that a step reads, its blocks included."""
    return set(_names(step.arguments.values())).union(*map(_read_inside, step.blocks))


def _mark_updates(steps: Sequence[Step]) -> None:
    """Leave to the executor the slices that go back into a state at once: it can change the state in place."""
    written: dict[str, str] = {}  # the value that the next step writes to a state, and which state that is
    for step in reversed(steps):
        result = step.outputs[0] if step.outputs else ""
        if step.kind == "write_state":
            data = step.arguments["data"]
            written = {data.name: step.arguments["input"].name} if isinstance(data, Computed) else {}
        elif step.kind == "cast" and result in written:
            x = step.arguments["x"]
            written = {x.name: written[result]} if isinstance(x, Computed) else {}
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
    return set(_names(block.outputs)).union(*map(reads, block.steps))
