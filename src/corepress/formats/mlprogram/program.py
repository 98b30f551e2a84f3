"""A view of ML programs as graphs: operations, what they read, and who reads them.

The protobuf stays the one truth. A view is made from it when it is needed, and `replace` writes a change back.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from corepress.errors import UnsupportedError
from corepress.formats.kinds import PIPELINES, kind_of, models
from corepress.formats.mlprogram.values import read_string

# Nested blocks deeper than this are an attack, not a model; protobuf itself stops near 100 messages.
MAX_DEPTH = 30


class Function(NamedTuple):
    """One function of one program. `program` names the pipeline stage it belongs to; empty for a plain model."""

    program: str
    name: str
    opset: str

    def __str__(self) -> str:
        return f"{self.program}/{self.name}" if self.program else self.name


@dataclass(eq=False)
class Node:
    """An operation. `operands` holds, by argument, the values and outputs of other nodes that it reads; `uses` who
    reads its outputs; `depth` is the nesting of its block, `inner` the nodes of each block inside it. `fixed`: all that
    it reads is constant, directly or computed of constants alone."""

    function: Function
    block: Any
    index: int
    op: Any
    name: str
    depth: int
    operands: dict[str, list[Operand]] = field(default_factory=dict)
    uses: list[Use] = field(default_factory=list)
    inner: list[list[Node]] = field(default_factory=list)
    fixed: bool = True

    @property
    def type(self) -> str:
        return str(self.op.type)

    @property
    def is_const(self) -> bool:
        return bool(self.op.type == "const")

    @property
    def is_constexpr(self) -> bool:
        return str(self.op.type).startswith("constexpr_")

    def operand(self, argument: str) -> Operand | None:
        """What an argument or attribute holds; None when it is absent."""
        found = self.operands.get(argument)
        return found[0] if found else None

    def __str__(self) -> str:
        return f"{self.type} {self.name!r} of function {self.function}"


class Operand(NamedTuple):
    """A value given in place, output number `output` of a node, or the input `name` of a block or function."""

    value: Any = None
    node: Node | None = None
    output: int = 0
    name: str = ""


class Use(NamedTuple):
    """A place that reads an output of a node: an argument of `node`, or a block's outputs when `node` is None."""

    node: Node | None
    argument: str
    output: int


def programs(spec: Any) -> Iterator[tuple[str, Any]]:
    """The ML programs of a model with the name of their pipeline stage; the stages of nested pipelines, too."""
    return ((name, model.mlProgram) for name, model in models(spec) if kind_of(model) == "mlProgram")


def program_models(spec: Any) -> Iterator[Any]:
    """The model itself if it holds an ML program or is a pipeline, and those of its stages that are such."""
    return (model for _, model in models(spec) if kind_of(model) in ("mlProgram", *PIPELINES))


def nodes(spec: Any) -> list[Node]:
    """All operations of all functions of all programs, in order, connected to what they read."""
    found: list[Node] = []
    for program_name, program in programs(spec):
        for entry in program.functions:
            function = Function(program_name, entry.key, entry.value.opset)
            for specialization in entry.value.block_specializations:
                found += flat(block_nodes(function, specialization.value))
    return found


def flat(level: Iterable[Node]) -> Iterator[Node]:
    """Operations and all within their blocks, in order."""
    for node in level:
        yield node
        for inner in node.inner:
            yield from flat(inner)


def block_nodes(function: Function, block: Any, outer: dict[str, Operand] | None = None, depth: int = 0) -> list[Node]:
    """The operations of one block, those of blocks inside it being in their `inner`."""
    if depth > MAX_DEPTH:
        raise UnsupportedError(f"function {function}: blocks are nested deeper than {MAX_DEPTH}")
    level: list[Node] = []
    scope = dict(outer or {})
    for shadowing in block.inputs:
        scope.pop(shadowing.name, None)
    for index, op in enumerate(block.operations):
        node = Node(function, block, index, op, _name(op), depth)
        level.append(node)
        _connect(node, scope)
        node.inner = [block_nodes(function, inner, scope, depth + 1) for inner in op.blocks]
        for number, output in enumerate(op.outputs):
            scope[output.name] = Operand(node=node, output=number)
    for name in block.outputs:
        source = scope.get(name)
        if source is not None and source.node is not None:
            source.node.uses.append(Use(None, "", source.output))
    return level


def _connect(node: Node, scope: dict[str, Operand]) -> None:
    for entry in node.op.attributes:
        node.operands[entry.key] = [Operand(value=entry.value)]
    for entry in node.op.inputs:
        operands = node.operands[entry.key] = []
        for binding in entry.value.arguments:
            if binding.WhichOneof("binding") == "value":
                operands.append(Operand(value=binding.value))
                continue
            source = scope.get(binding.name)
            if source is None:  # an input of the function or of a block
                operands.append(Operand(name=binding.name))
                node.fixed = False
                continue
            operands.append(source)
            assert source.node is not None
            node.fixed &= source.node.fixed
            source.node.uses.append(Use(node, entry.key, source.output))


def _name(op: Any) -> str:
    for entry in op.attributes:
        if entry.key == "name":
            name = read_string(entry.value)
            if name is not None:
                return name
    return str(op.outputs[0].name) if op.outputs else ""


def edit(
    replacements: Sequence[tuple[Node, Sequence[Any]]], insertions: Sequence[tuple[Node, Sequence[Any]]] = ()
) -> None:
    """Change the program under a view: each node is replaced by a list of operations (an empty one removes it), or
    gets a list of operations put before it.

    All changes of one view must come in one call: positions are those of the view.
    """
    edits: dict[int, _Edits] = {}
    for node, operations in replacements:
        _edits_of(node, edits).replaced[node.index] = operations
    for node, operations in insertions:
        _edits_of(node, edits).inserted.setdefault(node.index, []).extend(operations)
    # The innermost first: an outer block copies what its operations hold.
    for block_edits in sorted(edits.values(), key=lambda found: found.depth, reverse=True):
        block_edits.apply()


@dataclass
class _Edits:
    """The changes of one block: by the index of an operation, what takes its place, and what is put before it."""

    block: Any
    depth: int
    replaced: dict[int, Sequence[Any]] = field(default_factory=dict)
    inserted: dict[int, list[Any]] = field(default_factory=dict)

    def apply(self) -> None:
        changed: list[Any] = []
        for index, op in enumerate(self.block.operations):
            changed += self.inserted.get(index, [])
            if index in self.replaced:
                changed += self.replaced[index]
            else:
                # A copy, since clearing the field below would invalidate what it holds.
                changed.append(type(op).FromString(op.SerializeToString()))
        del self.block.operations[:]
        self.block.operations.extend(changed)


def _edits_of(node: Node, edits: dict[int, _Edits]) -> _Edits:
    return edits.setdefault(id(node.block), _Edits(node.block, node.depth))


def values(spec: Any) -> Iterator[Any]:
    """Every value in every program: arguments, attributes of operations, blocks, functions and programs."""
    for _, program in programs(spec):
        yield from (entry.value for entry in program.attributes)
        for function in program.functions:
            yield from (entry.value for entry in function.value.attributes)
            for block in function.value.block_specializations:
                yield from _block_values(block.value, 0)


def _block_values(block: Any, depth: int) -> Iterator[Any]:
    if depth > MAX_DEPTH:
        raise UnsupportedError(f"blocks are nested deeper than {MAX_DEPTH}")
    yield from (entry.value for entry in block.attributes)
    for op in block.operations:
        yield from (entry.value for entry in op.attributes)
        for entry in op.inputs:
            for binding in entry.value.arguments:
                if binding.WhichOneof("binding") == "value":
                    yield binding.value
        for inner in op.blocks:
            yield from _block_values(inner, depth + 1)
