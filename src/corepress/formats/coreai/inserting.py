"""Pairs of `quantize` and `dequantize` that were put into the view of a program, put into the program itself.

They are the only operations that a model may have besides those of its program. In the view they are ML programs':
Core AI's take the same numbers, and more that are nothing here: a least value, and an axis.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from corepress.formats.coreai import library
from corepress.formats.coreai.view import View
from corepress.formats.dtypes import dtype_of
from corepress.formats.mlprogram.program import nodes
from corepress.formats.mlprogram.values import BlobSource, read_string, read_tensor

_PAIR = ("quantize", "dequantize")


def pairs(spec: Any, view: View) -> list[tuple[str, Any]]:
    """The operations that were put in, each with the name of its function; `spec`: the view as it is now."""
    return [
        (name, operation)
        for name, operation in _operations(spec)
        if operation.type in _PAIR and (name, operation.outputs[0].name) not in view.values
    ]


def insert(spec: Any, view: View, blobs: BlobSource) -> None:
    """Put into a program what `spec` has besides the view that was made of it, and let those read it who do there."""
    values = dict(view.values)
    scales: dict[tuple[str, str], tuple[Any, ...]] = {}
    for name, operation in pairs(spec, view):
        source, output = (name, _read(operation, "input")), (name, operation.outputs[0].name)
        with library.behind(values[source]):
            # The second one of a pair has the numbers of the first one.
            numbers = scales.get(source) or _numbers(operation, blobs)
            values[output] = getattr(library.calls(), operation.type)(values[source], *numbers)
            scales[output] = numbers
    before = {(name, own.outputs[0].name): own for name, own in _operations(view.spec) if own.outputs}
    for name, operation in _operations(spec):
        place = (name, operation.outputs[0].name if operation.outputs else "")
        if (reader := view.operations.get(place)) is not None:
            for old, new in _changes(before[place], operation):
                library.reread(reader, view.values[name, old], values[name, new])


def _operations(spec: Any) -> Iterator[tuple[str, Any]]:
    """All operations, each with the name of its function."""
    return ((node.function.name, node.op) for node in nodes(spec))


def _given(operation: Any) -> dict[str, Any]:
    """What is bound to each argument."""
    return {entry.key: entry.value.arguments for entry in operation.inputs}


def _read(operation: Any, argument: str) -> str:
    """The name of the value that an operation reads."""
    return str(_given(operation)[argument][0].name)


def _numbers(operation: Any, blobs: BlobSource) -> tuple[Any, ...]:
    """Of a `quantize`: new constants for the scale, the offset, the least value, and the axis."""
    given = {argument: bindings[0].value for argument, bindings in _given(operation).items()}
    dtype = str(read_string(given["output_dtype"]))
    scale = read_tensor(given["scale"], blobs, "a scale")
    zero = read_tensor(given["zero_point"], blobs, "a zero point") if "zero_point" in given else np.zeros((), dtype)
    arrays = scale, zero, np.zeros((), scale.dtype), np.zeros((), np.int32)
    return tuple(library.make_constant(array, dtype_of(array.dtype)) for array in arrays)


def _changes(known: Any, operation: Any) -> Iterator[tuple[str, str]]:
    """Where an operation reads another value than before: the names of both."""
    before = _given(known)
    for argument, bindings in _given(operation).items():
        for one, other in zip(before[argument], bindings, strict=True):
            if one.name != other.name:
                yield one.name, other.name
