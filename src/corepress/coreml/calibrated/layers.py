"""Which operations multiply vectors by a weight, and which vectors these are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from corepress.algorithms.fitted.layout import Layout
from corepress.runtime.ops.conv import extents_of, padded, padding
from corepress.runtime.plan import Step

PRODUCTS = ("linear", "matmul", "conv")


def layout_of(kind: str, argument: str, arguments: Mapping[str, Any]) -> Layout | None:
    """How the weight that an operation reads as `argument` is a matrix; None where it is none.

    `arguments`: of the operation, the weight's value among them.
    """
    weight = arguments[argument]
    shape = tuple(weight.shape)
    if kind == "linear" and argument == "weight":
        return Layout(shape)
    if kind == "matmul" and argument in ("x", "y") and weight.dim() == 2:
        other = arguments["y" if argument == "x" else "x"]
        if other.dim() < 2:
            return None
        flipped = bool(arguments.get(f"transpose_{argument}", False))
        # y is (in, out) and x is (out, in), unless transposed.
        return Layout(shape, transposed=flipped if argument == "x" else not flipped)
    if kind == "conv" and argument == "weight" and weight.dim() in (3, 4):
        return Layout(shape, groups=int(arguments.get("groups", 1)))
    return None


def vectors_of(kind: str, argument: str, arguments: Mapping[str, Any], layout: Layout) -> Iterator[Tensor]:
    """What the weight is multiplied with: (groups, vectors, columns), in parts."""
    if kind == "linear":
        yield layout.vectors(arguments["x"])
    elif kind == "matmul":
        name = "y" if argument == "x" else "x"
        other = arguments[name]
        # The axis that is summed over is the last of x and the last but one of y, unless transposed.
        summed_last = bool(arguments.get(f"transpose_{name}", False)) is (name == "y")
        yield layout.vectors(other if summed_last else other.transpose(-1, -2))
    else:
        x, kernel = arguments["x"], layout.shape[2:]
        ones = [1] * len(kernel)
        strides, dilations = arguments.get("strides") or ones, arguments.get("dilations") or ones
        extents = extents_of(kernel, dilations)
        pads = padding(arguments.get("pad_type", "valid"), arguments.get("pad"), x.shape[2:], extents, strides)
        yield from layout.windows(padded(x, pads), strides, dilations)


def counted_vectors(
    kind: str, argument: str, arguments: Mapping[str, Any], layout: Layout, counts: Tensor | None
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """The parts that `vectors_of` gives, each with how much its vectors count; `counts`: of all, None all the same."""
    first = 0
    for vectors in vectors_of(kind, argument, arguments, layout):
        last = first + vectors.shape[1]
        yield vectors, None if counts is None else counts[first:last]
        first = last


def product_axis(step: Step) -> int:
    """The axis of an operation's result along which the products of one vector with the weight lie."""
    if step.kind == "conv":
        return 1
    return -2 if step.kind == "matmul" and any(key == "x" for key, _ in step.held) else -1
