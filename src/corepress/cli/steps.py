"""What the commands share: load, compress, save, verify, report; and how they read their options."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corepress.errors import ConfigError

if TYPE_CHECKING:
    from corepress.coreml import OptimizationConfig
    from corepress.mlprogram import Model


def run_step(
    title: str,
    source: Path,
    output: Path,
    overwrite: bool,
    as_json: bool,
    step: Callable[[Model, Any], Model],
    verify: bool = False,
    data: Path | None = None,
) -> None:
    """Load, apply a step under a progress bar, save, compare what was saved when asked to, report."""
    from corepress.cli import show
    from corepress.mlprogram import load
    from corepress.mlprogram.package import check_output
    from corepress.reports import report

    check_output(output, source, overwrite=overwrite)
    if verify or data is not None:
        # Missing PyTorch is said before the work, not after it.
        from corepress import runtime  # noqa: F401
    with show.progress(title) as progress:
        original = load(source)
        model = step(original, progress)
        result = report(model)
        saved = model.save(output, overwrite=overwrite)
    checked = None
    if verify or data is not None:
        from corepress.verification import verify as compare

        checked = compare(original, saved, data)
    show.summary(result, output, as_json, checked)


def samples_of(model: Model, data: Path | None, option: str) -> Iterator[Mapping[str, Any]]:
    """The inputs that an option of a command learns from."""
    if data is None:
        raise ConfigError(f"{option} needs --data: inputs that are like those of the app")
    from corepress.runtime.features import default_function, interface_of
    from corepress.runtime.samples import read_samples

    return read_samples(data, interface_of(model.spec.description, default_function(model.spec.description)))


def compressed(
    model: Model,
    function: str,
    config: OptimizationConfig,
    joint: bool,
    method: Enum | None,
    data: Path | None,
    **options: Any,
) -> Model:
    """What a function of `corepress.coreml` makes of a model; with a method, the one of `calibrated` of that name."""
    from corepress import coreml

    if method is None:
        plain: Model = getattr(coreml, function)(model, config, joint, **options)
        return plain
    samples = samples_of(model, data, f"--method {method.value}")
    from corepress.coreml import calibrated

    if function == "palettize_weights":
        options["method"] = method.value
    fitted: Model = getattr(calibrated, function)(model, config, samples, joint, **options)
    return fitted


def quantize_activations(model: Model, data: Path | None, mode: str, observer: str) -> Model:
    """The model with quantized activations."""
    samples = samples_of(model, data, "--activations")
    from corepress.coreml import OptimizationConfig
    from corepress.coreml.experimental import OpActivationLinearQuantizerConfig, linear_quantize_activations

    config = OptimizationConfig(OpActivationLinearQuantizerConfig(mode=mode))
    calibrated: Model = linear_quantize_activations(model, config, samples, observer=observer)
    return calibrated


def config_of(path: Path | None, from_flags: Callable[[], Any]) -> OptimizationConfig:
    from corepress.coreml import OptimizationConfig

    return OptimizationConfig(global_config=from_flags()) if path is None else OptimizationConfig.from_yaml(path)


def ratio_of(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    try:
        n, m = (int(part) for part in text.split(":"))
    except ValueError as error:
        raise ConfigError(f"--n-m: {text!r} is not of the form N:M, such as 2:4") from error
    return n, m
