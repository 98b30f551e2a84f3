"""One pass through a model with all samples: each weight is compressed when its operation is reached.

So its inputs are what the weights before it, compressed already, make of the samples. The original program runs beside,
and each layer is fitted to the outputs that it has there (`statistics`). Inputs count as much as the model's outputs
depend on what their layer makes of them (`sensitivity.of_vectors`): those of padding, which is masked later, don't.
Of a pipeline the stages are fitted one after the other, each to its own outputs. Of several functions, each with
samples of its own, all are taken along together, so that they meet at the weights that they share: these are fitted to
the inputs that they have in all of them.

A weight is fitted to the samples to learn from. Where there are some to judge by, these choose how far it follows the
others, and it takes that form only if its layer's outputs are nearer on them than with the form that the plain method
gives (`shrinking.py`). What a form shifts on the whole, a bias of its operation takes back: one that is no other's.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import repeat
from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray
from torch import Tensor

from corepress.algorithms.fitted.layout import Layout
from corepress.algorithms.fitted.statistics import Shrinkage, Statistics
from corepress.coreml.calibrated.constants import plain_constants
from corepress.coreml.calibrated.fit import Decided, Given, Place
from corepress.coreml.calibrated.judging import Split
from corepress.coreml.calibrated.layers import counted_vectors, layout_of, vectors_of
from corepress.coreml.calibrated.sensitivity import of_vectors
from corepress.coreml.calibrated.shrinking import best_form, fitted_as
from corepress.engine import Progress, Skip
from corepress.errors import CorepressError
from corepress.formats.mlprogram import Model, Weight
from corepress.runtime import load
from corepress.runtime.plan import Step
from corepress.runtime.program import Program
from corepress.runtime.stages.pipeline import Pipeline
from corepress.runtime.walk import each_program, walk, walking
from corepress.sequences import Sample, each_step
from corepress.weights import decompress

# What an operation reads in each sample.
Arguments = Sequence[dict[str, Any]]
# What the samples to learn from say, and those to judge by.
Known = tuple[Statistics, Statistics]
Key = tuple[Any, int]


class Wanted(NamedTuple):
    """A weight that is to be compressed, and its action.

    `key`: equal for those that share their values and have equal actions, which are compressed as one.
    """

    weight: Weight
    action: Any
    key: Key


# By the name under which a program keeps their values.
Waiting = dict[str, Wanted]

log = logging.getLogger(__name__)

UNREACHED = "no sample reaches it"
# Fits to fewer vectors than so many times their columns are named; those to more may have an intercept. Texts of other
# kinds have other means: with intercepts fitted to 256 sentences, MiniLM at 2 bits has a cosine 0.004 higher on like
# sentences, and 0.13 lower on technical prose.
FEW_VECTORS = 3
MANY_VECTORS = 10


def fitted(
    model: Model,
    choose: Callable[[Weight], Any],
    split: Split,
    decided: Decided,
    function: str | None,
    device: str,
    progress: Progress | None,
) -> Callable[[Weight], Any]:
    """The function that gives, instead of the plain action that `choose` gives, the form that was fitted to samples.

    `decided`: what is known about weights before; it takes what is found.
    """
    forms = _forms(model, choose, split, decided, function, device, progress)

    def chosen(weight: Weight) -> Any:
        action = choose(weight)
        given = forms.get((weight.function, weight.output))
        if reason := UNREACHED if given is None else given.unfitted:
            decided.unfitted[weight.function, weight.output] = reason
        return given or action

    return chosen


def _forms(
    model: Model,
    choose: Callable[[Weight], Any],
    split: Split,
    decided: Decided,
    function: str | None,
    device: str,
    progress: Progress | None,
) -> dict[Place, Given]:
    """The form of each weight that the samples reach."""
    chosen = _chosen(model, choose)
    through = _through_functions if split.of else _through
    forms = through(model, chosen, split, decided, function, device, progress)
    return {
        (name, output): forms[wanted.key]
        for name, weights in chosen.items()
        for output, wanted in weights.items()
        if wanted.key in forms
    }


def _through(
    model: Model,
    chosen: Mapping[str, Mapping[str, Wanted]],
    split: Split,
    decided: Decided,
    function: str | None,
    device: str,
    progress: Progress | None,
) -> dict[Key, Given]:
    """The forms by the samples of one function."""
    program = load(model, device, precision="float32", function=function)
    # Compressed stages of a pipeline give those behind them other inputs; the original has its own.
    beside = load(model, device, precision="float32") if isinstance(program, Pipeline) else program
    waiting = {name: _waiting(stage, chosen.get(name, {})) for name, stage, _ in each_program(program, [])}
    keys = {wanted.key for weights in waiting.values() for wanted in weights.values()}
    fit = _Fit(decided, _counter(progress, len(keys)))
    learnt = len(list(each_step(split.learnt)))
    for (name, stage, given), (_, _, originals) in zip(
        each_program(program, split.samples), each_program(beside, split.samples), strict=True
    ):
        if waiting[name]:
            constants = _constants(model, stage, name, waiting[name])
            reached = _Reached(stage, waiting[name], given, originals, learnt, constants)
            fit.together([reached])
            for buffer, value in reached.changes.items():
                stage.module.get_buffer(buffer).copy_(value)
    return fit.forms


def _through_functions(
    model: Model,
    chosen: Mapping[str, Mapping[str, Wanted]],
    split: Split,
    decided: Decided,
    _: str | None,
    device: str,
    progress: Progress | None,
) -> dict[Key, Given]:
    """The forms by the samples of several functions."""
    reached = []
    for name, part in split.of.items():
        program = load(model, device, precision="float32", function=name)
        assert isinstance(program, Program)  # pipelines have no functions to choose from
        waiting, samples = _waiting(program, chosen.get(name, {})), part.samples
        reached.append(_Reached(program, waiting, samples, samples, len(list(each_step(part.learnt))), {}))
    keys = {wanted.key for one in reached for wanted in one.weights.values()}
    fit = _Fit(decided, _counter(progress, len(keys)))
    fit.together(reached)
    return fit.forms


def _waiting(program: Program, chosen: Mapping[str, Wanted]) -> Waiting:
    return {program.constants[output]: found for output, found in chosen.items() if output in program.constants}


def _constants(model: Model, program: Program, function: str, weights: Waiting) -> dict[str, Weight]:
    """The constants that may change besides the weights, since one operation alone reads them."""
    readers = Counter(buffer for step in program.module.plan.steps for _, buffer in step.held)
    return {
        buffer: constant
        for buffer, constant in plain_constants(model, program, function).items()
        if readers[buffer] == 1 and buffer not in weights
    }


def _chosen(model: Model, choose: Callable[[Weight], Any]) -> dict[str, dict[str, Wanted]]:
    """The weights to compress, with their actions, by function and output name."""
    found: dict[str, dict[str, Wanted]] = {}
    actions: dict[Any, list[Any]] = {}  # those on the same values, which need not be hashable
    for weight in model.weights():
        try:
            action = choose(weight)
        except Skip:
            continue  # the compression itself will say so
        known = actions.setdefault(weight.key, [])
        if action not in known:
            known.append(action)
        key = weight.key, known.index(action)
        found.setdefault(weight.function, {})[weight.output] = Wanted(weight, action, key)
    return found


def _counter(progress: Progress | None, total: int) -> Callable[[str], None]:
    done = 0

    def tell(name: str) -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total, name)

    return tell


class _Reached:
    """A program on its way through its operations, which waits at each that reads a weight that is to be compressed.

    `learnt`: how many steps of `samples`, the first ones, are to learn from. `constants`: those that may change
    besides. `changes`: the new constants so far, and at the end all of them, by the name of their buffer.
    """

    def __init__(
        self,
        program: Program,
        weights: Waiting,
        samples: Sequence[Sample],
        originals: Sequence[Sample],
        learnt: int,
        constants: Mapping[str, Weight],
    ):
        self.constants = constants
        self.program, self.weights, self.samples, self.learnt = program, weights, samples, learnt
        self.counting = of_vectors(program, set(weights), samples) if weights else {}
        self.changes: dict[str, Tensor] = {}
        self._walk = walking(program, samples, originals=originals)
        self._open: list[tuple[str, str]] = []
        self._changed: dict[str, Tensor] = {}
        self._seen: set[str] = set()
        self._go(None)

    @property
    def at(self) -> Wanted | None:
        """The weight that is reached, with its action; None at the end."""
        return self.weights[self._open[0][1]] if self._open else None

    def awaits(self, key: Key) -> bool:
        """Whether it is at a weight, or will be."""
        return any(wanted.key == key for buffer, wanted in self.weights.items() if buffer not in self._seen)

    def layout(self) -> Layout | None:
        """How the weight that is reached is a matrix."""
        return layout_of(self._step.kind, self._open[0][0], self._arguments[0])

    def add_here(self, known: Known) -> None:
        """Count what the operation that is reached multiplies its weight by, in the samples."""
        if self.layout() == known[0].layout:
            self._add(known, self._step, self._open[0][0], self._arguments, self._originals)

    def add_everywhere(self, wanted: Mapping[str, Key], known: dict[Key, Known]) -> None:
        """Count the inputs of weights, given by buffer with their keys, in all operations that read them."""

        def visit(step: Step, arguments: Arguments) -> dict[str, Tensor]:
            for argument, buffer in step.held:
                layout = layout_of(step.kind, argument, arguments[0]) if buffer in wanted else None
                if layout is not None:
                    own = known.setdefault(wanted[buffer], (Statistics(layout), Statistics(layout)))
                    if own[0].layout == layout:
                        self._add(own, step, argument, arguments, None)
            return {}

        if wanted:
            walk(self.program, self.samples, visit)

    def _add(self, known: Known, step: Step, argument: str, arguments: Arguments, originals: Arguments | None) -> None:
        layout, counting = known[0].layout, self.counting.get(step.name)
        for number, own in enumerate(arguments):
            statistics = known[number >= self.learnt]
            others = repeat(None) if originals is None else vectors_of(step.kind, argument, originals[number], layout)
            counts = None if counting is None else counting[number]
            parts = counted_vectors(step.kind, argument, own, layout, counts)
            for (vectors, count), original in zip(parts, others, strict=False):
                statistics.add(vectors, original, count)

    @property
    def bias(self) -> Weight | None:
        """The bias that goes with the weight that is reached, if it may change."""
        buffer = dict(self._step.held).get("bias", "")
        return self.constants.get(buffer) if self._open[0][0] == "weight" else None

    def shift_bias(self, bias: Weight, shift: NDArray[Any]) -> Tensor:
        """Add to that bias, and go on with it: its new value, as the package will hold it."""
        before, buffer = self._arguments[0]["bias"], dict(self._step.held)["bias"]
        value = torch.from_numpy((before.cpu().numpy() + shift.reshape(before.shape)).astype(bias.dtype))
        self._changed["bias"] = self.changes[buffer] = value.to(before)
        for own in self._arguments:
            own["bias"] = self._changed["bias"]
        return value

    def put(self, value: NDArray[Any] | None) -> None:
        """Go on with another value of the weight that is reached; None leaves it as it is."""
        argument, buffer = self._open.pop(0)
        self._seen.add(buffer)
        if value is not None:
            before = self._arguments[0][argument]
            tensor = torch.from_numpy(value.copy()).to(before.device, before.dtype)
            self._changed[argument] = self.changes[buffer] = tensor
        if not self._open:
            self._go(self._changed)

    def _go(self, changed: dict[str, Tensor] | None) -> None:
        """To the next operation that reads a weight."""
        try:
            while not self._open:
                self._step, streams = next(self._walk) if changed is None else self._walk.send(changed)
                self._arguments, self._originals = streams
                self._changed = {}
                changed, held = self._changed, self._step.held
                self._open = [pair for pair in held if pair[1] in self.weights and pair[1] not in self._seen]
        except StopIteration:
            self._arguments = self._originals = []


class _Fit:
    """Compresses weights when programs reach them. `forms`: by their keys; `tell`: is called with each name."""

    def __init__(self, decided: Decided, tell: Callable[[str], None]):
        self.forms: dict[Key, Given] = {}
        self.decided, self.tell = decided, tell

    def together(self, programs: Sequence[_Reached]) -> None:
        """Take programs to their ends. They wait for each other at the weights that they share."""
        known = _read_often(programs)
        while running := [one for one in programs if one.at is not None]:
            # One that all come to. (Where they come to several in different orders, one does not wait.)
            keys = [one.at.key for one in running if one.at is not None]
            late = {key: sum(one.awaits(key) for one in running) - keys.count(key) for key in keys}
            key = min(keys, key=late.__getitem__)
            meeting = [one for one, own in zip(running, keys, strict=True) if own == key]
            if key not in self.forms:
                self._fit(meeting, known.get(key))
            value = decompress(self.forms[key].form) if key in self.forms else None
            for one in meeting:
                one.put(value)

    def _fit(self, meeting: Sequence[_Reached], known: Known | None) -> None:
        reached = meeting[0].at
        assert reached is not None
        weight, action, key = reached
        # The bias of one operation alone can make up for a weight that no other reads.
        bias = meeting[0].bias if known is None and len(meeting) == 1 else None
        try:
            given = self._given(weight, action, known or _known(meeting), bias is not None)
        except CorepressError:
            return  # the compression itself will find the same, and say so
        finally:
            self.tell(weight.name)
        self.forms[key] = given
        if bias is not None and given.shift is not None:
            self.decided.biases[bias.function, bias.output] = meeting[0].shift_bias(bias, given.shift)

    def _given(self, weight: Weight, action: Any, known: Known | None, folds: bool) -> Given:
        learnt, judged = known or (None, None)
        folds = folds and learnt is not None and learnt.vectors >= MANY_VECTORS * learnt.layout.columns
        place, decided = (weight.function, weight.output), self.decided
        if place in decided.ways or learnt is None or judged is None or not judged.hessian.count:
            how = decided.ways.get(place, Shrinkage(intercept=folds))
            given = fitted_as(weight, action, learnt, how, decided.unfitted.get(place, ""))
        else:
            given = best_form(weight, action, learnt, judged, folds)
        decided.ways[place] = given.how
        if learnt is not None and not given.unfitted and learnt.vectors < FEW_VECTORS * learnt.layout.columns:
            decided.few[place] = learnt.vectors, learnt.layout.columns
        return given


def _read_often(programs: Sequence[_Reached]) -> dict[Key, Known]:
    """What the samples say of the weights that several operations of a program read: all of them count."""
    often: set[Key] = set()
    for one in programs:
        readers = Counter(buffer for step in one.program.module.plan.steps for _, buffer in step.held)
        often |= {wanted.key for buffer, wanted in one.weights.items() if readers[buffer] > 1}
    known: dict[Key, Known] = {}
    for one in programs:
        wanted = {buffer: found.key for buffer, found in one.weights.items() if found.key in often}
        one.add_everywhere(wanted, known)
    return known


def _known(meeting: Sequence[_Reached]) -> Known | None:
    """What the samples say of the weight that programs are at."""
    layout = meeting[0].layout()
    if layout is None:
        return None
    known = Statistics(layout), Statistics(layout)
    for one in meeting:
        one.add_here(known)
    return known
