"""What numbers an input takes, as far as its program tells: rows of a table, zeros and ones, pixels of a known range.

`domains` follows each input through operations that only move numbers, up to one that says what they mean. A further
kind of such operations is a function of `_READERS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from corepress.errors import CorepressError
from corepress.formats.features import Feature
from corepress.formats.neural_network.constants import MOVING
from corepress.opsets import KNOWN
from corepress.runtime.assets import Asset
from corepress.runtime.plan import Computed, Held, Step
from corepress.runtime.program import Program, own_program
from corepress.runtime.runnable import Runnable
from corepress.runtime.stages.pipeline import Pipeline
from corepress.runtime.streamed import Streamed

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Domain:
    """`kind`: "index", whole numbers from 0 to `high`, rows of a table; "mask", 0 or 1; "bias", what is added to scores
    of attention, 0 or a large negative number; "pixels", from 0 to `high`, which is 1 or 255.

    `rows`: reads the rows of the table that an index is looked up in, (high + 1, numbers), where there is one.
    """

    kind: str
    high: float = 1
    rows: Callable[[], NDArray[Any]] | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class _Origin:
    """A value that is the input `feature`, moved, with `shift` added; or, where `whole`, as many times a number as go
    into it, which, taken off it, leave the remainder: so Core AI keeps indices within their table."""

    feature: str
    shift: float = 0
    whole: bool = False


# Operations of ML programs, layers and first steps of networks that only move the numbers of their first argument.
_MOVING = {name for name, known in KNOWN.items() if known.moves} | MOVING | {"image", "input"}
# The argument of an operation that holds rows of which table.
_TABLES = {
    "gather": ("indices", "x"),
    "gather_along_axis": ("indices", "x"),
    "gather_nd": ("indices", "x"),
    "gatherAlongAxis": ("indices", "x"),
    "embedding": ("x", "weights"),
    "embeddingND": ("x", "weights"),
}
# Which domain holds where an input is read in several ways.
_ORDER = ("index", "pixels", "bias", "mask")


def domains(model: Runnable) -> dict[str, Domain]:
    """The domains of a model's inputs, by name, or of those of a pipeline; inputs of which nothing is known lack."""
    found: dict[str, Domain] = {}
    if isinstance(model, Pipeline):
        computed: set[str] = set()
        for stage in model.stages.values():
            read = domains(stage)
            found |= {name: read[name] for name in read if name not in computed and name not in found}
            computed |= {feature.name for feature in stage.interface.outputs}
    elif isinstance(model, Asset):
        with suppress(CorepressError):  # an operation that our runtime does not know
            found = _of_program(_as_program(model))
    elif isinstance(model, Program):
        found = _of_program(model)
    return {feature.name: found[feature.name] for feature in model.interface.inputs if feature.name in found}


def _as_program(asset: Asset) -> Program:
    """A Core AI model as our runtime has it, which knows its operations; large weights are not read."""
    return own_program(asset.opened(), torch.device("cpu"), function=asset.function, weights="streamed")


def looks_like_picture(feature: Feature) -> bool:
    """Whether an array has the shape of a picture: four axes, one or three channels, several rows and columns."""
    shape = feature.shape
    if feature.kind != "array" or len(shape) != 4 or not np.issubdtype(feature.dtype, np.floating):
        return False
    first, last = shape[1] in (1, 3) and min(shape[2:]) > 3, shape[3] in (1, 3) and min(shape[1:3]) > 3
    return first or last


def _of_program(program: Program) -> dict[str, Domain]:
    plan, held = program.module.plan, program.module.unread()
    features = {feature.name: feature for feature in program.interface.inputs}
    origins = {name: _Origin(name) for name in plan.inputs}
    found: dict[str, list[Domain]] = {}
    for step in plan.steps:
        for feature, domain in _read(step, origins, held):
            if domain.kind != "pixels" or _may_be_picture(features.get(feature)):
                found.setdefault(feature, []).append(domain)
        moved = _moved(step, origins, held)
        if moved is not None:
            origins |= dict.fromkeys(step.outputs, moved)
    best = {name: min(some, key=lambda d: (_ORDER.index(d.kind), d.high)) for name, some in found.items()}
    named = {name: Domain("mask") for name, feature in features.items() if name not in best and _named_mask(feature)}
    return best | named


def _may_be_picture(feature: Feature | None) -> bool:
    return feature is not None and (feature.kind == "image" or looks_like_picture(feature))


def _named_mask(feature: Feature) -> bool:
    return feature.kind == "array" and "mask" in feature.name.lower() and len(feature.shape) <= 2


def _moved(step: Step, origins: Mapping[str, _Origin], held: Mapping[str, Any]) -> _Origin | None:
    """What the outputs of a step are, if they are an input."""
    if step.kind in ("floor_div", "mul", "sub"):
        return _remainder(step, origins, held)
    if step.kind in _MOVING:
        return next((origin for argument in step.arguments.values() for origin in _origins(argument, origins)), None)
    if step.kind == "add":
        for one, other in (("x", "y"), ("y", "x")):
            number = _constant(step.arguments.get(other), held)
            origin = next(_origins(step.arguments.get(one), origins), None)
            if origin is not None and number is not None and np.ptp(number) == 0:
                return _Origin(origin.feature, origin.shift + float(number.flat[0]))
    if step.kind == "select":  # of a negative index, and of that with the size of its axis added
        both = [origin for key in ("a", "b") for origin in _origins(step.arguments.get(key), origins)]
        if len(both) == 2 and both[0].feature == both[1].feature:
            return min(both, key=lambda origin: abs(origin.shift))
    return None


def _remainder(step: Step, origins: Mapping[str, _Origin], held: Mapping[str, Any]) -> _Origin | None:
    """Of x - (x // n) * n, which is x within a table of n rows, the three steps."""
    origin = next(_origins(step.arguments.get("x"), origins, whole=step.kind == "mul"), None)
    if origin is None:
        return None
    if step.kind == "sub":
        taken = next(_origins(step.arguments.get("y"), origins, whole=True), None)
        return origin if taken == replace(origin, whole=True) else None
    return replace(origin, whole=True)


def _origins(argument: Any, origins: Mapping[str, _Origin], *, whole: bool = False) -> Iterator[_Origin]:
    for item in argument if isinstance(argument, list) else [argument]:
        if isinstance(item, Computed) and item.name in origins and origins[item.name].whole is whole:
            yield origins[item.name]


def _constant(argument: Any, held: Mapping[str, Any]) -> Array | None:
    """A small constant as an array; None for a value that is computed or large."""
    if isinstance(argument, Held):
        tensor = held[argument.name]
        small = isinstance(tensor, Tensor) and 0 < tensor.numel() <= 1000
        return tensor.double().numpy(force=True) if small else None
    return np.array(argument, np.float64) if isinstance(argument, int | float) else None


Found = Iterable[tuple[str, Domain]]


def _read(step: Step, origins: Mapping[str, _Origin], held: Mapping[str, Any]) -> Found:
    reader = _READERS.get(step.kind, _nothing)
    return reader(step, origins, held)


def _nothing(step: Step, origins: Mapping[str, _Origin], held: Mapping[str, Any]) -> Found:
    return ()


def _rows(step: Step, origins: Mapping[str, _Origin], held: Mapping[str, Any]) -> Found:
    """Indices of a table that the program holds."""
    index, key = _TABLES[step.kind]
    table = step.arguments.get(key)
    if not isinstance(table, Held) or not step.arguments:
        return
    axis = -1 if step.kind.startswith("embedding") else step.arguments.get("axis", 0)  # of those: outputs by inputs
    shape = tuple(held[table.name].shape)
    if not isinstance(axis, int) or not -len(shape) <= axis < len(shape):
        return
    if step.kind == "gather_nd" and len(shape) != 2:  # its indices may be those of several axes
        return
    known = isinstance(held[table.name], Tensor | Streamed)
    for origin in _origins(step.arguments.get(index), origins):
        rows = partial(_rows_of, held[table.name], axis, int(origin.shift)) if known else None
        if shape[axis] - 1 - origin.shift > 0:
            yield origin.feature, Domain("index", shape[axis] - 1 - origin.shift, rows)


def _rows_of(table: Tensor | Streamed, axis: int, first: int) -> NDArray[Any]:
    """The rows of a table from the first on, (rows, numbers)."""
    tensor = table.read() if isinstance(table, Streamed) else table
    rows = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).movedim(axis, 0)[max(first, 0) :]
    found: NDArray[Any] = rows.reshape(len(rows), -1).numpy(force=True)
    return found


def _one_hot(step: Step, origins: Mapping[str, _Origin], held: Mapping[str, Any]) -> Found:
    size = step.arguments.get("one_hot_vector_size")
    for origin in _origins(step.arguments.get("indices"), origins):
        if isinstance(size, int) and size > 1 + origin.shift:
            yield origin.feature, Domain("index", size - 1 - origin.shift)


def _cast(step: Step, origins: Mapping[str, _Origin], held: Mapping[str, Any]) -> Found:
    if step.arguments.get("dtype") == "bool":
        for origin in _origins(step.arguments.get("x"), origins):
            yield origin.feature, Domain("mask")


def _attention(step: Step, origins: Mapping[str, _Origin], held: Mapping[str, Any]) -> Found:
    for origin in _origins(step.arguments.get("attn_mask"), origins):
        yield origin.feature, Domain("bias")


def _difference(step: Step, origins: Mapping[str, _Origin], held: Mapping[str, Any]) -> Found:
    """One less a mask; pixels less their mean."""
    ones = _constant(step.arguments.get("x"), held)
    if ones is not None and (ones == 1).all():
        for origin in _origins(step.arguments.get("y"), origins):
            yield origin.feature, Domain("mask")
    yield from _centred(step, origins, _constant(step.arguments.get("y"), held))


def _sum(step: Step, origins: Mapping[str, _Origin], held: Mapping[str, Any]) -> Found:
    mean = _constant(step.arguments.get("y"), held)
    return _centred(step, origins, None if mean is None else -mean)


def _centred(step: Step, origins: Mapping[str, _Origin], mean: Array | None) -> Found:
    if mean is None:
        return
    for origin in _origins(step.arguments.get("x"), origins):
        if origin.shift == 0 and (mean > 20).all() and (mean < 235).all():
            yield origin.feature, Domain("pixels", 255)
        elif origin.shift == 0 and (mean > 0.1).all() and (mean < 0.9).all():
            yield origin.feature, Domain("pixels", 1)


def _product(step: Step, origins: Mapping[str, _Origin], held: Mapping[str, Any]) -> Found:
    """Pixels times 1/255 or the like, or twice the pixels, which makes -1 to 1 of them."""
    for one, other in (("x", "y"), ("y", "x")):
        factor = _constant(step.arguments.get(other), held)
        if factor is not None:
            yield from _scaled(origins, step.arguments.get(one), factor)


def _quotient(step: Step, origins: Mapping[str, _Origin], held: Mapping[str, Any]) -> Found:
    divisor = _constant(step.arguments.get("y"), held)
    if divisor is not None and divisor.all():
        yield from _scaled(origins, step.arguments.get("x"), 1 / divisor)


def _scaled(origins: Mapping[str, _Origin], argument: Any, factor: Array) -> Found:
    for origin in _origins(argument, origins):
        if origin.shift == 0 and (factor > 0.001).all() and (factor < 0.025).all():
            yield origin.feature, Domain("pixels", 255)
        elif origin.shift == 0 and (factor == 2).all():
            yield origin.feature, Domain("pixels", 1)


_READERS: dict[str, Callable[[Step, Mapping[str, _Origin], Mapping[str, Any]], Found]] = {
    **dict.fromkeys(_TABLES, _rows),
    "one_hot": _one_hot,
    "cast": _cast,
    "scaled_dot_product_attention": _attention,
    "sub": _difference,
    "add": _sum,
    "mul": _product,
    "real_div": _quotient,
}
