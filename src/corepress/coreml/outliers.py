"""Outliers of weights in constants of their own, before the rest is compressed.

MIL's linear takes no weight that is computed, and of a sum of constants nobody says when it is computed. So it is the
product that is taken apart, as in Argmax's tools, whose models run on phones this way: `linear(x, inliers, bias) +
linear(x, outliers)` (argmaxtools, `compress/sparse_outlier.py`). The weight keeps its name and loses its largest
values, which are stored sparse under that name with `_outliers` behind it; whatever compresses the weight does so as
always.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from numpy.typing import NDArray

from corepress.coreml.rewrite import fresh, names_in_use, sharing_store
from corepress.engine import Skip, skipping
from corepress.errors import ConfigError
from corepress.formats.mlprogram import Model, Weight
from corepress.formats.mlprogram.constexpr import set_name, write_weight
from corepress.formats.mlprogram.model import DEFAULT_WEIGHT_FILE
from corepress.formats.mlprogram.program import Node, edit
from corepress.formats.schema import Operation
from corepress.targets import by_opset
from corepress.weights import Sparse

SUFFIX = "_outliers"
# The operations that give the sum of what they give for each of two weights, and by which argument.
_SUMS = {
    "conv": ("weight",),
    "conv_transpose": ("weight",),
    "gather": ("x",),
    "linear": ("weight",),
    "matmul": ("x", "y"),
}
Array = NDArray[Any]
Place = tuple[str, str]


def outliers_of(weight: Weight, among: Mapping[Place, Weight], before: Mapping[Place, Weight]) -> Weight | None:
    """The constant of a weight's outliers, if they were put apart since; all weights now and before by function and
    output."""
    place = weight.function, weight.output + SUFFIX
    found = None if place in before else among.get(place)
    return found if found is not None and found.shape == weight.shape else None


def check_apart(weight: Weight, names: Collection[str] = ()) -> None:
    """Raise `Skip` where the outliers of a weight can't be put apart. `names`: those in use in its function."""
    if weight.argument is not None or weight.compression:
        raise Skip("only the outliers of a dense constant of its own can be put apart")
    for use in weight.node.uses:
        kind = "" if use.node is None else use.node.type
        if use.argument not in _SUMS.get(kind, ()):
            raise Skip(f"{kind} reads it, and only of {', '.join(_SUMS)} the outliers can be put apart")
    if weight.output + SUFFIX in names:
        raise Skip(f"there is a value {weight.output + SUFFIX!r} already")


def put_apart(model: Model, fractions: Mapping[Place, float], weights: list[Weight]) -> dict[Place, Skip]:
    """Put the outliers of some of the `weights` apart, by their function and output; changes the model.

    Gives the places of the new constants, which stay as they are, and those of weights of which none could be put
    apart, each with the reason.
    """
    if model.core_ai:
        raise ConfigError(f"{model.path}: outliers can't be put apart in a Core AI model: leave outlier_fraction out")
    names = names_in_use(model)
    left: dict[Place, Skip] = {}
    chosen: list[Weight] = []
    for weight in weights:
        if (weight.function, weight.output) in fractions:
            try:
                check_apart(weight, names[weight.function])
                chosen.append(weight)
            except Skip as reason:
                left[weight.function, weight.output] = reason
    replacements: list[tuple[Node, list[Any]]] = []
    readers: dict[int, tuple[Node, list[tuple[str, str]]]] = {}
    stored: dict[Any, list[Any]] = {}
    for weight in chosen:
        place = weight.function, weight.output
        try:
            operations = _constants(model, weight, fractions[place], stored)
        except Skip as reason:
            left[place] = reason
            continue
        replacements.append((weight.node, operations))
        left[weight.function, weight.output + SUFFIX] = Skip("it holds outliers", quiet=True)
        for use in weight.node.uses:
            assert use.node is not None
            readers.setdefault(id(use.node), (use.node, []))[1].append((use.argument, weight.output))
    for node, arguments in readers.values():
        replacements.append((node, _sum(node, arguments, names[str(node.function)])))
    edit(replacements)
    return left


def taken_apart(weight: Weight, fraction: float) -> tuple[Array, Sparse]:
    """What is to be compressed of a weight, and its outliers. Raises `Skip` if there are none."""
    from corepress.algorithms.outliers import split_outliers

    with skipping():
        inliers, outliers = split_outliers(weight.dense(), fraction)
    if not outliers.mask.any():
        raise Skip("none of its values is larger than all others")
    return inliers, outliers


def _constants(model: Model, weight: Weight, fraction: float, stored: dict[Any, list[Any]]) -> list[Any]:
    """Two constants in place of a weight. Those that share their data go on doing so."""
    inliers, outliers = taken_apart(weight, fraction)
    generation = by_opset(weight.node.function.opset).generation
    store = sharing_store(model, weight.file or DEFAULT_WEIGHT_FILE, stored.setdefault((weight.key, fraction), []))
    dense = write_weight(inliers, weight.output, generation=generation, store=store)
    set_name(dense[-1], weight.name)
    sparse = write_weight(outliers, weight.output + SUFFIX, generation=generation, store=store)
    weight.release()
    return [*dense, *sparse]


def _sum(node: Node, arguments: list[tuple[str, str]], taken: set[str]) -> list[Any]:
    """An operation on inliers, the same on outliers, and their sum, under the name of the value that it gave."""
    output = node.op.outputs[0].name
    parts: list[Any] = [_copy(node.op)]
    (argument, _), *more = arguments
    assert not more, "an operation on constants alone"
    others = _copy(node.op)
    set_name(others, f"{node.name}{SUFFIX}")
    kept = [entry for entry in others.inputs if entry.key != "bias"]
    copies = [type(entry).FromString(entry.SerializeToString()) for entry in kept]
    del others.inputs[:]
    others.inputs.extend(copies)
    for entry in others.inputs:
        if entry.key == argument:
            entry.value.arguments[0].name += SUFFIX
    parts.append(others)
    terms = []
    for part, ending in zip(parts, ("_inliers", SUFFIX), strict=True):
        part.outputs[0].name = fresh(f"{output}{ending}", taken)
        terms.append(part.outputs[0].name)
    total = Operation(type="add")
    total.outputs.add().CopyFrom(node.op.outputs[0])
    total.attributes.add(key="name")
    for key, term in zip("xy", terms, strict=True):
        total.inputs.add(key=key).value.arguments.add(name=term)
    set_name(total, f"{node.name}_sum")
    return [*parts, total]


def _copy(operation: Any) -> Any:
    return type(operation).FromString(operation.SerializeToString())
