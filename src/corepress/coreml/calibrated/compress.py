"""The public functions: the plain methods of `corepress.coreml` with forms that were fitted to samples."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from corepress.coreml import palettize, prune, quantize
from corepress.coreml.calibrated.best import compressed
from corepress.coreml.calibrated.judging import Samples
from corepress.coreml.config import OptimizationConfig
from corepress.coreml.interop import takes_any_model
from corepress.coreml.method import Plan
from corepress.engine import Progress
from corepress.formats.mlprogram import Model
from corepress.refining.options import at_last
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
    augment: int = 0,
    refine: int | str | None = None,
    function: str | None = None,
    target: Any = None,
    device: str = "cpu",
    workers: int | None = None,
    progress: Progress | None = None,
    strict: bool = False,
    spare_constants: bool | None = True,
) -> Model:
    """Palettize a package with look-up tables and indices that are fitted to samples.

    Weights that no sample reaches, or of operations that neither multiply by a matrix nor look up its rows, are
    palettized without data; `unfitted` of the result, and `corepress.report`, have each of them, and why. A pipeline
    takes samples for its first stage, and those behind it get what the stages before them make of these.

    Args:
        mlmodel: A path, a `corepress.Model` or an `MLModel` of coremltools.
        config: What to palettize and how, with `OpPalettizerConfig`s.
        sample_data: Inputs, {input name: array of the input's shape and type}; a few hundred typical ones, a few dozen
            at least. For a model that keeps a state sequences, lists of such steps, as the app runs them. Of a model
            with several functions also {function: samples}: weights that several of them read are fitted to the samples
            of each.
        joint_compression: As in `corepress.coreml.palettize_weights`.
        method: "lut-gptq" keeps the outputs of each layer near those of the original model
            (`algorithms/fitted/lut_gptq.py`); "skm" weighs each element by how much the model's outputs depend on it
            (SqueezeLLM, arXiv 2306.07629). `corepress palettize --help` lists all names.
        held_back: The part of the samples, chosen by `corepress.hold_back`, on which it is tried whether what was
            fitted to the others is better than the plain form: layer by layer, and for the model as a whole. Where it
            is not, the plain form is taken, with a warning; then all samples are fitted to, which doubles the time. 0
            holds none back; an iterable of other samples is judged by instead.
        augment: So many more samples are made of those to learn from (`corepress.augment`), and fitted to beside them;
            none is judged by. Worth it where samples are few, or inputs will be of other kinds.
        refine: At last what is stored learns from the samples to answer as the model did (`corepress.refine`): so many
            steps, or for a time, such as "10m".
        function: Of a model with several, the one that the samples are for, where they are of one.
        target: Raise the model to this deployment target first, such as "iOS18".
        device: Where PyTorch computes, such as "cpu" or "cuda".
        workers: Threads; by default one for each core.
        progress: Called after each weight with the number done, of all, and a name.
        strict: As in `corepress.coreml.palettize_weights`.
        spare_constants: As in `corepress.coreml.palettize_weights`, but that True is the default.

    Returns:
        The result, of the same kind as the model (for a path: a `Model`).

    Raises:
        ConfigError: For samples that do not fit the model, or a configuration that the target can't hold.
        MissingDependencyError: Without PyTorch.

    Examples:
        >>> samples = [{"image": image} for image in np.load("samples.npz")["image"]]
        >>> config = cto.coreml.OptimizationConfig(cto.coreml.OpPalettizerConfig(nbits=2))
        >>> fitted = cto.coreml.calibrated.palettize_weights("model.mlpackage", config, samples, held_back=0)
        >>> plain = cto.coreml.palettize_weights("model.mlpackage", config)
        >>> results = [cto.verify("model.mlpackage", small, samples) for small in (plain, fitted)]
        >>> results[1].worst.snr > results[0].worst.snr + 10
        True
    """
    plan = palettize.METHOD.plan(mlmodel, config, joint_compression, method, target, strict, spare_constants)
    return _made(plan, sample_data, held_back, function, device, workers, progress, refine, augment=augment)


@takes_any_model
def linear_quantize_weights(
    mlmodel: Model,
    config: OptimizationConfig,
    sample_data: Samples,
    joint_compression: bool = False,
    *,
    method: str = "gptq",
    activation_aware_scale: bool = False,
    held_back: float | Samples = HELD_BACK,
    augment: int = 0,
    refine: int | str | None = None,
    function: str | None = None,
    target: Any = None,
    device: str = "cpu",
    workers: int | None = None,
    progress: Progress | None = None,
    strict: bool = False,
    spare_constants: bool | None = True,
) -> Model:
    """Quantize a package by GPTQ: rounding errors make up for each other in the layers' outputs on the samples.

    Source: Frantar et al. 2022, arXiv 2210.17323; AWQ: Lin et al. 2023, arXiv 2306.00978.

    Args:
        mlmodel: A path, a `corepress.Model` or an `MLModel` of coremltools.
        config: What to quantize and how, with `OpLinearQuantizerConfig`s.
        sample_data: As in `calibrated.palettize_weights`.
        joint_compression: As in `corepress.coreml.linear_quantize_weights`.
        method: A name that `corepress quantize --help` lists for `--method`: "gptq" by default.
        activation_aware_scale: Scale input channels first, as AWQ does, where a constant of the operations before can
            take up the inverse; the search rounds such weights eleven times.
        held_back: As in `calibrated.palettize_weights`.
        augment: As in `calibrated.palettize_weights`.
        refine: As in `calibrated.palettize_weights`.
        function: Of a model with several, the one that the samples are for.
        target: Raise the model to this deployment target first, such as "iOS18".
        device: Where PyTorch computes, such as "cpu" or "cuda".
        workers: Threads; by default one for each core.
        progress: Called after each weight with the number done, of all, and a name.
        strict: As in `corepress.coreml.palettize_weights`.
        spare_constants: As in `corepress.coreml.palettize_weights`, but that True is the default.

    Returns:
        The result, of the same kind as the model (for a path: a `Model`).

    Raises:
        ConfigError: For samples that do not fit the model, or a configuration that the target can't hold.
        MissingDependencyError: Without PyTorch.

    Examples:
        >>> samples = [{"image": image} for image in np.load("samples.npz")["image"]]
        >>> config = cto.coreml.OptimizationConfig(cto.coreml.OpLinearQuantizerConfig(dtype="int4"))
        >>> small = cto.coreml.calibrated.linear_quantize_weights("model.mlpackage", config, samples, held_back=0)
        >>> cto.verify("model.mlpackage", small, samples).ok
        True
    """
    plan = quantize.METHOD.plan(mlmodel, config, joint_compression, method, target, strict, spare_constants)
    options: dict[str, Any] = {"activation_aware_scale": activation_aware_scale, "augment": augment}
    return _made(plan, sample_data, held_back, function, device, workers, progress, refine, **options)


@takes_any_model
def prune_weights(
    mlmodel: Model,
    config: OptimizationConfig,
    sample_data: Samples,
    joint_compression: bool = False,
    *,
    method: str = "sparsegpt",
    held_back: float | Samples = HELD_BACK,
    augment: int = 0,
    refine: int | str | None = None,
    function: str | None = None,
    target: Any = None,
    device: str = "cpu",
    workers: int | None = None,
    progress: Progress | None = None,
    strict: bool = False,
    spare_constants: bool | None = True,
) -> Model:
    """Prune a package by SparseGPT: what stays makes up for what goes.

    It serves `target_sparsity` and, along the input channels of linear layers, `n_m_ratio`.
    Source: Frantar and Alistarh 2023, arXiv 2301.00774.

    Args:
        mlmodel: A path, a `corepress.Model` or an `MLModel` of coremltools.
        config: What to prune and how, with `OpMagnitudePrunerConfig`s.
        sample_data: As in `calibrated.palettize_weights`.
        joint_compression: As in `corepress.coreml.prune_weights`.
        method: "sparsegpt" sets to zero what is asked of each weight; "sparsegpt-global" as much of all weights
            together, more of those that the model's outputs depend on less (Theis et al. 2018, arXiv 1801.05787), which
            keeps them much nearer at the same size.
        held_back: As in `calibrated.palettize_weights`.
        augment: As in `calibrated.palettize_weights`.
        refine: As in `calibrated.palettize_weights`.
        function: Of a model with several, the one that the samples are for.
        target: Raise the model to this deployment target first, such as "iOS18".
        device: Where PyTorch computes, such as "cpu" or "cuda".
        workers: Threads; by default one for each core.
        progress: Called after each weight with the number done, of all, and a name.
        strict: As in `corepress.coreml.palettize_weights`.
        spare_constants: As in `corepress.coreml.palettize_weights`, but that True is the default.

    Returns:
        The result, of the same kind as the model (for a path: a `Model`).

    Raises:
        ConfigError: For samples that do not fit the model, or a configuration that the target can't hold.
        MissingDependencyError: Without PyTorch.

    Examples:
        >>> samples = [{"image": image} for image in np.load("samples.npz")["image"]]
        >>> config = cto.coreml.OptimizationConfig(cto.coreml.OpMagnitudePrunerConfig(target_sparsity=0.5))
        >>> sparse = cto.coreml.calibrated.prune_weights("model.mlpackage", config, samples, held_back=0)
        >>> cto.verify("model.mlpackage", sparse, samples).ok
        True
    """
    plan = prune.METHOD.plan(mlmodel, config, joint_compression, method, target, strict, spare_constants)
    return _made(plan, sample_data, held_back, function, device, workers, progress, refine, augment=augment)


def _made(
    plan: Plan,
    sample_data: Samples,
    held_back: float | Samples,
    function: str | None,
    device: str,
    workers: int | None,
    progress: Progress | None,
    refine: int | str | None,
    **options: Any,
) -> Model:
    """What a plan makes of its model with samples, refined at last if that is asked for."""
    if refine is None:
        return compressed(plan, sample_data, held_back, function, device, workers, progress, **options)
    from corepress.refining.refine import refine as refined

    learning = at_last(refine, function).keywords()
    # They may be an iterator, and are read twice.
    samples: Any = list(sample_data) if isinstance(sample_data, Iterator) else sample_data
    small = compressed(plan, samples, held_back, function, device, workers, progress, **options)
    part = held_back if isinstance(held_back, (int, float)) else HELD_BACK
    result: Model = refined(
        plan.model, small, samples, held_back=part, device=device, progress=progress, **learning
    ).model  # fmt: skip
    return result
