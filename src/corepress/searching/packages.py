"""A package as the subject of a search."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor

from corepress import recipe
from corepress.coreml.action import Action
from corepress.coreml.axes import channel_axes
from corepress.coreml.calibrated.best import enlarged
from corepress.coreml.calibrated.gains import Gains, Tried, gains
from corepress.coreml.calibrated.judging import Split, split_of
from corepress.coreml.choose import config_for
from corepress.coreml.config import OptimizationConfig
from corepress.coreml.methods import METHODS
from corepress.coreml.op_configs import OpPalettizerConfig
from corepress.coreml.opset import oldest_target, reach
from corepress.coreml.outliers import check_apart, taken_apart
from corepress.coreml.readers import read_by_product
from corepress.engine import Skip, silence, skipping
from corepress.fields import read
from corepress.formats.mlprogram import Model, Weight
from corepress.language import Words
from corepress.linting import of_form
from corepress.runtime import load
from corepress.runtime.domains import domains
from corepress.runtime.language import words_of
from corepress.runtime.runnable import Runnable
from corepress.runtime.stages.pipeline import Pipeline
from corepress.runtime.walk import each_program
from corepress.searching.candidates import MIN_GROUP, candidates
from corepress.searching.integers import bytes_of_pairs, in_integers, multiplied, whatever_its_size
from corepress.searching.programs import part_of, put
from corepress.searching.recipes import pattern_of, recipe_of
from corepress.searching.subject import Answer, Array, Candidate, Choice, Item, Part, Place, Value, left_alone
from corepress.sequences import Sample, like
from corepress.split import HELD_BACK
from corepress.targets import by_opset, check, require
from corepress.weights import CompressedWeight, Sparse, decompress, stored_bytes

# For each verb the method that learns from samples: the default one.
FITTED = {verb: method.learning for verb, method in METHODS.items()}
# Forms that each weight is fitted in, to learn how much of their damage fitting leaves.
TRIED: dict[str, tuple[str, dict[str, Any]]] = {
    **{f"palettized {bits} bits": ("palettize", {"nbits": bits}) for bits in (2, 3, 4)},
    "quantized int4": ("quantize", {"dtype": "int4"}),
    "sparse 50%": ("prune", {"target_sparsity": 0.5}),
}


class PackageSubject:
    """One package: its weights are the items, as `compress --recipe` would take them.

    Args:
        model: The package; it stays as it is.
        target: Raise it to this system first, or None.
        forms, min_group: See `candidates`.
        safe: Leave out forms that devices are reported to get wrong, or to be slow with (`corepress.linting`).
        activations: Whether those are to be quantized afterwards: weights that are multiplied by them get integers
            then, and sizes have room for what is around them.
        learnt: Samples to fit to; None for forms without data.
        augment: How many samples are made of these, to fit to besides.
        function: Of several, the one that samples run through.
    """

    def __init__(
        self,
        model: Model,
        *,
        target: Any = None,
        forms: Sequence[str],
        min_group: int = MIN_GROUP,
        safe: bool = False,
        activations: bool = False,
        learnt: Sequence[Sample] | None = None,
        augment: int = 0,
        function: str | None = None,
        device: str = "cpu",
        workers: int | None = None,
    ):
        self.model, self.learnt, self.safe, self.activations = model, learnt, safe, activations
        self.function, self.device, self.workers, self.augment = function, device, workers, augment
        raised = model.copy()
        needed = ("iOS17", "quantized activations") if activations else ("iOS16", "compressed weights")
        reach(raised, *needed, target)
        self.target = oldest_target(raised)
        self.raised = target is not None or oldest_target(model) != self.target
        self._program = _shown(load(raised, device, precision="float32", function=function))
        # Those that samples run through.
        self.functions = [name for name, _, _ in each_program(self._program, [])]
        self._pairs = bytes_of_pairs(raised, self.functions) if activations else 0
        # Why weights are no items, by name.
        self.left: dict[str, str] = {}
        self._tensors: list[list[list[Weight]]] = []
        self.items: list[Item] = []
        known = candidates(self.target, forms, min_group)
        everything = raised.weights()
        names = {name for weight in everything for name in (weight.name, *(one.name for one in weight.consumers))}
        for group in _by_name(self._searchable(everything)):
            self._add(group, known, names)
        self._leaves = self._found_leaves()
        self._gains: Gains | None = None
        self._lock = threading.Lock()

    def _searchable(self, weights: Sequence[Weight]) -> list[Weight]:
        config, found = OptimizationConfig(OpPalettizerConfig(nbits=4)), []
        of_any_size = OptimizationConfig(OpPalettizerConfig(nbits=4, weight_threshold=0))
        for weight in weights:
            try:
                config_for(weight, of_any_size if self._in_integers(weight) else config, (), False)
                if not read_by_product(weight):
                    raise Skip("no product, look-up or recurrence reads it")
            except Skip as reason:
                if len(weight.shape) > 1 and weight.consumers:  # of others nobody expects it
                    # A setting that a search does not have.
                    self.left[weight.name] = str(reason).removesuffix(" (weight_threshold)")
                continue
            found.append(weight)
        return found

    def _add(self, group: list[Weight], known: tuple[Candidate, ...], all_names: Collection[str]) -> None:
        """One more item: weights that have one name or share their data. `all_names`: what a recipe could mean."""
        tensors: dict[Any, list[Weight]] = {}
        for weight in group:
            tensors.setdefault(weight.key, []).append(weight)
        first = group[0]
        names = tuple(dict.fromkeys(pattern_of(weight.name, all_names) for weight in group))
        shapes = tuple(sharing[0].shape for sharing in tensors.values())
        fitting = self._fitting(group, known)
        self.items.append(Item(first.name, names, shapes, first.consumers[0].op_type, fitting))
        self._tensors.append(list(tensors.values()))

    def _in_integers(self, weight: Weight) -> bool:
        """Whether a weight needs a form of integers, so that the operation that reads it can compute with them."""
        return self.activations and multiplied(weight)

    def _fitting(self, group: Sequence[Weight], known: Sequence[Candidate]) -> tuple[Candidate, ...]:
        """The candidates of an item."""
        if not any(self._in_integers(weight) for weight in group):
            return tuple(_along_an_axis(candidate, group[0]) for candidate in known)
        integers = (in_integers(candidate, self.target) for candidate in known)
        return tuple(whatever_its_size(candidate) for candidate in integers if candidate is not None)

    def _found_leaves(self) -> dict[str, dict[Place, list[Tensor]]]:
        """By function, where its program holds the tensors."""
        stages = {name: stage for name, stage, _ in each_program(self._program, [])}
        found: dict[str, dict[Place, list[Tensor]]] = {name: {} for name in stages}
        for item, tensors in enumerate(self._tensors):
            for piece, sharing in enumerate(tensors):
                for weight in sharing:
                    stage = stages.get(weight.function)
                    buffer = None if stage is None else stage.constants.get(weight.output)
                    if stage is not None and buffer is not None:
                        leaves = found[weight.function].setdefault((item, piece), [])
                        leaves.append(stage.module.get_buffer(buffer))
        return found

    def _weight(self, place: Place) -> Weight:
        return self._tensors[place[0]][place[1]][0]

    def original(self, place: Place) -> Array:
        """See `Subject`."""
        weight = self._weight(place)
        dense = np.array(weight.dense())
        weight.release()
        return dense

    def value(self, place: Place, candidate: int) -> Value:
        """See `Subject`."""
        weight = self._weight(place)
        form: Any = weight.read()
        apart: Sparse | None = None
        with skipping():
            for verb, arguments in self.items[place[0]].candidates[candidate].steps:
                method = METHODS[verb]
                config = read(arguments, method.kinds[0], verb)
                if fraction := arguments.get("outlier_fraction"):
                    check_apart(weight)
                    form, apart = taken_apart(weight, fraction)
                form = method.action.on(weight, config, True).compress(form)
                if form is None:
                    raise Skip(f"it can't be {method.action.verb} in this form")
            if candidate:
                self._check(form, weight)
        dense, size = np.array(decompress(form)), stored_bytes(form)
        if apart is not None:
            dense, size = dense + apart.decompress(), size + apart.nbytes
        weight.release()
        if candidate and size >= weight.stored_bytes:
            raise Skip("it would take as many bytes as before")
        return Value(dense, size if candidate else weight.stored_bytes, self._left(weight, place, candidate))

    def _left(self, weight: Weight, place: Place, candidate: int) -> float:
        """The part of the damage that is left after fitting."""
        if self.learnt is None or not candidate:
            return 1.0
        # With the first form that is asked for, of whatever kind: before any weight of the program is another one.
        with self._lock:  # threads ask
            if self._gains is None:
                sharing = [weights[0] for tensors in self._tensors for weights in tensors]
                self._gains = gains(self._program, self.learnt or (), [Tried(own, _trials(own)) for own in sharing])
        form = _tried_for(self.items[place[0]].candidates[candidate])
        return 1.0 if form is None else self._gains.get((weight.function, weight.output), {}).get(form, 1.0)

    def _check(self, form: CompressedWeight, weight: Weight) -> None:
        """Raise an error of ours for a form that the target can't hold, or that is not safe if that matters."""
        target = by_opset(weight.node.function.opset)
        check(form, target)
        if self.safe:
            rules = [rule for rule in of_form(form, weight.consumers, target) if rule.severity != "no gain"]
            if rules:
                raise Skip(rules[0].title)

    def parts(self, samples: Sequence[Sample]) -> list[Part]:
        """See `Subject`."""
        return [
            part_of(stage, self._leaves[name], given) for name, stage, given in each_program(self._program, samples)
        ]

    def put(self, place: Place, dense: Array) -> None:
        """See `Subject`."""
        put(self._leaves, place, dense)

    def loaded(self, model: Any | None) -> Runnable:
        """See `Subject`."""
        source = self.model if model is None else model
        return _shown(load(source, self.device, precision="float32", function=self.function))

    def answer(self, loaded: Any, sample: Sample) -> Answer:
        """See `Subject`."""
        return like(sample, loaded.run_sequence(sample))

    @functools.cached_property
    def words(self) -> Words | None:
        """See `Subject`."""
        return words_of(self._program.interface, domains(self._program))

    @property
    def notes(self) -> list[str]:
        """Sentences on what is left as it is."""
        return left_alone(self.left)

    def recipe(self, choice: Choice) -> dict[str, Any]:
        """See `Subject`."""
        fits = self.learnt is not None
        return self._recipe(choice, fits, self.augment if fits else 0)

    def _recipe(self, choice: Choice, fits: bool, augment: int) -> dict[str, Any]:
        made = recipe_of(self.items, choice, self.target.name if self.raised else None, FITTED if fits else {})
        more: dict[str, Any] = {"function": self.function} if fits and self.function else {}
        if augment:
            more["augment"] = augment
        return {**made, "steps": [{**step, **more} for step in made["steps"]]}

    def plain(self, choice: Choice) -> Model:
        """See `Subject`."""
        with silence():
            return self._made(self._recipe(choice, False, 0), None, 0)

    def draft(self, choice: Choice) -> Model:
        """See `Subject`. Fitted forms are taken untried, in silence: one pass where it takes two to try them."""
        with silence():
            return self._made(self._recipe(choice, self.learnt is not None, 0), self._all_learnt, 0)

    def make(self, choice: Choice) -> Model:
        """See `Subject`."""
        return self._made(self.recipe(choice), self.learnt, HELD_BACK)

    @functools.cached_property
    def _all_learnt(self) -> Split | None:
        """The samples to fit all drafts to, which keeps what these find alike."""
        if self.learnt is None:
            return None
        split = enlarged(split_of(self.model, self.learnt, 0, self.function), self.model, self.augment, self.function)
        return replace(split, counted={})

    def _made(self, steps: dict[str, Any], samples: Any, held_back: float) -> Model:
        if not steps["steps"]:
            return self.model.copy()
        made: Model = recipe.run(
            self.model,
            recipe.parse(steps),
            workers=self.workers,
            spare_constants=True,
            sample_data=samples,
            held_back=held_back,
            device=self.device,
        )
        return made

    def size(self, model: Model) -> int:
        """See `Subject`. Where activations are to be quantized, what that takes at most is included."""
        return model.size() + self._pairs


def _along_an_axis(candidate: Candidate, weight: Weight) -> Candidate:
    """The candidate, with its groups along the other axis of a matrix where they divide only that: as of the words of a
    table, which are any number."""
    if len(candidate.steps) != 1 or len(weight.shape) != 2:
        return candidate
    (verb, arguments), (_, axis) = candidate.steps[0], channel_axes(weight)
    size = arguments.get("group_size")
    if size is None or not weight.shape[axis] % size or weight.shape[1 - axis] % size:
        return candidate
    steps = ((verb, {**arguments, "channel_axis": 1 - axis}),)
    return replace(candidate, label=f"{candidate.label} along axis {1 - axis}", steps=steps)


def _tried_for(candidate: Candidate) -> str | None:
    """The form of `TRIED` of which fitting leaves about as much as of a candidate; None for one that is not fitted."""
    if not candidate.steps:
        return None
    verb, arguments = candidate.steps[0]
    # Tables along another axis, and of what was pruned before, are made without data.
    if verb == "palettize" and "channel_axis" not in arguments:
        return f"palettized {min(max(arguments['nbits'], 2), 4)} bits"
    if verb == "prune" and (len(candidate.steps) == 1 or candidate.steps[1][0] == "quantize"):
        return "sparse 50%"
    return "quantized int4" if verb == "quantize" else None


def _trials(weight: Weight) -> dict[str, tuple[Action, Action]]:
    """The actions of each form of `TRIED` on a weight, without data and fitted, as far as its target holds it."""
    found = {}
    for form, (verb, arguments) in TRIED.items():
        method = METHODS[verb]
        config = read(arguments, method.kinds[0], verb)
        with contextlib.suppress(Skip), skipping():
            require(config.features(), by_opset(weight.node.function.opset))
            fitted = method.fitted[FITTED[verb]]
            found[form] = method.action.on(weight, config, True), fitted.on(weight, config, True)
    return found


def _shown(program: Runnable) -> Runnable:
    """Which boxes a suppression keeps hangs by a hair: what goes into it can be compared, and has a derivative."""
    detects = isinstance(program, Pipeline) and program.detections is not None
    return program.showing(-1, alone=True) if detects and isinstance(program, Pipeline) else program


def _by_name(weights: Sequence[Weight]) -> list[list[Weight]]:
    """Weights that have one name, or share their data, together: a recipe can't tell them apart, or should not."""
    groups: list[list[Weight]] = []
    by: dict[Any, list[Weight]] = {}
    for weight in weights:
        known = [by[key] for key in (weight.name, weight.key) if key in by]
        group = known[0] if known else []
        if not known:
            groups.append(group)
        group.append(weight)
        for other in known[1:]:
            if other is not group:
                group += other
                groups.remove(other)
        for member in group:
            by[member.name] = by[member.key] = group
    return groups
