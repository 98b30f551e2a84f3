"""The public functions: the plain methods of `corepress.coreml` with forms that were fitted to samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from corepress.coreml import palettize, prune, quantize
from corepress.coreml.config import OptimizationConfig
from corepress.coreml.engine import Outcome, Progress, run
from corepress.coreml.interop import takes_any_model
from corepress.errors import ConfigError
from corepress.mlprogram import Model, Weight

Samples = Iterable[Mapping[Any, Any]]


@takes_any_model
def palettize_weights(
    mlmodel: Model,
    config: OptimizationConfig,
    sample_data: Samples,
    joint_compression: bool = False,
    *,
    method: str = "lut-gptq",
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
    `function`: of a model with several, the one that the samples are for.
    Weights that no sample reaches, or of operations that are no products with a matrix, are palettized without data.
    """
    model, choose = palettize.METHOD.plan(
        mlmodel, config, joint_compression, target=target, strict=strict, spare_constants=spare_constants
    )
    conclude = palettize.METHOD.concluding(mlmodel, strict)
    if method == "skm":
        from corepress.coreml.calibrated.sensitivity import weighted

        return run(
            model,
            weighted(model, choose, sample_data, function, device),
            workers=workers,
            progress=progress,
            conclude=conclude,
        )
    if method != "lut-gptq":
        raise ConfigError(f'method must be "lut-gptq" or "skm", not {method!r}')
    return _fitted(model, choose, sample_data, function, device, workers, progress, conclude)


@takes_any_model
def linear_quantize_weights(
    mlmodel: Model,
    config: OptimizationConfig,
    sample_data: Samples,
    joint_compression: bool = False,
    *,
    activation_aware_scale: bool = False,
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
    if activation_aware_scale:
        from corepress.coreml.calibrated.activation_scaling import scale_activations

        sample_data = list(sample_data)
        model = scale_activations(model, choose, sample_data, function, device)
    return _fitted(model, choose, sample_data, function, device, workers, progress, conclude)


@takes_any_model
def prune_weights(
    mlmodel: Model,
    config: OptimizationConfig,
    sample_data: Samples,
    joint_compression: bool = False,
    *,
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
    return _fitted(model, choose, sample_data, function, device, workers, progress, conclude)


def _fitted(
    model: Model,
    choose: Callable[[Weight], Any],
    samples: Samples,
    function: str | None,
    device: str,
    workers: int | None,
    progress: Progress | None,
    conclude: Callable[[Model, Outcome], None],
) -> Model:
    from corepress.coreml.calibrated.calibration import fit_weights

    forms = fit_weights(model, choose, samples, function, device, progress)

    def chosen(weight: Weight) -> Any:
        return forms.get(weight.key) or choose(weight)

    return run(model, chosen, workers=workers, conclude=conclude)
