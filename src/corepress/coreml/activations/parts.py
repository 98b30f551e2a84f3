"""What is known of a model's activations before pairs are written: which there are, and their ranges.

Pairs are written from this as often as wanted, with other exceptions each time.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from corepress.coreml.activations.observers import Fixed, Observer
from corepress.coreml.activations.pairs import Limits, write
from corepress.coreml.activations.patterns import (
    Chosen,
    activations,
    after,
    before,
    concat_groups,
    input_types,
    name_of,
    spared,
    type_of,
)
from corepress.coreml.config import OptimizationConfig
from corepress.coreml.op_configs import OpLinearQuantizerConfig
from corepress.formats.dtypes import BY_MIL, DType
from corepress.formats.mlprogram import Model
from corepress.formats.mlprogram.program import Function, Node, nodes, programs

log = logging.getLogger(__name__)


class Part:
    """One function of one program: its operations, and what is quantized in it. Names of values that leave it get
    `prefix`, which is that of its stage in a pipeline."""

    def __init__(self, program: str, function: str, message: Any, view: list[Node], config: OptimizationConfig):
        self.function = f"{program}/{function}" if program else function
        self.prefix = f"{program}/" if program else ""
        self.inputs, self.view, self.config = input_types(message), view, config
        self.groups = concat_groups(view)
        self.chosen = before(view, self.inputs, self.config_for)
        self.values = _values(self.chosen)

    def config_for(self, node: Node) -> Any:
        return self.config.config_for(node.name, [(node.type, node.name)])

    @property
    def wanted(self) -> set[str]:
        """The values to observe."""
        return {self.prefix + name for name in self.values.union(*self.groups)}

    def kinds(self) -> dict[str, tuple[OpLinearQuantizerConfig, DType]]:
        """How each value that gets a pair is quantized, and the type in which it is computed. Those that share a range
        with others are left out."""
        shared = set().union(*self.groups)
        found: dict[str, tuple[OpLinearQuantizerConfig, DType]] = {}
        for node, config in self.chosen.items():
            for _, _, operand in activations(node):
                kind = BY_MIL[type_of(operand, self.inputs).tensorType.dataType]
                found.setdefault(name_of(operand), (config, kind))
        for node, config in after(self.chosen).items():
            output = node.op.outputs[0]
            found.setdefault(str(output.name), (config, BY_MIL[output.type.tensorType.dataType]))
        return {name: kind for name, kind in found.items() if name not in shared}

    def note(self, model: Model, trouble: Mapping[str, str]) -> None:
        """Say which values stay as they are. `trouble`: why a value has no range."""
        for value in sorted(self.values):
            if (reason := trouble.get(self.prefix + value)) is not None:
                model.skipped[self.function, value] = reason
                log.warning("activation %s: left as it is: %s", value, reason)

    def write(
        self,
        observers: Mapping[str, Observer],
        trouble: Mapping[str, str],
        exceptions: Collection[str] = (),
        only: Collection[str] | None = None,
    ) -> None:
        """Put the pairs into the program; see `Ranges.written`."""

        @functools.cache
        def limits(value: str, symmetric: bool) -> Limits:
            group: set[str] = next((group for group in self.groups if value in group), {value})
            names = {self.prefix + member for member in group} - set(trouble)
            found = [observers[name].limits(symmetric) for name in names]
            return min(low for low, _ in found), max(high for _, high in found)

        def usable(value: str) -> bool:
            name = self.prefix + value
            return name in observers and name not in trouble

        def config_for(node: Node) -> Any:
            left = node.name in exceptions or (only is not None and node.name not in only)
            return None if left else self.config_for(node)

        chosen = before(self.view, self.inputs, config_for, usable)
        left = spared(self.view, exceptions)
        write(self.view, self.inputs, chosen, after(chosen, usable, left), limits, left)


@dataclass(frozen=True)
class Ranges:
    """A model, raised to what quantized activations need, and the ranges of its activations.

    `observers`: by the name of each value; `trouble`: why a value has none. `functions`: those that are quantized.
    """

    model: Model
    config: OptimizationConfig
    functions: tuple[str, ...]
    observers: Mapping[str, Observer]
    trouble: Mapping[str, str]

    def parts(self, model: Model | None = None) -> list[Part]:
        """Of this model, or of a copy of it."""
        return [part for part in parts_of(model or self.model, self.config) if part.function in self.functions]

    def operations(self) -> dict[str, str]:
        """The operations that get pairs, each with its type."""
        return {node.name: node.type for part in self.parts() for node in part.chosen}

    def with_limits(self, limits: Mapping[str, Limits]) -> Ranges:
        """The same with other ranges for some values."""
        fixed = {name: Fixed(*ends) for name, ends in limits.items()}
        return replace(self, observers={**self.observers, **fixed})

    def written(
        self, exceptions: Collection[str] = (), only: Collection[str] | None = None, *, quiet: bool = False
    ) -> Model:
        """The model with its pairs.

        `exceptions`: names of operations that compute in floating point, with no pair around them. `only`: the names
        of all operations that get pairs. `quiet`: nothing is said of values without a range.
        """
        result = self.model.copy()
        result.skipped = dict(self.model.skipped)
        for part in self.parts(result):
            if not quiet:
                part.note(result, self.trouble)
            part.write(self.observers, self.trouble, exceptions, only)
        return result


def parts_of(model: Model, config: OptimizationConfig) -> Iterator[Part]:
    """The functions of all programs of a model."""
    views: dict[str, list[Node]] = {}
    for node in nodes(model.spec):
        views.setdefault(str(node.function), []).append(node)
    for program, content in programs(model.spec):
        for entry in content.functions:
            name = str(Function(program, entry.key, entry.value.opset))
            yield Part(program, entry.key, entry.value, views.get(name, []), config)


def _values(chosen: Chosen) -> set[str]:
    """The names of all values that get a pair."""
    read = {name_of(reading.operand) for node in chosen for reading in activations(node)}
    return read | {str(node.op.outputs[0].name) for node in after(chosen)}
