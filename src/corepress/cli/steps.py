"""What the commands that compress share: read a model, compress it, save it, compare it with the original, report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corepress.cli.check import Check
from corepress.cli.options import Choice, Destination, Limits, Running
from corepress.cli.reporting import Page
from corepress.errors import ConfigError
from corepress.sequences import Sample

if TYPE_CHECKING:
    from corepress.coreml import OptimizationConfig
    from corepress.coreml.activations.exceptions import Found
    from corepress.formats.mlprogram import Model
    from corepress.formats.neural_network import Model as Networks
    from corepress.neural_network.config import NetworkConfig
    from corepress.refining.options import Refining
    from corepress.reports import Report

    Config = OptimizationConfig | NetworkConfig

# Weights that a message names, the largest ones.
_NAMED = 3
# Below so many bits for each weight, scales and tables included, data-free compression destroys many networks.
_FEW_BITS = 5

# Samples of one function, or of several by their names.
Samples = list[Sample] | dict[str, list[Sample]]
# Makes the new model of the old one, a progress callback and the samples to learn from.
Step = Callable[[Any, Any, Samples], Any]


def holds_networks(model: Any) -> bool:
    """Whether a model that was read holds neural networks, the kind of iOS 15 and older, and no program."""
    from corepress.formats.mlprogram import Model

    return not isinstance(model, Model)


def check_asks(model: Any, configs: Sequence[Config | None], file: Path | None, activations: bool = False) -> None:
    """Raise ConfigError where a file of settings asks for nothing in a model, as one that was made for another does.

    `configs`: of each step of it; None is a step that needs none. `file`: None where the settings are options.
    `activations`: whether they are for activations, too.
    """
    if file is None or not configs or any(config is None or config.global_config is not None for config in configs):
        return
    asks: Callable[[Any, Any], bool]
    if holds_networks(model):
        from corepress.neural_network.config import asks
    else:
        from corepress.coreml.choose import asks, asks_of_operations
    weights = model.weights()
    if not weights or any(asks(config, weights) for config in configs):
        return
    if activations and any(asks_of_operations(config, model) for config in configs):  # type: ignore[arg-type]
        return
    from corepress.fields import some

    rules = [rule for config in configs if config is not None for rule in config.rules() if config.held(rule)]
    keys = list(dict.fromkeys(str(rule.key) for rule in rules))
    asked = f"it asks for {some(keys)}" if keys else "it leaves everything alone"
    largest = sorted(weights, key=lambda weight: -weight.stored_bytes)[:_NAMED]
    names = some(list(dict.fromkeys(weight.name for weight in largest)))
    raise ConfigError(
        f"{file} compresses nothing in {model.path.name}: {asked}, where the model has weights such as {names}. "
        "It may be for another model; corepress info lists the weights"
    )


def run_step(
    title: str,
    original: Model | Networks,
    to: Destination,
    running: Running,
    step: Step,
    page: Page,
    check: Check | None = None,
    fits: str = "",
    recipe: str | Callable[[], str] = "",
    told: Sequence[Found] = (),
    function: str | None = None,
    refine: Refining | None = None,
) -> None:
    """Apply a step under a progress bar, save, compare what was saved if asked to, report.

    `page`: the page that is written about it, if any. `fits`: the option by which the step learns from samples, if it
    does. `recipe`: what does the same, for the page, maybe known only at the end. `told`: takes which operations the
    step left in floating point. `function`: of a package with several, the one that samples are for. `refine`: how
    what the step made learns at last, if it does.
    Raises Missed where the result is worse than `check` asks for.
    """
    from corepress.cli import before, refining, show
    from corepress.formats.mlprogram import Model
    from corepress.formats.package import check_output
    from corepress.linting.stored import of_changed
    from corepress.reports import report

    check = check or Check()
    fits = fits or ("" if refine is None else "--refine")
    assert original.path is not None
    check_output(to.output, original.path, overwrite=to.overwrite)
    page.check([original.path], overwrite=to.overwrite)
    if check.wanted or fits:
        # Missing PyTorch is said before the work, not after it.
        from corepress import runtime  # noqa: F401
    inputs = check.inputs(original, fits, function)
    refined, stop = None, None
    with show.progress(title) as progress:
        model = step(original, progress, inputs.learnt)
        if refine is not None:
            refined, stop = refining.at_last(refine, original, model, inputs.learnt, progress)
            model = refined.model
        result = report(model)
        saved = model.save(to.output, overwrite=to.overwrite)
    hazards = of_changed(model)
    judged = check.wanted and stop is None
    watch = page.watch(original, function) if judged else None
    judgement = check.judge(inputs, original, saved, watch) if judged else None
    page.write(
        title, result, overwrite=to.overwrite, names=(original.path.name, to.output.name), models=(original, saved),
        verification=judgement.verification if judgement else None, basis=judgement.basis if judgement else "",
        answers=watch, recipe=recipe() if callable(recipe) else recipe,
    )  # fmt: skip
    hint = "" if judgement or fits else _unseen(title, original, result)
    if isinstance(original, Model) and (lost := before.lost(original, result)):
        hint = f"{lost}. Else {hint}" if hint else lost
    found = told[0] if told else None
    show.summary(result, to.output, running.as_json, judgement, hazards, page.facts(), found, refined, hint)
    refining.give_up(stop, refined, to.output)
    if judgement is not None:
        check.enforce(judgement, to.output)


def _unseen(command: str, original: Model | Networks, result: Report) -> str:
    """What to do about a result that nobody compared, where so little is left of weights that answers often suffer."""
    if not any(row.bits_per_weight < _FEW_BITS or "sparse" in row.compression for row in result.compressed):
        return ""
    fit = "" if holds_networks(original) else f", and {_fitting(command)} fits the weights to such"
    return (
        "the answers were not compared, and without data 4 bits and fewer, or zeros, cost many networks much of them: "
        f"--data compares them on inputs like those of the app{fit}"
    )


def _fitting(command: str) -> str:
    from corepress.coreml.methods import METHODS

    return f"--method {METHODS[command].learning}" if command in METHODS else "a method in the recipe"


def of_networks(
    bits: int, mode: str, running: Running, choice: Choice | None = None, limits: Limits | None = None
) -> Step:
    """The step that compresses the weights of neural networks, or with the mode "dequantization" makes them dense."""
    from corepress.neural_network.quantization_utils import quantize_weights

    more: dict[str, Any] = {"workers": running.workers}
    if choice is not None:
        more["weight_threshold"] = choice.weight_threshold
    if limits is not None:
        more |= {"spare_constants": not limits.all_constants, "strict": limits.strict}
    return lambda source, progress, _: quantize_weights(source, bits, mode, progress=progress, **more)


def made_dense(running: Running) -> Step:
    """The step that makes the compressed weights of a package plain tensors."""
    from corepress.coreml import decompress_weights

    return lambda source, progress, _: decompress_weights(source, workers=running.workers, progress=progress)


def of_package(
    function: str,
    config: OptimizationConfig,
    joint: bool,
    limits: Limits,
    running: Running,
    method: str | None = None,
    augment: int | None = None,
    **more: Any,
) -> Step:
    """The step that is a function of `corepress.coreml`, or with a method the one of `calibrated`, with `more`."""

    def step(source: Model, progress: Any, samples: Samples) -> Any:
        from corepress import coreml

        if joint and not any(weight.compression for weight in source.weights()):
            raise ConfigError("--joint has no effect here: no weight of the model is compressed")
        options = {**limits.keywords(), "workers": running.workers, "progress": progress}
        if method is None:
            return getattr(coreml, function)(source, config, joint, **options)
        from corepress.coreml import calibrated

        options["augment"] = augment or 0
        return getattr(calibrated, function)(source, config, samples, joint, method=method, **options, **more)

    return step
