"""Applies the steps of a recipe to a model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from corepress.configuration import Rule
from corepress.coreml import decompress_weights
from corepress.coreml.action import Evidence
from corepress.coreml.config import OptimizationConfig
from corepress.coreml.interop import takes_any_model
from corepress.coreml.method import Plan, together
from corepress.coreml.methods import METHODS
from corepress.errors import ConfigError
from corepress.neural_network.config import NetworkConfig
from corepress.neural_network.interop import takes_any_model as takes_any_network
from corepress.recipe.steps import LEVELS, Recipe, Step
from corepress.sequences import Sample
from corepress.split import HELD_BACK

# Of one function, or by the names of several.
Samples = Iterable[Sample] | Mapping[str, Iterable[Sample]]


def run(
    model: Any,
    recipe: Recipe,
    *,
    target: Any = None,
    workers: int | None = None,
    progress: Any = None,
    strict: bool = False,
    spare_constants: bool | None = None,
    sample_data: Samples | None = None,
    held_back: float = HELD_BACK,
    function: str | None = None,
    device: str = "cpu",
) -> Any:
    """Apply the steps of a recipe to a model.

    Args:
        model: A path, a `corepress.Model` or an `MLModel`, of ML programs; for a recipe for neural networks what
            `corepress.neural_network` takes.
        recipe: What `load` or `parse` gave.
        target: Goes before the recipe's own.
        workers: Threads; by default one for each core.
        progress: Called after each weight with the number done, of all, and a name.
        strict: Make an error of a rule that changes nothing, where a warning would do.
        spare_constants: As in `corepress.coreml.palettize_weights`.
        sample_data: Inputs for the steps with a method that learns from them, as in `corepress.coreml.calibrated`, and
            for those on activations.
        held_back: The part of them on which it is tried whether fitting helps, as there.
        function: Of a model with several functions, the one that the samples are for; a step that names one goes first.
        device: Where PyTorch computes what is learnt, such as "cpu" or "cuda".

    Returns:
        The result, of the same kind as the model (for a path: a `Model`).

    Raises:
        ConfigError: For a step that the model or its target can't take.

    Examples:
        >>> from corepress import recipe
        >>> steps = recipe.parse({"steps": [{"prune": {"target_sparsity": 0.5}}, {"palettize": {"nbits": 4}}]})
        >>> small = recipe.run("model.mlpackage", steps)
        >>> small.size() < cto.load("small.mlpackage").size()
        True
    """
    if recipe.networks:
        return _run_networks(model, recipe, workers, progress, strict, spare_constants)
    # Several steps may need them. (What was split before, a `coreml.calibrated.judging.Split`, passes through.)
    samples = list(sample_data) if isinstance(sample_data, Iterator) else sample_data
    learning: dict[str, Any] = {"samples": samples, "held_back": held_back, "function": function, "device": device}
    return _run(model, recipe, target or recipe.target, workers, progress, strict, spare_constants, **learning)


@takes_any_model
def _run(
    model: Any,
    recipe: Recipe,
    target: Any,
    workers: int | None,
    progress: Any,
    strict: bool,
    spare_constants: bool | None,
    samples: Samples | None,
    held_back: float,
    function: str | None,
    device: str,
) -> Any:
    original = model  # of what is refined, after a rotation

    def apply(model: Any, steps: Sequence[tuple[int, Step]]) -> Any:
        """Steps with their numbers. Before one that equalizes channels those before it are a part of it."""
        first = max((place for place, (_, step) in enumerate(steps) if _equalizes(step)), default=0)
        if first:
            return apply(once(model, *steps[first], steps[:first]), steps[first + 1 :])
        for passed in _in_one_pass(steps):
            model = fitted(model, passed) if passed[0][1].method else once(model, *passed[0])
        return model

    def once(model: Any, number: int, step: Step, before: Sequence[tuple[int, Step]] = ()) -> Any:
        nonlocal original
        if step.kind == "decompress":
            return decompress_weights(model, workers=workers, progress=progress)
        if step.kind == "rotate":
            from corepress.coreml.rotating import rotate

            original = rotate(model, seed=step.seed)
            return original
        given = settings(number, step)
        if step.refining is not None:
            from corepress.refining.refine import refine

            keywords = {**step.refining.keywords(), **given}
            return refine(original, model, samples or [], **keywords, held_back=held_back, progress=progress).model
        if step.activations is not None:
            from corepress.coreml.activations.quantize import quantized

            assert isinstance(step.config, OptimizationConfig)
            return quantized(
                model, step.config, _of_one(samples), **{**step.activations.keywords(), **given}, target=target,
                workers=workers, progress=progress, strict=strict, words=_words(number, step),
                compress=lambda model: apply(model, before),
            )[0]  # fmt: skip
        return planned(model, number, step).run(workers, progress)

    def fitted(model: Any, steps: Sequence[tuple[int, Step]]) -> Any:
        """Steps that learn from samples, on different weights, in one pass."""
        from corepress.coreml.calibrated.best import compressed

        given = settings(*steps[0])
        plans: list[Plan] = []
        for number, step in steps:
            plans.append(planned(plans[-1].model if plans else model, number, step))
        given |= {"workers": workers, "progress": progress, "augment": steps[0][1].augment}
        return compressed(together(plans), samples or [], held_back, **given)

    def settings(number: int, step: Step) -> dict[str, Any]:
        """Where a step learns."""
        if step.learns_by and samples is None:
            learning = f"its method, {step.method}," if step.method else "it"
            raise ConfigError(f"{_where(number, step)}: {learning} learns from samples: sample_data is needed")
        return {"function": step.function or function, "device": device}

    def planned(model: Any, number: int, step: Step) -> Plan:
        assert isinstance(step.config, OptimizationConfig)
        return METHODS[step.kind].plan(
            model,
            step.config,
            step.joint,
            fitted=step.method,
            target=target,
            strict=strict,
            spare_constants=spare_constants,
            words=_words(number, step),
            where=_where(number, step),
        )

    return apply(model, list(enumerate(recipe.steps, 1)))


def _in_one_pass(steps: Sequence[tuple[int, Step]]) -> list[list[tuple[int, Step]]]:
    """Steps with their numbers, in runs: those that learn from the same samples in the same way, on different weights,
    are fitted together. So each makes up for the errors of all before it, and the model runs once for all of them."""
    runs: list[list[tuple[int, Step]]] = []
    for number, step in steps:
        before = runs[-1][0][1] if runs else None
        if before is not None and _one_pass_with(before, step):
            runs[-1].append((number, step))
        else:
            runs.append([(number, step)])
    return runs


def _one_pass_with(before: Step, step: Step) -> bool:
    configs = [config for one in (before, step) if one.config is not None for config in one.config.configs()]
    return (
        not step.joint
        and all(one.method and METHODS[one.kind].evidence(one.method) is Evidence.INPUTS for one in (before, step))
        and (before.function, before.augment) == (step.function, step.augment)
        and not any(getattr(config, "outlier_fraction", 0) for config in configs)
    )


def _where(number: int, step: Step) -> str:
    return f"step {number} ({step.kind})"


def _words(number: int, step: Step) -> dict[str, str]:
    return {level: f"{_where(number, step)}, {word}:" for level, word in LEVELS.items()}


def _of_one(samples: Samples | None) -> Iterable[Sample]:
    """Samples for a step that runs one function."""
    if isinstance(samples, Mapping):
        raise ConfigError("the step activations learns from samples of one function, not of several")
    return samples or []


def _equalizes(step: Step) -> bool:
    return step.activations is not None and bool(step.activations.keywords()["equalize"])


@takes_any_network
def _run_networks(
    model: Any, recipe: Recipe, workers: int | None, progress: Any, strict: bool, spare_constants: bool | None
) -> Any:
    from corepress.neural_network.quantization_utils import compress_weights, quantize_weights

    for number, step in enumerate(recipe.steps, 1):
        if step.config is None:
            model = quantize_weights(model, 8, "dequantization", workers=workers, progress=progress)
            continue
        assert isinstance(step.config, NetworkConfig)
        where = f"step {number} ({step.kind})"

        def words(rule: Rule, where: str = where) -> tuple[str, str]:
            return f"{where}, {LEVELS[rule.level]}:", str(rule.key)

        model = compress_weights(
            model, step.config, spare_constants=spare_constants, strict=strict, workers=workers, progress=progress,
            words=words,
        )  # fmt: skip
    return model
