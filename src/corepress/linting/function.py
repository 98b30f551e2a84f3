"""What rules see of a function of an ML program, and where they find something."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from corepress.formats.features import Interface
from corepress.formats.mlprogram import Model
from corepress.formats.mlprogram.program import Node
from corepress.linting.outline import type_of
from corepress.opsets import KNOWN
from corepress.weights import CompressedWeight


class Spot(NamedTuple):
    """A place in a function: what it is ("input", "state", "operation", "constant", "function"), its name, and what
    was found there."""

    kind: str
    name: str
    found: str


@dataclass(frozen=True)
class Function:
    """A function of a program, as rules see it: `forms` are those of its compressed weights, `stored_bytes` what all of
    its weights take."""

    name: str
    nodes: list[Node]
    interface: Interface
    forms: list[CompressedWeight]
    stored_bytes: int
    model: Model


Find = Callable[[Function], Iterator[Spot]]


def products(function: Function) -> Iterator[Node]:
    """The operations that multiply and sum."""
    return (node for node in function.nodes if node.type in KNOWN and KNOWN[node.type].sums)


def float32_products(function: Function) -> Iterator[Spot]:
    """Those that do so in float32."""
    for node in products(function):
        if "float32" in dtypes(node):
            yield Spot("operation", node.name, f"{node.type} in float32")


def dtypes(node: Node) -> set[str]:
    """The types that an operation gives."""
    return {kind[0].name for kind in map(type_of, node.op.outputs) if kind is not None}
