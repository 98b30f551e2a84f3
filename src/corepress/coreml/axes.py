"""Which axis of a weight is the input channel and which the output channel: its consumers decide."""

from __future__ import annotations

import logging
from typing import Any

from corepress.formats.mlprogram import Weight
from corepress.formats.mlprogram.program import Node
from corepress.formats.mlprogram.values import BlobSource, read_tensor

log = logging.getLogger(__name__)


def channel_axes(weight: Weight) -> tuple[int, int]:
    """(input axis, output axis) of a weight of rank >= 2.

    linear, conv and all others: (1, 0); conv_transpose: (0, 1); matmul: the last two axes by `transpose_x` and
    `transpose_y`. When consumers differ, the first one decides; any choice is valid, they differ in error only.
    """
    rank = len(weight.shape)
    choices = [_axes(node, argument, rank, weight.model) for node, argument in _consumers(weight)]
    if not choices:
        return 1, 0
    if len(set(choices)) > 1:
        log.info("%s: its readers have different channel axes; that of the first one is used", weight.name)
    return choices[0]


def conv_groups(weight: Weight) -> int:
    """The largest `groups` of the convolutions that read the weight; 1 without one."""
    groups = [1]
    for node, argument in _consumers(weight):
        if node.type in ("conv", "conv_transpose") and argument == "weight":
            groups.append(int(_constant(node, "groups", weight.model, 1)))
    return max(groups)


def _consumers(weight: Weight) -> list[tuple[Node, str]]:
    if weight.argument is not None:
        return [(weight.node, weight.argument)]
    return [(use.node, use.argument) for use in weight.node.uses if use.node is not None]


def _axes(node: Node, argument: str, rank: int, model: BlobSource) -> tuple[int, int]:
    if node.type == "conv_transpose":
        return 0, 1
    if node.type == "matmul":
        transposed = bool(_constant(node, f"transpose_{argument}", model, False))
        # y is (in, out) and x is (out, in), unless transposed.
        output_last = transposed if argument == "x" else not transposed
        return (rank - 2, rank - 1) if output_last else (rank - 1, rank - 2)
    return 1, 0


def _constant(node: Node, argument: str, model: BlobSource, default: Any) -> Any:
    operand = node.operand(argument)
    value = operand.value if operand is not None else None
    if operand is not None and operand.node is not None and operand.node.is_const:
        inner = operand.node.operand("val")
        value = inner.value if inner is not None else None
    return default if value is None else read_tensor(value, model, f"{node}, {argument}").item()
