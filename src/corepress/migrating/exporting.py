"""A function as `torch.export` has it: with symbolic shapes where those of the package are flexible."""

from __future__ import annotations

import logging
import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.export import Dim
from torch.fx.traceback import preserve_node_meta

from corepress.engine import silence
from corepress.formats.features import Feature
from corepress.migrating.chain import Chain
from corepress.migrating.decompositions import decompositions
from corepress.migrating.exportable import STEP, Without
from corepress.migrating.functions import Function
from corepress.runtime.domains import domains
from corepress.runtime.random_inputs import random_inputs
from corepress.runtime.values import to_tensors

# What PyTorch adds for its own developers.
_ADVICE = re.compile(r" \(unhinted: |  \(Size-like | +Caused by: | For more information, run with ")
# A length of a flexible axis in the example, where the default is 1: PyTorch takes what is 1 for constant.
_SEVERAL = 3
# An upper bound of lengths for which the package has none.
_MOST = 1 << 20

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Exported:
    """A function of a package, exported.

    Args:
        function: The function.
        program: What `torch.export` made of it.
        states: The names of its states, in order.
        failures: What could not be exported: operations, each with the reason.
        notes: Sentences on what is not as it was.
    """

    function: Function
    program: torch.export.ExportedProgram
    states: tuple[str, ...]
    failures: Mapping[str, str]
    notes: tuple[str, ...] = ()

    def steps(self, targets: set[str]) -> list[str]:
        """The operations of the package that such operations of PyTorch are a part of."""
        found = (
            node.meta.get("custom", {}).get(STEP) for node in self.program.graph.nodes if str(node.target) in targets
        )
        return list(dict.fromkeys(step for step in found if step))


def exported(function: Function) -> Exported:
    """Export a function: in the default shape, where it can't be in those that its inputs may have. What can't be
    exported at all stands in `failures`."""
    features = function.interface.inputs
    reason = ""
    for shapes in _examples(features):
        for dimensions in (_ranges, _multiples):
            if (dynamic := dimensions(function)) is None:
                continue
            try:
                found = _export(function, shapes, dynamic)
            except Exception as error:  # of all kinds
                reason = reason or said(error)
                continue
            if not (narrower := list(_narrower(found, features))):
                return found
            reason = reason or narrower[0]
    try:
        found = _export(function, {}, None)
    except Exception as error:  # of all kinds
        found = _without_failures(function, error)
    fixed = [feature for feature in features if _axes(feature)]
    notes = (
        f"input {feature.name!r} takes {_by(feature.shape)} only, of {feature.describe()}: {reason}"
        for feature in fixed
    )
    return replace(found, notes=tuple(notes))


def said(error: Exception | str) -> str:
    """What an error of PyTorch says first, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    text = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    return _ADVICE.split(text)[0].rstrip()


def _without_failures(function: Function, error: Exception) -> Exported:
    """The function without what can't be exported of it, all of which is found. Raises `error` where that is not it."""
    without = _seen(function)
    while True:
        before = _failures(without)
        try:
            found = _export(function, {}, None, without)
        except Exception:  # of all kinds: what was begun of an operation is in the way
            if _failures(without) == before:
                raise RuntimeError(said(error)) from error
            continue
        if _failures(without) == before:
            return replace(found, failures=before)


def _failures(without: Mapping[str, Without]) -> dict[str, str]:
    return {step: reason for own in without.values() for step, reason in own.failures.items()}


def _export(function: Function, shapes: Shapes, dynamic: Any, without: Mapping[str, Without] | None = None) -> Exported:
    features = tuple(
        replace(feature, shape=shapes.get(feature.name, feature.shape)) for feature in function.interface.inputs
    )
    module = Chain(function, without)
    tensors = function.tensors(to_tensors(features, _example(function, features)))
    with _quietly(), torch.no_grad(), preserve_node_meta():
        found = torch.export.export(
            module, tuple(tensors), dynamic_shapes=dynamic, strict=False,
            prefer_deferred_runtime_asserts_over_guards=dynamic is not None,
        ).run_decompositions(decompositions())  # fmt: skip
    buffers = module.state_buffers()
    states = tuple(buffers[buffer] for buffer in found.graph_signature.buffers_to_mutate.values())
    return Exported(function, found, states, {})


def _example(function: Function, features: tuple[Feature, ...]) -> dict[str, Any]:
    interface = replace(function.interface, inputs=features)
    return next(iter(random_inputs(interface, 0, 1, domains(function.model))))


@contextmanager
def _quietly() -> Iterator[None]:
    """PyTorch warns of what it then solves in another way, and logs with a traceback what it also raises."""
    with silence("torch", logging.CRITICAL), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _seen(function: Function) -> dict[str, Without]:
    """What the operations of a function give, in the default shape, for each stage by name."""
    seen: dict[str, Any] = {}
    model = function.model
    model.predict(_example(function, function.interface.inputs), model.make_state(), seen.__setitem__)
    prefixes = {name: f"{name}/" if len(function.stages) > 1 else "" for name in function.stages}
    return {
        stage: Without({name.removeprefix(prefix): v for name, v in seen.items() if name.startswith(prefix)})
        for stage, prefix in prefixes.items()
    }


def _axes(feature: Feature) -> dict[int, list[int]]:
    """The lengths of those axes of an input that have several: the least and the most, or all, where they are
    enumerated."""
    if feature.shapes:
        sizes = [list(along) for along in zip(*feature.shapes, strict=True)]
    else:
        sizes = [[max(low, 1), high if high >= 0 else max(low, _MOST)] for low, high in feature.ranges]
    return {axis: lengths for axis, lengths in enumerate(sizes) if len(set(lengths)) > 1}


def _ranges(function: Function) -> Any:
    """Dimensions from the least to the most length; which of them are equal, PyTorch finds."""
    by_name = {feature.name: _axes(feature) for feature in function.interface.inputs}
    dims = [
        {axis: Dim.AUTO(min=min(sizes), max=max(sizes)) for axis, sizes in by_name[name].items()}
        for name in function.inputs
    ]
    return (tuple(dims),)


def _multiples(function: Function) -> Any:
    """Enumerated lengths as multiples of what divides them all, such as images that are halved five times; None where
    nothing does. Axes that have the same lengths in the same order are one dimension."""
    known: dict[tuple[int, ...], Any] = {}
    dims = []
    for name in function.inputs:
        feature = next(feature for feature in function.interface.inputs if feature.name == name)
        own = {}
        for axis, sizes in _axes(feature).items():
            unit = math.gcd(*sizes)
            if not feature.shapes or unit == 1:
                return None
            if tuple(sizes) not in known:
                least, most = min(sizes) // unit, max(sizes) // unit
                known[tuple(sizes)] = unit * Dim(f"d{len(known)}", min=least, max=most)
            own[axis] = known[tuple(sizes)]
        dims.append(own)
    return (tuple(dims),)


def _examples(features: Sequence[Feature]) -> Iterator[Shapes]:
    """Shapes of the inputs to export with, nowhere 1 along a flexible axis: those of the default, and larger ones."""
    if not any(_axes(feature) for feature in features):
        return
    for larger in (False, True):
        shapes = {}
        for feature in features:
            shape = list(feature.shape)
            for axis, sizes in _axes(feature).items():
                if feature.shapes:
                    shape[axis] = max(sizes) if larger or shape[axis] < 2 else shape[axis]
                elif larger or shape[axis] < 2:
                    shape[axis] = min(max(min(sizes), 2 * _SEVERAL + 1 if larger else _SEVERAL), max(sizes))
            shapes[feature.name] = tuple(shape)
        yield shapes


def _narrower(found: Exported, features: Sequence[Feature]) -> Iterator[str]:
    """What an exported program allows less than its package does: reasons not to take it."""
    values = {node.name: node.meta["val"] for node in found.program.graph.nodes if node.op == "placeholder"}
    names = dict(zip(found.function.inputs, found.program.graph_signature.user_inputs, strict=True))
    for feature in features:
        for axis, sizes in _axes(feature).items():
            low, high = _bounds(values[names[feature.name]].shape[axis], found.program)
            if low > max(min(sizes), 2) or high < max(sizes):
                allowed = f"{low}" if low == high else f"{low} to {high}"
                yield f"its operations fit a length of {allowed} along axis {axis} only"


def _bounds(size: Any, program: torch.export.ExportedProgram) -> tuple[int, int]:
    """The least and the most length; PyTorch gives 2 for the least where there may be 1."""
    if not isinstance(size, torch.SymInt):
        return int(size), int(size)
    (symbol,) = size.node.expr.free_symbols
    bounds = program.range_constraints[symbol]
    ends = [int(size.node.expr.subs(symbol, end)) for end in (bounds.lower, bounds.upper)]
    return ends[0], ends[1]


def _by(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
