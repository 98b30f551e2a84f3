"""Rules about the plain constants of an ML program, such as masks. `RULES` is the table, as in `programs.py`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corepress.formats.mlprogram.program import Node
from corepress.formats.mlprogram.values import read_tensor, tensor_type
from corepress.formats.mlprogram.weight import release
from corepress.linting.function import Find, Function, Spot, dtypes
from corepress.linting.rule import Rule
from corepress.opsets import KNOWN

_HALF = 65504.0
# Through operations of these groups a constant is followed to where it becomes float16.
_ONE_BY_ONE = frozenset({"elementwise_binary", "elementwise_unary", "select", "tensor_transformation"})


def _infinite(function: Function) -> Iterator[Spot]:
    for node, values in _constants(function):
        if np.isinf(values).any():
            yield Spot("constant", node.name, f"{np.count_nonzero(np.isinf(values))} infinities")


def _beyond_half(function: Function) -> Iterator[Spot]:
    for node, values in _constants(function, "float32"):
        finite = np.abs(values[np.isfinite(values)])
        if finite.size and finite.max() > _HALF and _becomes_half(node):
            yield Spot("constant", node.name, f"{finite.max():.3g}, which float16 can't hold")


def _constants(function: Function, *types: str) -> Iterator[tuple[Node, NDArray[Any]]]:
    """The plain constants that operations compute with one by one, as with masks; large weights are not read."""
    for node in function.nodes:
        operand = node.operand("val") if node.is_const else None
        value = operand.value if operand is not None else None
        kind = tensor_type(value) if value is not None else None
        if kind is None or kind[0].name not in (types or ("float16", "float32")) or not _one_by_one(node):
            continue
        yield node, read_tensor(value, function.model, str(node))
        release(node, function.model)


def _one_by_one(node: Node) -> bool:
    """Whether none of the operations that read a constant is a product, a look-up or part of a compressed weight."""
    for use in node.uses:
        known = KNOWN.get(use.node.type) if use.node is not None else None
        if known is None or use.argument in (*known.sums, known.table) or known.group == "constexpr":
            return False
    return bool(node.uses)


def _becomes_half(node: Node) -> bool:
    """Whether a constant, or what is computed of it number by number, is cast to float16."""
    waiting, seen = [node], set()
    while waiting:
        for use in waiting.pop().uses:
            reader = use.node
            if reader is None or id(reader) in seen:
                continue
            seen.add(id(reader))
            if reader.type == "cast":
                if "float16" in dtypes(reader):
                    return True
                continue
            known = KNOWN.get(reader.type)
            if known is not None and (known.moves or known.group in _ONE_BY_ONE):
                waiting.append(reader)
    return False


RULES: dict[Rule, Find] = {
    Rule(
        id="infinite-constant",
        severity="wrong",
        title="Infinities in a constant, such as a mask",
        known=(
            "Where all values under a softmax are minus infinity, the answer is NaN. A mask of -1e9, which is minus "
            "infinity in float16, gave NaN on the CPU and wrong answers on the Neural Engine. coremltools can't "
            "palettize such a constant; corepress leaves it alone."
        ),
        instead="Use a finite number such as -1e4 in the mask.",
        devices=("ane", "gpu", "cpu"),
        since="iOS 15",
        threads=(
            "https://github.com/cactus-compute/cactus/pull/734",
            "https://github.com/apple/ml-stable-diffusion/issues/246",
        ),
    ): _infinite,
    Rule(
        id="beyond-float16",
        severity="wrong",
        title="A constant that becomes an infinity in float16",
        known=(
            "Masks made of the least float32 number are cast to float16 on the way, where they are minus infinity, "
            "and a softmax over a row of them is NaN: current language models gave nothing but NaN."
        ),
        instead="Use a finite number such as -1e4 in the mask, or convert with a coremltools that has the fix.",
        devices=("ane", "gpu", "cpu"),
        since="iOS 15",
        threads=("https://github.com/apple/coremltools/pull/2669",),
    ): _beyond_half,
}
"""The rules about constants, each with the function that finds the places."""
