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
from typing import Any

from torch import Tensor

from corepress.algorithms.fitted.statistics import Shrinkage, Statistics
from corepress.coreml.calibrated.constants import plain_constants
from corepress.coreml.calibrated.fit import Decided, Given, Place
from corepress.coreml.calibrated.judging import Split
from corepress.coreml.calibrated.reached import Key, Known, Reached, Waiting, Wanted
from corepress.coreml.calibrated.sensitivity import of_vectors
from corepress.coreml.calibrated.shrinking import best_form, fitted_as
from corepress.engine import Progress, Skip
from corepress.errors import CorepressError
from corepress.formats.mlprogram import Model, Weight
from corepress.runtime import load
from corepress.runtime.program import Program
from corepress.runtime.runnable import Runnable
from corepress.runtime.stages.pipeline import Pipeline
from corepress.runtime.walk import each_program
from corepress.sequences import Sample, each_step
from corepress.weights import decompress

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
            counting = _counting(model, program, stage, waiting[name], given, split)
            reached = Reached(stage, waiting[name], given, originals, learnt, constants, counting)
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
        counting = of_vectors(program, set(waiting), samples) if waiting else {}
        reached.append(Reached(program, waiting, samples, samples, len(list(each_step(part.learnt))), {}, counting))
    keys = {wanted.key for one in reached for wanted in one.weights.values()}
    fit = _Fit(decided, _counter(progress, len(keys)))
    fit.together(reached)
    return fit.forms


def _counting(
    model: Model, program: Runnable, stage: Program, waiting: Waiting, given: Sequence[Sample], split: Split
) -> Mapping[str, Sequence[Tensor]]:
    """How much the vectors of a stage of a program count."""
    # Later stages of a pipeline, and models of which something was compressed before, are others each time.
    if split.counted is None or program is not stage or model.changed:
        return of_vectors(stage, set(waiting), given)
    if stage.function not in split.counted:
        split.counted[stage.function] = of_vectors(stage, set(stage.constants.values()), given)
    return split.counted[stage.function]


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


class _Fit:
    """Compresses weights when programs reach them. `forms`: by their keys; `tell`: is called with each name."""

    def __init__(self, decided: Decided, tell: Callable[[str], None]):
        self.forms: dict[Key, Given] = {}
        self.decided, self.tell = decided, tell

    def together(self, programs: Sequence[Reached]) -> None:
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

    def _fit(self, meeting: Sequence[Reached], known: Known | None) -> None:
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


def _read_often(programs: Sequence[Reached]) -> dict[Key, Known]:
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


def _known(meeting: Sequence[Reached]) -> Known | None:
    """What the samples say of the weight that programs are at."""
    layout = meeting[0].layout()
    if layout is None:
        return None
    known = Statistics(layout), Statistics(layout)
    for one in meeting:
        one.add_here(known)
    return known
