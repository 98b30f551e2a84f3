"""Compression by samples, where on samples held back it is better than the plain method."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from corepress.coreml.calibrated.judging import WORSE, WORSE_AS_A_WHOLE, Samples, Split, is_better, split_of
from corepress.coreml.rewrite import Outcome, rewrite
from corepress.engine import Progress
from corepress.formats.mlprogram import Model, Weight
from corepress.split import HELD_BACK

log = logging.getLogger(__name__)

Choose = Callable[[Weight], Any]


def compressed(
    model: Model,
    choose: Choose,
    conclude: Callable[[Model, Outcome], None],
    sample_data: Samples,
    *,
    method: str,
    activation_aware_scale: bool = False,
    held_back: float | Samples = HELD_BACK,
    function: str | None = None,
    device: str = "cpu",
    workers: int | None = None,
    progress: Progress | None = None,
) -> Model:
    """What a method makes of a model that is ready to be compressed, or the plain one where it is better.

    `choose`: the plain action on a weight; `conclude` is called with the result and what was done. `method`: "skm", or
    one that fits weights to the outputs of their layers, which `choose` tells. The others are those of
    `palettize_weights`.

    First only the samples to learn from are fitted to, and those to judge by decide, layer by layer and for the model
    as a whole; then all of them are fitted to.
    """
    split = split_of(model, sample_data, held_back, function)
    tell = _over_attempts(progress, 2 if split.judged else 1)
    start = model
    if activation_aware_scale:
        from corepress.coreml.calibrated.activation_scaling import scale_activations

        start = scale_activations(model, choose, split.learnt, function, device)

    def attempt(split: Split, unfitted: Mapping[tuple[str, str], str], quiet: bool) -> tuple[Model, Outcome]:
        reasons = dict(unfitted)
        if method == "skm":
            from corepress.coreml.calibrated.sensitivity import weighted

            chosen = weighted(start, choose, split, reasons, function, device)
        else:
            from corepress.coreml.calibrated.calibration import fitted

            chosen = fitted(start, choose, split, reasons, function, device, tell)
        result, outcome = _run(start, chosen, workers, quiet, tell if method == "skm" else None)
        result.unfitted = reasons
        return result, outcome

    result, outcome = attempt(split, {}, bool(split.judged))
    if split.judged:
        plain, plain_outcome = _run(model, choose, workers)
        done = {(weight.function, weight.output) for weight in outcome.done}
        worse = {weight: reason for weight, reason in result.unfitted.items() if reason == WORSE}
        if done <= set(result.unfitted):
            plain.unfitted, result, outcome = result.unfitted, plain, plain_outcome
        elif is_better(model, result, plain, split.judged, function, device):
            result, outcome = attempt(Split(split.samples, []), worse, True)
        else:
            plain.unfitted, worse = dict.fromkeys(done, WORSE_AS_A_WHOLE), {}
            result, outcome = plain, plain_outcome
        if worse:
            log.warning(
                "%d of %d weights are compressed without the samples: what was fitted to them was worse on those held "
                "back", len(worse), len(outcome.done),
            )  # fmt: skip
    result.unfitted = {weight: reason for weight, reason in result.unfitted.items() if weight not in result.skipped}
    conclude(result, outcome)
    return result


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
