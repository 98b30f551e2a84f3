"""Neural networks, the models of iOS 15 and older, as something to search."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from corepress import recipe
from corepress.engine import Skip, skipping
from corepress.formats.neural_network import Model
from corepress.formats.neural_network.constants import reason_to_spare
from corepress.formats.neural_network.layers import LayerWeight
from corepress.neural_network.actions import action_of, finite
from corepress.neural_network.config import NetworkLinearConfig, NetworkPaletteConfig
from corepress.runtime import load
from corepress.runtime.networks.registry import STACKED
from corepress.runtime.runnable import Runnable
from corepress.runtime.walk import each_program
from corepress.searching.candidates import DENSE, check_forms
from corepress.searching.programs import part_of, put
from corepress.searching.recipes import pattern_of, recipe_of
from corepress.searching.subject import Answer, Array, Candidate, Choice, Item, Part, Place, Value, left_alone
from corepress.sequences import Sample, like
from corepress.weights import worded_bits

FORMS = ("palettized", "quantized")
HALF = Candidate("float16", (("quantize", {"nbits": 16}),))
# Weights of up to so many elements become float16 at most: a table, or a scale for each channel, saves little of them.
_SMALL = 2048
Steps = tuple[tuple[str, Mapping[str, Any]], ...]
_CONFIGS: dict[str, type[Any]] = {"palettize": NetworkPaletteConfig, "quantize": NetworkLinearConfig}


def candidates(forms: Sequence[str] = FORMS) -> tuple[Candidate, ...]:
    """The forms that a weight of a network could get, dense and float16 first. `forms`: some of `FORMS`."""
    check_forms(forms, FORMS, "neural networks have no such weights")
    return (DENSE, HALF, *_tables(forms), *_steps(forms))


def _tables(forms: Sequence[str]) -> Iterator[Candidate]:
    for bits in range(1, 9) if "palettized" in forms else ():
        yield Candidate(f"palettized {worded_bits(bits)}", (("palettize", {"nbits": bits}),))


def _steps(forms: Sequence[str]) -> Iterator[Candidate]:
    for bits in range(1, 9) if "quantized" in forms else ():
        arguments = {"nbits": bits, "mode": "linear"}
        yield Candidate(f"quantized {worded_bits(bits)}", (("quantize", arguments),))


class Stack(NamedTuple):
    """Weights that the runtime holds as one tensor, one below the other, as those of the gates of an LSTM; mostly one.

    `name`: that of the tensor in its layer.
    """

    name: str
    weights: tuple[LayerWeight, ...]

    @property
    def first(self) -> LayerWeight:
        return self.weights[0]

    @property
    def shape(self) -> tuple[int, ...]:
        if len(self.weights) == 1:
            return tuple(self.first.shape)
        return (sum(weight.shape[0] for weight in self.weights), *self.first.shape[1:])

    def dense(self) -> Array:
        """The values of all."""
        values = [weight.dense() for weight in self.weights]
        return values[0] if len(values) == 1 else np.concatenate(values)


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
        self._tensors = list(_by_name(_stacked(list(self._searchable()))))
        names = [weight.name for weight in model.weights()]
        self.items = [_item(tensors, names, known) for tensors in self._tensors]
        self._leaves = self._found_leaves()

    def _searchable(self) -> Iterator[LayerWeight]:
        reason_of = reason_to_spare(self.model.spec)
        for weight in self.model.weights():
            try:
                if weight.form not in ("float32", "float16"):
                    raise Skip(f"it is quantized to {worded_bits(weight.bits)} already")
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
            for piece, stack in enumerate(tensors):
                # In a network the layers of loops and branches are known by their own names.
                name = next((name for name in stages if not name or stack.first.name.startswith(f"{name}/")), "")
                buffer = (
                    stages[name].constants.get(f"{stack.first.layer.name}.{stack.name}") if name in stages else None
                )
                if buffer is not None:
                    leaf = stages[name].module.get_buffer(buffer)
                    if tuple(leaf.shape) == stack.shape:
                        found[name].setdefault((item, piece), []).append(leaf)
        return found

    def original(self, place: Place) -> Array:
        """See `Subject`."""
        return self._tensors[place[0]][place[1]].dense()

    def value(self, place: Place, candidate: int) -> Value:
        """See `Subject`."""
        stack = self._tensors[place[0]][place[1]]
        steps = self.items[place[0]].candidates[candidate].steps
        before = sum(weight.params.ByteSize() for weight in stack.weights)
        changed = stack._replace(weights=tuple(map(_compressed, stack.weights, [steps] * len(stack.weights))))
        size = sum(weight.params.ByteSize() for weight in changed.weights)
        if steps and size >= before:
            raise Skip("it would take as many bytes as before")
        return Value(changed.dense(), size)

    def parts(self, samples: Sequence[Sample]) -> list[Part]:
        """See `Subject`."""
        return [
            part_of(stage, self._leaves[name], given)
            for name, stage, given in each_program(self._program, samples, networks=True)
            if self._leaves[name]
        ]

    def put(self, place: Place, dense: Array) -> None:
        """See `Subject`."""
        put(self._leaves, place, dense)

    def loaded(self, model: Model | None) -> Runnable:
        """See `Subject`."""
        source = self.model if model is None else model
        return load(source, self.device, precision="float32", custom=self._custom)

    def answer(self, loaded: Runnable, sample: Sample) -> Answer:
        """See `Subject`."""
        return like(sample, loaded.run_sequence(sample))

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

    plain = draft = make

    @property
    def words(self) -> None:
        """See `Subject`: what its inputs mean is not known."""
        return None

    @property
    def notes(self) -> list[str]:
        """See `Subject`."""
        return left_alone(self.left)

    def size(self, model: Model) -> int:
        """See `Subject`."""
        return model.size()


def _compressed(weight: LayerWeight, steps: Steps) -> LayerWeight:
    """A copy of a weight, in another form."""
    changed = replace(weight, params=type(weight.params)())
    changed.params.CopyFrom(weight.params)
    for verb, arguments in steps:
        bits, mode = _CONFIGS[verb](**arguments).asked()
        with skipping():
            action_of(bits, mode, None)(changed)
    return changed


def _stacked(weights: Sequence[LayerWeight]) -> Iterator[Stack]:
    """The weights as the runtime holds them, in order."""
    layers: dict[int, list[LayerWeight]] = {}
    for weight in weights:
        layers.setdefault(id(weight.layer), []).append(weight)
    for own in layers.values():
        kind, apart = own[0].layer_type, list(own)
        # What the runtime makes of numbers that say which weight they stand for tells where each of them goes.
        numbered = {weight.field: np.full(weight.shape, number) for number, weight in enumerate(own)}
        for name, joined in STACKED[kind](numbered).items() if kind in STACKED else ():
            stack = Stack(name, tuple(own[number] for number in dict.fromkeys(joined.reshape(len(joined), -1)[:, 0])))
            apart = [weight for weight in apart if weight not in stack.weights]
            yield stack
        yield from (Stack(weight.field, (weight,)) for weight in apart)


def _by_name(stacks: Iterator[Stack]) -> Iterator[list[Stack]]:
    """Those of one name together: a recipe can't tell them apart."""
    groups: dict[str, list[Stack]] = {}
    for stack in stacks:
        groups.setdefault(stack.first.name, []).append(stack)
    yield from groups.values()


def _item(tensors: Sequence[Stack], names: Sequence[str], known: tuple[Candidate, ...]) -> Item:
    first = tensors[0].first
    shapes = tuple(stack.shape for stack in tensors)
    own = dict.fromkeys(pattern_of(weight.name, names) for stack in tensors for weight in stack.weights)
    small = max(math.prod(shape) for shape in shapes) <= _SMALL
    return Item(first.name, tuple(own), shapes, first.layer_type, (DENSE, HALF) if small else known)
