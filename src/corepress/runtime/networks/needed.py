"""Which layers of a network its outputs need: the others are neither looked at nor run.

Real files hold layers that nothing reads, such as the softmax of a training loss, in shapes that can't be computed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from corepress.formats.neural_network.layers import INNER


@dataclass(frozen=True, eq=False)
class Node:
    """A layer and, of a branch or a loop, the networks in it."""

    layer: Any
    inner: tuple[list[Node], ...]

    @property
    def kind(self) -> str:
        """The name of the layer's field in the format; "unknown" if that is none that we know."""
        return self.layer.WhichOneof("layer") or "unknown"

    @property
    def message(self) -> Any:
        """The fields of its own kind."""
        return getattr(self.layer, self.kind, None)

    @property
    def reads(self) -> list[str]:
        """The names of the values that it needs itself."""
        condition = self.message.conditionVar if self.kind == "loop" else ""
        return [*self.layer.input, *([condition] if condition else [])]


def nodes_of(network: Any) -> list[Node]:
    """The layers of a network, in order."""
    nodes = []
    for layer in network.layers:
        kind = layer.WhichOneof("layer")
        networks = [getattr(getattr(layer, kind), name) for name in INNER.get(kind, ())]
        nodes.append(Node(layer, tuple(map(nodes_of, networks))))
    return nodes


def needed(nodes: Sequence[Node], wanted: Iterable[str]) -> list[Node]:
    """Those layers that the values of these names depend on, in order, and only these in branches and loops.

    The order of the layers is not looked at: a loop may read what a later layer of it computes.
    """
    writers: dict[str, list[Node]] = {}
    around: dict[Node, Node] = {}
    jumps: dict[Node, list[Node]] = {}  # of a loop: the layers that end it, or a round of it
    for node, outside in _all(nodes, ()):
        for name in node.layer.output:
            writers.setdefault(name, []).append(node)
        if outside:
            around[node] = outside[-1]
        loop = next((outer for outer in reversed(outside) if outer.kind == "loop"), None)
        if node.kind in ("loopBreak", "loopContinue") and loop is not None:
            jumps.setdefault(loop, []).append(node)
    kept: set[Node] = set()
    waiting = [node for name in wanted for node in writers.pop(name, ())]
    while waiting:
        node = waiting.pop()
        if node in kept:
            continue
        kept.add(node)
        waiting += [writer for name in node.reads for writer in writers.pop(name, ())]
        waiting += [*jumps.get(node, ()), *([around[node]] if node in around else ())]
    return _only(nodes, kept)


def _all(nodes: Sequence[Node], outside: tuple[Node, ...]) -> Iterator[tuple[Node, tuple[Node, ...]]]:
    """All layers, those in branches and loops included, each with the branches and loops around it."""
    for node in nodes:
        yield node, outside
        for network in node.inner:
            yield from _all(network, (*outside, node))


def _only(nodes: Sequence[Node], kept: set[Node]) -> list[Node]:
    return [Node(node.layer, tuple(_only(network, kept) for network in node.inner)) for node in nodes if node in kept]
