"""`prune_weights`: the small values of a weight become zero and are not stored."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from attrs import evolve
from numpy.typing import NDArray

from corepress.coreml.action import Action, Evidence
from corepress.coreml.config import OptimizationConfig
from corepress.coreml.interop import takes_any_model
from corepress.coreml.method import Method
from corepress.coreml.op_configs import OpMagnitudePrunerConfig, OpThresholdPrunerConfig
from corepress.engine import Progress, Skip
from corepress.formats.mlprogram import Model, Weight
from corepress.weights import CompressedWeight, Sparse, decompress

if TYPE_CHECKING:
    import torch

    from corepress.algorithms.fitted.statistics import Statistics

Array = NDArray[Any]


@takes_any_model
def prune_weights(
    mlmodel: Model,
    config: OptimizationConfig,
    joint_compression: bool = False,
    *,
    target: Any = None,
    workers: int | None = None,
    progress: Progress | None = None,
    strict: bool = False,
    spare_constants: bool | None = None,
) -> Model:
    """Set values of small magnitude to zero and store the others with a bit mask.

    Weights that can't be pruned as asked are left as they are, with a warning; `corepress.report` lists them.

    Args:
        mlmodel: A path, a `corepress.Model` or an `MLModel` of coremltools.
        config: What to prune and how, with `OpThresholdPrunerConfig`s or `OpMagnitudePrunerConfig`s.
        joint_compression: Prune also palettized and quantized weights: of those only the indices or integers of values
            that stay are kept.
        target: Raise the model to this deployment target first, such as "iOS18".
        workers: Threads; by default one for each core.
        progress: Called after each weight with the number done, of all, and a name.
        strict: As in `palettize_weights`.
        spare_constants: As in `palettize_weights`.

    Returns:
        The result, of the same kind as the model (for a path: a `Model`).

    Raises:
        ConfigError: For a configuration that the target can't hold.

    Examples:
        >>> config = cto.coreml.OptimizationConfig(cto.coreml.OpMagnitudePrunerConfig(target_sparsity=0.75))
        >>> sparse = cto.coreml.prune_weights("model.mlpackage", config)
        >>> cto.report(sparse).compressed[0].compression
        'sparse'
    """
    plan = METHOD.plan(mlmodel, config, joint_compression, None, target, strict, spare_constants)
    return plan.run(workers, progress)


@dataclass(frozen=True)
class Prune(Action):
    """The smallest values go; without data."""

    verb = "compressed"
    joint_forms = ("palettized", "quantized", "quantized+palettized", "palettized+quantized")

    config: OpThresholdPrunerConfig | OpMagnitudePrunerConfig

    @classmethod
    def on(cls, weight: Weight, config: OpThresholdPrunerConfig | OpMagnitudePrunerConfig, named: bool) -> Prune:
        readers = [
            consumer for consumer in weight.consumers if not config.accepts_input(consumer.op_type, consumer.argument)
        ]
        if readers and not named:
            raise Skip(f"block and n:m sparsity work for the weights of conv and linear only, not {readers[0].op_type}")
        return cls(config)

    def compress(self, value: Array | CompressedWeight) -> CompressedWeight | None:
        if isinstance(value, Sparse):
            return None
        pruned = self._pruned(decompress(value))
        return pruned if isinstance(value, np.ndarray) else Sparse(pruned.mask, value)

    def _pruned(self, values: Array) -> Sparse:
        from corepress.algorithms.magnitude import prune_n_m, prune_sparsity, prune_threshold, sparsity

        config = self.config
        if isinstance(config, OpThresholdPrunerConfig):
            pruned = prune_threshold(values, config.threshold)
            reached = sparsity(pruned)
            if reached < config.minimum_sparsity_percentile:
                raise Skip(
                    f"only {reached:.1%} of its values are that small, less than minimum_sparsity_percentile "
                    f"{config.minimum_sparsity_percentile}"
                )
            return pruned
        if config.n_m_ratio is not None:
            n, m = config.n_m_ratio
            assert config.dim is not None
            return prune_n_m(values, n, m, config.dim)
        assert config.target_sparsity is not None
        return prune_sparsity(values, config.target_sparsity, config.block_size, config.dim)


class SparseGpt(Prune):
    """What stays makes up for what goes: `algorithms/fitted/sparsegpt.py`."""

    evidence = Evidence.INPUTS
    # Of the mean of the Hessian's diagonal, as the authors have it.
    dampening: ClassVar[float] = 0.01

    def fit(self, value: Array | CompressedWeight, statistics: Statistics) -> CompressedWeight | None:
        from corepress.algorithms.fitted.sparsegpt import sparsegpt

        config, layout, hessian = self.config, statistics.layout, statistics.hessian
        if not isinstance(value, np.ndarray) or isinstance(config, OpThresholdPrunerConfig):
            return None
        ratio, sparsity = config.n_m_ratio, config.target_sparsity
        if (ratio is None and sparsity is None) or config.block_size is not None:
            return None
        if ratio is not None and (config.dim != 1 or layout.elements > 1 or layout.transposed):
            return None

        def pruned(weight: torch.Tensor, keep: torch.Tensor | None) -> Sparse:
            factor = hessian.factor(statistics.dampening or self.dampening)
            return sparsegpt(weight, hessian.matrix, sparsity=sparsity or 0.0, n_m_ratio=ratio, factor=factor)

        return layout.fitted(statistics.refitted(value), pruned)


class GlobalSparseGpt(SparseGpt):
    """The same, with the zeros that are asked of all weights together where they cost least.

    `coreml/calibrated/sharing.py` says how many each weight gets, before anything is fitted.
    """

    # Weights of which most goes are left with less to go by: on digits 0.6 to 1.2 dB better than with a tenth of it.
    dampening = 0.1

    @property
    def asked(self) -> float | None:
        """The part of all weights that becomes zero; None where zeros are asked of each weight by itself."""
        config = self.config
        return None if isinstance(config, OpThresholdPrunerConfig) or config.block_size else config.target_sparsity

    def asking(self, sparsity: float) -> GlobalSparseGpt:
        """The same action on a weight of which so much becomes zero."""
        assert isinstance(self.config, OpMagnitudePrunerConfig)
        return replace(self, config=evolve(self.config, target_sparsity=sparsity))


METHOD = Method(
    "prune_weights",
    (OpMagnitudePrunerConfig, OpThresholdPrunerConfig),
    Prune,
    {"sparsegpt": SparseGpt, "sparsegpt-global": GlobalSparseGpt},
    "its mask takes a bit for each value, so more zeros or a higher weight_threshold would help",
)
