"""What the commands share: load, compress, save, verify, report; and how they read their options."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from corepress.cli.check import Check, Sample
from corepress.errors import ConfigError

if TYPE_CHECKING:
    from corepress.coreml import OptimizationConfig
    from corepress.formats.mlprogram import Model
    from corepress.formats.neural_network import Model as Networks

Samples = list[Sample]


def run_step(
    title: str,
    source: Path | Networks,
    output: Path,
    overwrite: bool,
    as_json: bool,
    step: Callable[[Any, Any, Samples], Any],
    check: Check | None = None,
    fits: str = "",
) -> None:
    """Load, apply a step under a progress bar, save, compare what was saved when asked to, report.

    `source`: a path, or neural networks that are loaded already. `step`: makes the new model of the old one, a progress
    callback and the samples to learn from. `fits`: the option by which it learns from samples, if it does. Raises
    Missed where the result is worse than `check` asks for.
    """
    from corepress.cli import show
    from corepress.formats.mlprogram import load
    from corepress.formats.package import check_output
    from corepress.reports import report

    check = check or Check()
    place = source if isinstance(source, Path) else source.path
    assert place is not None
    check_output(output, place, overwrite=overwrite)
    if check.wanted or fits:
        # Missing PyTorch is said before the work, not after it.
        from corepress import runtime  # noqa: F401
    # What a command has read already, to see what it holds, is not read again.
    read = click.get_current_context().obj
    original = read or load(source) if isinstance(source, Path) else source
    inputs = check.inputs(original, fits)
    with show.progress(title) as progress:
        model = step(original, progress, inputs.learnt)
        result = report(model)
        saved = model.save(output, overwrite=overwrite)
    judgement = check.judge(inputs, original, saved) if check.wanted else None
    show.summary(result, output, as_json, judgement)
    if judgement is not None:
        check.enforce(judgement, output)


def option_of(method: Enum | None) -> str:
    """The option that fits weights to samples, as it was given; empty without one."""
    return "" if method is None else f"--method {method.value}"


def compressed(
    model: Model,
    function: str,
    config: OptimizationConfig,
    joint: bool,
    method: Enum | None,
    samples: Samples,
    **options: Any,
) -> Model:
    """What a function of `corepress.coreml` makes of a model; with a method, the one of `calibrated` of that name."""
    from corepress import coreml

    if joint and not any(weight.compression for weight in model.weights()):
        raise ConfigError("--joint has no effect here: no weight of the model is compressed")
    if method is None:
        plain: Model = getattr(coreml, function)(model, config, joint, **options)
        return plain
    from corepress.coreml import calibrated

    if function == "palettize_weights":
        options["method"] = method.value
    fitted: Model = getattr(calibrated, function)(model, config, samples, joint, **options)
    return fitted


def quantize_activations(
    model: Model, samples: Samples, config: OptimizationConfig, observer: str, **options: Any
) -> Model:
    """The model with quantized activations, by the configuration of its weights."""
    from corepress.coreml.activations.quantize import as_for_weights
    from corepress.coreml.experimental import linear_quantize_activations

    config = as_for_weights(config, model)
    calibrated: Model = linear_quantize_activations(model, config, samples, observer=observer, **options)
    return calibrated


def config_of(path: Path | None, from_flags: Callable[[], Any]) -> OptimizationConfig:
    """The configuration in a file, by whose name its faults are told, or the one that the flags ask for."""
    from corepress.coreml import OptimizationConfig
    from corepress.fields import read_yaml

    if path is None:
        return OptimizationConfig(global_config=from_flags())
    content = read_yaml(path)
    try:
        return OptimizationConfig.from_dict(content)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def ratio_of(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    try:
        n, m = (int(part) for part in text.split(":"))
    except ValueError as error:
        raise ConfigError(f"--n-m: {text!r} is not of the form N:M, such as 2:4") from error
    if not 0 < n <= m:
        raise ConfigError(f"--n-m {text}: of every M values N become zero, with N from 1 to M, such as 2:4")
    return n, m
