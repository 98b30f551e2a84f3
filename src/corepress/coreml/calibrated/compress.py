"""The public functions: the plain methods of `corepress.coreml` with forms that were fitted to samples."""

from __future__ import annotations

from typing import Any

from corepress.coreml import palettize, prune, quantize
from corepress.coreml.calibrated.best import compressed
from corepress.coreml.calibrated.judging import Samples
from corepress.coreml.config import OptimizationConfig
from corepress.coreml.interop import takes_any_model
from corepress.engine import Progress
from corepress.formats.mlprogram import Model
from corepress.split import HELD_BACK


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
    keeps the outputs of each layer near those of the original model (`algorithms/fitted/lut_gptq.py`);
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
    plan = palettize.METHOD.plan(
        mlmodel,
        config,
        joint_compression,
        fitted=method,
        target=target,
        strict=strict,
        spare_constants=spare_constants,
    )
    return compressed(
        plan,
        sample_data,
        held_back=held_back,
        function=function,
        device=device,
        workers=workers,
        progress=progress,
    )


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

    `activation_aware_scale`: scale input channels first, as AWQ does (`algorithms/fitted/awq.py`), where a constant of
    the operations before can take up the inverse; the search rounds such weights eleven times. The other arguments and
    the exceptions are those of `palettize_weights`.
    """
    plan = quantize.METHOD.plan(
        mlmodel,
        config,
        joint_compression,
        fitted="gptq",
        target=target,
        strict=strict,
        spare_constants=spare_constants,
    )
    return compressed(
        plan,
        sample_data,
        activation_aware_scale=activation_aware_scale,
        held_back=held_back,
        function=function,
        device=device,
        workers=workers,
        progress=progress,
    )


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
    plan = prune.METHOD.plan(
        mlmodel,
        config,
        joint_compression,
        fitted="sparsegpt",
        target=target,
        strict=strict,
        spare_constants=spare_constants,
    )
    return compressed(
        plan,
        sample_data,
        held_back=held_back,
        function=function,
        device=device,
        workers=workers,
        progress=progress,
    )
