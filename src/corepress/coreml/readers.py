"""Whether an operation that multiplies or looks up reads a constant, or only operations that compute with its numbers
one by one.

Products sum over many weights, so that errors of rounding nearly cancel out. Positions, anchors, strides and masks are
added or multiplied one by one: there an error goes straight into what the model answers. So do the sines and cosines of
rotary positions, which a decoder looks up by the place of its token, and multiplies with what it computes.
"""

from __future__ import annotations

from corepress.formats.mlprogram import Weight
from corepress.formats.mlprogram.program import Node
from corepress.opsets import KNOWN

# Operations that hand on a weight, if only its numbers rounded.
MOVES = frozenset(name for name, known in KNOWN.items() if known.moves) | {"quantize", "dequantize"}
# What is read inside their blocks is not looked into: it may be a product, as may an operation that is not known.
_UNSEEN = frozenset({"while_loop", "cond"})


def read_by_product(weight: Weight) -> bool:
    """Whether a product, a look-up or a recurrence reads a weight: directly, through operations that only move it, or
    through such as compute with constants alone (a weight norm that was not folded is a weight, too)."""
    waiting = [(weight.node, weight.argument)] if weight.argument is not None else _uses(weight.node)
    seen: set[int] = set()
    while waiting:
        node, argument = waiting.pop()
        known = KNOWN.get(node.type)
        if known is None or node.type in _UNSEEN or argument in known.sums:
            return True
        if argument == known.table and not _multiplies(node):
            return True
        if id(node) not in seen and (node.type in MOVES or node.fixed):
            seen.add(id(node))
            waiting += _uses(node)
    return False


def _multiplies(node: Node) -> bool:
    """Whether what a node gives is multiplied, number by number, with what is computed of inputs; and no more."""
    uses, seen = _uses(node), 0
    while uses:
        use, argument = uses.pop()
        if use.type in MOVES:
            uses += _uses(use)
        elif use.type == "mul":
            other = use.operand("y" if argument == "x" else "x")
            if other is None or (not other.name if other.node is None else other.node.is_const or other.node.fixed):
                return False
            seen += 1
        else:
            return False
    return seen > 0


def _uses(node: Node) -> list[tuple[Node, str]]:
    return [(use.node, use.argument) for use in node.uses if use.node is not None]
