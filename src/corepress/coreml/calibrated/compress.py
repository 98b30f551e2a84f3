"""The public functions: the plain methods of `corepress.coreml` with forms that were fitted to samples."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from corepress.coreml import palettize, prune, quantize
from corepress.coreml.calibrated.judging import WORSE, WORSE_AS_A_WHOLE, Samples, Split, is_better, split_of
from corepress.coreml.config import OptimizationConfig
from corepress.coreml.engine import Outcome, Progress, run
from corepress.coreml.interop import takes_any_model
from corepress.errors import ConfigError
from corepress.mlprogram import Model, Weight
from corepress.split import HELD_BACK

log = logging.getLogger(__name__)

# Why weights, by function and output name, are compressed without the samples.
Unfitted = Mapping[tuple[str, str], str]
# Compresses a model by the samples to learn from, except the weights that are known to be better without; the last
# argument: whether to keep quiet of weights that are left alone.
Attempt = Callable[[Split, Unfitted, bool], tuple[Model, Outcome]]

UNREACHED = "no sample reaches it"


@takes_any_model
def palettize_weights(
    mlmodel: Model,
    config: OptimizationConfig,
    sample_data: Samples,
    joint_compression: bool = False,
    *,
    method: str = "lut-gptq",
    held_back: float | Samples = HELD_BACK,
    function: str | None = None,
    target: Any = None,
    device: str = "cpu",
    workers: int | None = None,
    progress: Progress | None = None,
    strict: bool = False,
    spare_constants: bool | None = None,
) -> Model:
    """`corepress.coreml.palettize_weights` with look-up tables and indices that were fitted to samples.

    `sample_data`: inputs, {input name: array}; a few hundred typical ones, a few dozen at least. `method`: "lut-gptq"
    keeps the outputs of each layer near those of the original model (`corepress.algorithms.lut_gptq`, `statistics`);
    "skm" weighs each element by how much the model's outputs depend on it (`corepress.coreml.calibrated.sensitivity`).
    `held_back`: the part of the samples, chosen by `corepress.hold_back`, on which it is tried whether what was fitted
    to the others is better than what `corepress.coreml.palettize_weights` gives: layer by layer, and for the model as a
    whole. Where it is not, the plain form is taken, with a warning; once that is settled, all samples are fitted to,
    which doubles the time. 0 holds none back; an iterable of other samples is judged by instead.
    `function`: of a model with several, the one that the samples are for. A pipeline takes samples for its first stage,
    and those behind it get what the stages before them make of these.
    Weights that no sample reaches, or of operations that are no products with a matrix, are palettized without data;
    `unfitted` of the result, and `corepress.report`, have each weight without part in the samples, and why.
    """
    model, choose = palettize.METHOD.plan(
        mlmodel, config, joint_compression, target=target, strict=strict, spare_constants=spare_constants
    )
    conclude = palettize.METHOD.concluding(mlmodel, strict)
    if method not in ("lut-gptq", "skm"):
        raise ConfigError(f'method must be "lut-gptq" or "skm", not {method!r}')
    split = split_of(model, sample_data, held_back, function)
    progress = _over_attempts(progress, split)
    making = _fitting if method == "lut-gptq" else _weighing
    attempt = making(model, choose, function, device, workers, progress)
    return _best(model, choose, split, attempt, function, device, workers, conclude)


@takes_any_model
def linear_quantize_weights(
    mlmodel: Model,
    config: OptimizationConfig,
    sample_data: Samples,
    joint_compression: bool = False,
    *,
    activation_aware_scale: bool = False,
    held_back: float | Samples = HELD_BACK,
    function: str | None = None,
    target: Any = None,
    device: str = "cpu",
    workers: int | None = None,
    progress: Progress | None = None,
    strict: bool = False,
    spare_constants: bool | None = None,
) -> Model:
    """`corepress.coreml.linear_quantize_weights` by GPTQ: rounding errors make up for each other in the layers' outputs
    on the samples.

    `activation_aware_scale`: scale input channels first, as AWQ does (`corepress.algorithms.awq`), where a constant of
    the operations before can take up the inverse; the search rounds such weights eleven times. The other arguments and
    the exceptions are those of `palettize_weights`.
    """
    model, choose = quantize.METHOD.plan(
        mlmodel, config, joint_compression, target=target, strict=strict, spare_constants=spare_constants
    )
    conclude = quantize.METHOD.concluding(mlmodel, strict)
    split = split_of(model, sample_data, held_back, function)
    progress = _over_attempts(progress, split)
    scaled = model
    if activation_aware_scale:
        from corepress.coreml.calibrated.activation_scaling import scale_activations

        scaled = scale_activations(model, choose, split.learnt, function, device)
    attempt = _fitting(scaled, choose, function, device, workers, progress)
    return _best(model, choose, split, attempt, function, device, workers, conclude)


@takes_any_model
def prune_weights(
    mlmodel: Model,
    config: OptimizationConfig,
    sample_data: Samples,
    joint_compression: bool = False,
    *,
    held_back: float | Samples = HELD_BACK,
    function: str | None = None,
    target: Any = None,
    device: str = "cpu",
    workers: int | None = None,
    progress: Progress | None = None,
    strict: bool = False,
    spare_constants: bool | None = None,
) -> Model:
    """`corepress.coreml.prune_weights` by SparseGPT: what stays makes up for what goes.

    For `target_sparsity` and, along the input channels of linear layers, `n_m_ratio`. Arguments and exceptions are
    those of `palettize_weights`.
    """
    model, choose = prune.METHOD.plan(
        mlmodel, config, joint_compression, target=target, strict=strict, spare_constants=spare_constants
    )
    conclude = prune.METHOD.concluding(mlmodel, strict)
    split = split_of(model, sample_data, held_back, function)
    progress = _over_attempts(progress, split)
    attempt = _fitting(model, choose, function, device, workers, progress)
    return _best(model, choose, split, attempt, function, device, workers, conclude)


def _fitting(
    model: Model,
    choose: Callable[[Weight], Any],
    function: str | None,
    device: str,
    workers: int | None,
    progress: Progress | None,
) -> Attempt:
    """What fits weights to their layers' outputs."""

    def fitting(split: Split, unfitted: Unfitted, quiet: bool) -> tuple[Model, Outcome]:
        from corepress.coreml.calibrated.calibration import fit_weights

        forms = fit_weights(model, choose, split, unfitted, function, device, progress)
        reasons: dict[tuple[str, str], str] = {}

        def chosen(weight: Weight) -> Any:
            given = forms.get(weight.key)
            action = given or choose(weight)
            if reason := UNREACHED if given is None else given.unfitted:
                reasons[weight.function, weight.output] = reason
            return action

        result, outcome = _run(model, chosen, workers, quiet)
        result.unfitted = reasons
        return result, outcome

    return fitting


def _weighing(
    model: Model,
    choose: Callable[[Weight], Any],
    function: str | None,
    device: str,
    workers: int | None,
    progress: Progress | None,
) -> Attempt:
    """What weighs the elements of weights by how much the model's outputs depend on them."""

    def weighing(split: Split, unfitted: Unfitted, quiet: bool) -> tuple[Model, Outcome]:
        from corepress.coreml.calibrated.sensitivity import weighted

        reasons = dict(unfitted)
        chosen = weighted(model, choose, split, function, device, reasons)
        result, outcome = _run(model, chosen, workers, quiet, progress)
        result.unfitted = reasons
        return result, outcome

    return weighing


def _run(
    model: Model,
    choose: Callable[[Weight], Any],
    workers: int | None,
    quiet: bool = False,
    progress: Progress | None = None,
) -> tuple[Model, Outcome]:
    outcomes: list[Outcome] = []
    result = run(
        model,
        choose,
        workers=workers,
        progress=progress,
        conclude=lambda _, outcome: outcomes.append(outcome),
        quiet=quiet,
    )
    return result, outcomes[0]


def _over_attempts(progress: Progress | None, split: Split) -> Progress | None:
    """Progress that goes on counting in a second attempt, which there will be where samples are held back."""
    done = 0

    def tell(_: int, total: int, name: str) -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, 2 * total if split.judged else total, name)

    return None if progress is None else tell


def _best(
    original: Model,
    choose: Callable[[Weight], Any],
    split: Split,
    attempt: Attempt,
    function: str | None,
    device: str,
    workers: int | None,
    conclude: Callable[[Model, Outcome], None],
) -> Model:
    """What an attempt makes of all samples, if on those to judge by it is better without them than the plain method."""
    result, outcome = attempt(split, {}, bool(split.judged))
    if split.judged:
        plain, plain_outcome = _run(original, choose, workers)
        done = {(weight.function, weight.output) for weight in outcome.done}
        if done <= set(result.unfitted):
            plain.unfitted, outcome, result = result.unfitted, plain_outcome, plain
        elif not is_better(original, result, plain, split.judged, function, device):
            plain.unfitted = dict.fromkeys(done, WORSE_AS_A_WHOLE)
            outcome, result = plain_outcome, plain
        else:
            worse = {weight: reason for weight, reason in result.unfitted.items() if reason == WORSE}
            result, outcome = attempt(Split(split.samples, []), worse, True)
        worse_count = list(result.unfitted.values()).count(WORSE)
        if worse_count:
            log.warning(
                "%d of %d weights are compressed without the samples: what was fitted to them was worse on those held "
                "back", worse_count, len(outcome.done),
            )  # fmt: skip
    result.unfitted = {weight: reason for weight, reason in result.unfitted.items() if weight not in result.skipped}
    conclude(result, outcome)
    return result
