"""Neural networks, the models of iOS 15 and older, as something to search."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import torch
from torch import Tensor

from corepress import recipe
from corepress.engine import Skip, skipping
from corepress.errors import ConfigError
from corepress.formats.neural_network import Model
from corepress.formats.neural_network.constants import reason_to_spare
from corepress.formats.neural_network.layers import LayerWeight
from corepress.neural_network.actions import action_of, finite
from corepress.neural_network.config import NetworkLinearConfig, NetworkPaletteConfig
from corepress.runtime import load
from corepress.runtime.runnable import Runnable
from corepress.runtime.walk import each_program
from corepress.searching.candidates import DENSE
from corepress.searching.programs import outputs_of
from corepress.searching.recipes import recipe_of
from corepress.searching.subject import Array, Candidate, Choice, Item, Part, Place, Sample, Value, left_alone

FORMS = ("palettized", "quantized")
HALF = Candidate("float16", (("quantize", {"nbits": 16}),))
# Weights of up to so many elements become float16 at most: a table, or a scale for each channel, saves little of them.
_SMALL = 2048
_CONFIGS: dict[str, type[Any]] = {"palettize": NetworkPaletteConfig, "quantize": NetworkLinearConfig}


def candidates(forms: Sequence[str] = FORMS) -> tuple[Candidate, ...]:
    """The forms that a weight of a network could get, dense and float16 first. `forms`: some of `FORMS`."""
    if unknown := [form for form in forms if form not in FORMS]:
        raise ConfigError(f"forms: neural networks have no {unknown[0]!r} weights; they are {', '.join(FORMS)}")
    return (DENSE, HALF, *_tables(forms), *_steps(forms))


def _tables(forms: Sequence[str]) -> Iterator[Candidate]:
    for bits in range(1, 9) if "palettized" in forms else ():
        yield Candidate(f"palettized {bits} bit{'s' if bits > 1 else ''}", (("palettize", {"nbits": bits}),))


def _steps(forms: Sequence[str]) -> Iterator[Candidate]:
    for bits in range(1, 9) if "quantized" in forms else ():
        arguments = {"nbits": bits, "mode": "linear"}
        yield Candidate(f"quantized {bits} bit{'s' if bits > 1 else ''}", (("quantize", arguments),))


class NetworkSubject:
    """A model of neural networks that is searched; it stays as it is.

    Args:
        model: The model.
        forms: Some of `FORMS`.
        custom: The functions of custom layers, as `corepress.runtime.load` takes them.
        workers: Threads that make a model; by default one for each core.
    """

    def __init__(
        self,
        model: Model,
        *,
        forms: Sequence[str] = FORMS,
        custom: Mapping[str, Any] | None = None,
        device: str = "cpu",
        workers: int | None = None,
    ):
        self.model, self.device, self.workers, self._custom = model, device, workers, custom
        self._program = self.loaded(None)
        self.left: dict[str, str] = {}
        known = candidates(forms)
        self._tensors = list(_by_name(self._searchable()))
        names = [tensors[0].name for tensors in self._tensors] + list(self.left)
        self.items = [_item(tensors, names, known) for tensors in self._tensors]
        self._leaves = self._found_leaves()

    def _searchable(self) -> Iterator[LayerWeight]:
        reason_of = reason_to_spare(self.model.spec)
        for weight in self.model.weights():
            try:
                if weight.form not in ("float32", "float16"):
                    raise Skip(f"it is quantized to {weight.bits} bits already")
                if weight.layer.isUpdatable:
                    raise Skip("its layer is updatable, and so needs float32")
                if reason := reason_of(weight):
                    raise Skip(reason.partition(";")[0])
                with skipping():
                    finite(weight)
            except Skip as reason:
                self.left[weight.name] = str(reason)
                continue
            yield weight

    def _found_leaves(self) -> dict[str, dict[Place, list[Tensor]]]:
        """By the name of a stage, where its program holds the tensors."""
        stages = {name: stage for name, stage, _ in each_program(self._program, [], networks=True)}
        found: dict[str, dict[Place, list[Tensor]]] = {name: {} for name in stages}
        for item, tensors in enumerate(self._tensors):
            for piece, weight in enumerate(tensors):
                # In a network the layers of loops and branches are known by their own names.
                name = next((name for name in stages if not name or weight.name.startswith(f"{name}/")), "")
                buffer = stages[name].constants.get(f"{weight.layer.name}.{weight.field}") if name in stages else None
                if buffer is not None:
                    leaf = stages[name].module.get_buffer(buffer)
                    if tuple(leaf.shape) == tuple(weight.shape):
                        found[name].setdefault((item, piece), []).append(leaf)
        return found

    def original(self, place: Place) -> Array:
        """See `Subject`."""
        return self._tensors[place[0]][place[1]].dense()

    def value(self, place: Place, candidate: int) -> Value:
        """See `Subject`."""
        weight = self._tensors[place[0]][place[1]]
        steps, before = self.items[place[0]].candidates[candidate].steps, weight.params.ByteSize()
        if not steps:
            return Value(weight.dense(), before)
        changed = replace(weight, params=type(weight.params)())
        changed.params.CopyFrom(weight.params)
        for verb, arguments in steps:
            bits, mode = _CONFIGS[verb](**arguments).asked()
            with skipping():
                action_of(bits, mode, None)(changed)
        if changed.params.ByteSize() >= before:
            raise Skip("it would take as many bytes as before")
        return Value(changed.dense(), changed.params.ByteSize())

    def parts(self, samples: Sequence[Sample]) -> list[Part]:
        """See `Subject`."""
        return [
            Part(outputs_of(stage), self._leaves[name], list(given))
            for name, stage, given in each_program(self._program, samples, networks=True)
            if self._leaves[name]
        ]

    def put(self, place: Place, dense: Array) -> None:
        """See `Subject`."""
        for leaves in self._leaves.values():
            for leaf in leaves.get(place, ()):
                leaf.copy_(torch.from_numpy(np.ascontiguousarray(dense, np.float32)))

    def loaded(self, model: Model | None) -> Runnable:
        """See `Subject`."""
        source = self.model if model is None else model
        return load(source, self.device, precision="float32", custom=self._custom)

    def answer(self, loaded: Runnable, sample: Sample) -> dict[str, Any]:
        """See `Subject`."""
        return dict(loaded.predict(sample, loaded.make_state()))

    def recipe(self, choice: Choice) -> dict[str, Any]:
        """See `Subject`."""
        return recipe_of(self.items, choice, None)

    def make(self, choice: Choice) -> Model:
        """See `Subject`."""
        steps = self.recipe(choice)
        if not steps["steps"]:
            return self.model.copy()
        made: Model = recipe.run(
            self.model, recipe.parse(steps, networks=True), workers=self.workers, spare_constants=True
        )
        return made

    @property
    def notes(self) -> list[str]:
        """See `Subject`."""
        return left_alone(self.left)

    def size(self, model: Model) -> int:
        """See `Subject`."""
        return model.size()


def _by_name(weights: Iterator[LayerWeight]) -> Iterator[list[LayerWeight]]:
    """Weights of one name together: a recipe can't tell them apart."""
    groups: dict[str, list[LayerWeight]] = {}
    for weight in weights:
        groups.setdefault(weight.name, []).append(weight)
    yield from groups.values()


def _item(tensors: list[LayerWeight], names: Sequence[str], known: tuple[Candidate, ...]) -> Item:
    first = tensors[0]
    shapes = tuple(tuple(weight.shape) for weight in tensors)
    # As a pattern a name may match others, with its brackets.
    alike = any(other != first.name and fnmatchcase(other, first.name) for other in names)
    name = glob.escape(first.name) if alike else first.name
    small = max(np.prod(shape) for shape in shapes) <= _SMALL
    return Item(first.name, (name,), shapes, first.layer_type, (DENSE, HALF) if small else known)
