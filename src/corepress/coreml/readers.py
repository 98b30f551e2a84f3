"""Whether an operation that multiplies or looks up reads a constant, or only operations that compute with its numbers
one by one.

Products sum over many weights, so that errors of rounding nearly cancel out. Positions, anchors, strides and masks are
added or multiplied one by one: there an error goes straight into what the model answers.
"""

from __future__ import annotations

from corepress.coreml.opset import OPERATIONS
from corepress.formats.mlprogram import Weight
from corepress.formats.mlprogram.program import Node

_RECURRENT = (
    *("weight_ih", "weight_hh", "weight_ih_back", "weight_hh_back"),
    *("initial_h", "initial_c", "x"),
)
# By operation, the arguments that are summed over, or looked up in.
PRODUCTS: dict[str, tuple[str, ...]] = {
    "linear": ("x", "weight"),
    "matmul": ("x", "y"),
    "einsum": ("values",),
    "conv": ("x", "weight"),
    "conv_quantized": ("x", "weight"),
    "conv_transpose": ("x", "weight"),
    "scaled_dot_product_attention": ("query", "key", "value"),
    "gather": ("x",),
    "gather_along_axis": ("x",),
    "gather_nd": ("x",),
    "lstm": _RECURRENT,
    "gru": _RECURRENT,
    "rnn": _RECURRENT,
}
# Operations that hand on what they read, in another shape, order or type.
MOVES = frozenset(
    """
    batch_to_space cast concat depth_to_space dequantize expand_dims flatten2d identity pad pixel_shuffle
    pixel_unshuffle quantize reshape reshape_like reverse slice_by_index slice_by_size sliding_windows space_to_batch
    space_to_depth split squeeze stack tile transpose
    """.split()  # noqa: SIM905
)
# What is read inside their blocks is not looked into: it may be a product, as may an operation that is not known.
_UNSEEN = frozenset({"while_loop", "cond"})


def read_by_product(weight: Weight) -> bool:
    """Whether a product, a look-up or a recurrence reads a weight: directly, through operations that only move it, or
    through such as compute with constants alone (a weight norm that was not folded is a weight, too)."""
    waiting = [(weight.node, weight.argument)] if weight.argument is not None else _uses(weight.node)
    seen: set[int] = set()
    while waiting:
        node, argument = waiting.pop()
        if node.type in _UNSEEN or node.type not in OPERATIONS or argument in PRODUCTS.get(node.type, ()):
            return True
        if id(node) not in seen and (node.type in MOVES or _of_constants(node)):
            seen.add(id(node))
            waiting += _uses(node)
    return False


def _of_constants(node: Node) -> bool:
    """Whether all that an operation reads is constant, so that it computes a weight and no activation."""
    waiting, seen = [node], {id(node)}
    while waiting:
        for operand in (operand for held in waiting.pop().operands.values() for operand in held):
            if operand.name:
                return False
            if operand.node is not None and id(operand.node) not in seen:
                seen.add(id(operand.node))
                waiting.append(operand.node)
    return True


def _uses(node: Node) -> list[tuple[Node, str]]:
    return [(use.node, use.argument) for use in node.uses if use.node is not None]
