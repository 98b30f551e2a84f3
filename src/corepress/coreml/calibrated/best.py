"""Compression by samples, where on samples held back it is better than the plain method."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from corepress.augmenting.augment import augment as augmented
from corepress.coreml.action import Evidence
from corepress.coreml.calibrated.activation_scaling import scale_activations
from corepress.coreml.calibrated.calibration import fitted
from corepress.coreml.calibrated.constants import with_constants
from corepress.coreml.calibrated.fit import WORSE, Decided
from corepress.coreml.calibrated.judging import WORSE_AS_A_WHOLE, Samples, Split, is_better, split_of
from corepress.coreml.calibrated.sensitivity import weighted
from corepress.coreml.calibrated.sharing import shared_out
from corepress.coreml.method import Choose, Plan
from corepress.coreml.rewrite import Outcome, rewrite
from corepress.engine import Progress
from corepress.errors import ConfigError
from corepress.formats.mlprogram import Model
from corepress.sequences import Sample
from corepress.split import HELD_BACK

log = logging.getLogger(__name__)

# How many samples a message proposes to make.
MADE = 256

# For each kind of evidence what gathers it in samples, and gives the actions that make use of it.
_PASSES = {Evidence.INPUTS: fitted, Evidence.SENSITIVITY: weighted}


def compressed(
    plan: Plan,
    sample_data: Samples,
    held_back: float | Samples = HELD_BACK,
    function: str | None = None,
    device: str = "cpu",
    workers: int | None = None,
    progress: Progress | None = None,
    activation_aware_scale: bool = False,
    augment: int = 0,
) -> Model:
    """What a plan makes of its model with the forms that are fitted to samples, or without where that is better.

    The other arguments are those of `palettize_weights`.

    First only the samples to learn from are fitted to, and those to judge by decide, layer by layer and for the model
    as a whole; then all of them are fitted to. Samples that are made besides (`augment`) are never judged by.
    """
    model, choose = plan.model, plan.choose
    assert plan.evidence is not None
    gather = _PASSES[plan.evidence]
    # A pass through the layers compresses them on its way; else the run does.
    on_the_way = plan.evidence is Evidence.INPUTS
    split = split_of(model, sample_data, held_back, function)
    if split.judged and split.counted is None and not augment:
        split = replace(split, counted={})  # both passes have the same samples
    tell = _over_attempts(progress, 2 if split.judged else 1)
    choose = shared_out(model, choose, split, function, device)
    start = model
    if activation_aware_scale and split.of:
        raise ConfigError("activation_aware_scale needs samples of one function, and there are some for several")
    if activation_aware_scale:
        start = scale_activations(model, choose, split.learnt, function, device)

    def attempt(split: Split, decided: Decided, quiet: bool) -> tuple[Model, Outcome]:
        more = enlarged(split, model, augment, function)
        chosen = gather(start, choose, more, decided, function, device, tell if on_the_way else None)
        result, outcome = _run(start, chosen, workers, quiet, None if on_the_way else tell)
        if decided.biases:
            changed, result = result.changed, with_constants(result, decided.biases)
            result.changed = changed
        result.unfitted = decided.unfitted
        return result, outcome

    decided = Decided()
    result, outcome = attempt(split, decided, bool(split.judged))
    if split.judged:
        plain, plain_outcome = _run(model, choose, workers)
        done = {(weight.function, weight.output) for weight in outcome.done}
        worse = {weight: reason for weight, reason in result.unfitted.items() if reason == WORSE}
        if done <= set(result.unfitted):
            plain.unfitted, result, outcome = result.unfitted, plain, plain_outcome
        elif is_better(model, result, plain, split.judged_by(function), function, device):
            decided = Decided(worse, decided.ways)
            result, outcome = attempt(split.all_learnt(), decided, True)
        else:
            plain.unfitted, worse = dict.fromkeys(done, WORSE_AS_A_WHOLE), {}
            result, outcome = plain, plain_outcome
        if worse:
            log.warning(
                "%d of %d weights are compressed without the samples: what was fitted to them was worse on those held "
                "back", len(worse), len(outcome.done),
            )  # fmt: skip
    result.unfitted = {weight: reason for weight, reason in result.unfitted.items() if weight not in result.skipped}
    few = {weight: found for weight, found in decided.few.items() if weight not in result.unfitted}
    result.few = {weight: f"{seen} independent vectors for {size} columns" for weight, (seen, size) in few.items()}
    if few:
        least = min(few, key=lambda weight: few[weight][0] / few[weight][1])
        log.warning(
            "%d of %d weights are fitted to few samples (%s: %s), and may do worse on other inputs than on those like "
            "them: give more and more varied ones, or let some be made (augment=%d)",
            len(few), len(outcome.done), least[1], result.few[least], MADE,
        )  # fmt: skip
    plan.conclude(result, outcome)
    return result


def enlarged(split: Split, model: Model, count: int, function: str | None) -> Split:
    """With so many samples made of those to learn from, of each function if there are several."""
    if not count:
        return split
    if split.of:
        parts = {name: enlarged(part, model, count, name) for name, part in split.of.items()}
        return Split([sample for part in parts.values() for sample in part.learnt], split.judged, parts)
    made: Sequence[Sample] = augmented(split.learnt, model, count, function=function)
    return Split([*split.learnt, *made], split.judged)


def _run(
    model: Model, choose: Choose, workers: int | None, quiet: bool = False, progress: Progress | None = None
) -> tuple[Model, Outcome]:
    outcomes: list[Outcome] = []

    def keep(_: Model, outcome: Outcome) -> None:
        outcomes.append(outcome)

    result = rewrite(model, choose, workers=workers, progress=progress, conclude=keep, quiet=quiet)
    return result, outcomes[0]


def _over_attempts(progress: Progress | None, attempts: int) -> Progress | None:
    """Progress that goes on counting in a second attempt."""
    done = 0

    def tell(_: int, total: int, name: str) -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, attempts * total, name)

    return None if progress is None else tell
