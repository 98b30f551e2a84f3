"""Which operations multiply vectors by a weight, and which vectors these are.

An operation that looks up rows of a table, such as an embedding, multiplies it by nothing that would say which of a
row's errors matter. What does is the derivative of the model's outputs by the rows that are looked up: with g such a
gradient, an error d of a row changes the outputs by g d, so that the g are to it what inputs are to a layer. A table
that is multiplied by as well, such as one of a language model that is its head, too, is fitted to both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from corepress.algorithms.fitted.layout import Layout
from corepress.runtime.ops.conv import extents_of, padded, padding
from corepress.runtime.plan import Step

PRODUCTS = ("linear", "matmul", "conv")
LOOK_UP = "gather"


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


def fitted_layout(
    step: Step, argument: str, arguments: Mapping[str, Any], counting: Mapping[str, Sequence[Tensor]]
) -> Layout | None:
    """The same of any weight that can be fitted: rows may be looked up in it as well, if the gradients by these are
    known. `counting`: as `sensitivity.of_vectors` gives it."""
    if step.kind != LOOK_UP:
        return layout_of(step.kind, argument, arguments)
    weight = arguments[argument]
    if step.name in counting and argument == "x" and weight.dim() == 2:
        return Layout(tuple(weight.shape))
    return None


def looks_up_rows(arguments: Mapping[str, Any]) -> bool:
    """Whether what a look-up finds are rows of a matrix, in the last axis of its result."""
    return arguments.get("axis", 0) in (0, -2) and not arguments.get("batch_dims", 0)


def vectors_of(kind: str, argument: str, arguments: Mapping[str, Any], layout: Layout) -> Iterator[Tensor]:
    """What the weight of one of PRODUCTS is multiplied with: (groups, vectors, columns), in parts."""
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
    """The parts that `vectors_of` gives, each with how much its vectors count; `counts`: of all, None all the same. Of
    a look-up the gradients, which are its `counts`."""
    if kind == LOOK_UP:
        assert counts is not None
        yield counts[None], None
        return
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
