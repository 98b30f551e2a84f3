"""`prune_weights`: the small values of a weight become zero and are not stored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from corepress.coreml.choose import DENSE_FIRST, config_for
from corepress.coreml.config import OptimizationConfig
from corepress.coreml.interop import takes_any_model
from corepress.coreml.method import Method
from corepress.coreml.op_configs import OpMagnitudePrunerConfig, OpThresholdPrunerConfig
from corepress.coreml.rewrite import rewrite
from corepress.engine import Progress, Skip
from corepress.formats.mlprogram import Model, Weight
from corepress.weights import CompressedWeight, Sparse, decompress


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

    `mlmodel`: a path, a `corepress.Model` or an `MLModel`; the result is of the same kind (for a path: a `Model`).
    `config`: what to prune and how, with `OpThresholdPrunerConfig`s or `OpMagnitudePrunerConfig`s.
    `joint_compression`: prune also palettized and quantized weights: of those only the indices or integers of values
    that stay are kept.
    Additions: `target`, `workers`, `progress`, `strict`, `spare_constants` as in `palettize_weights`.

    Weights that can't be pruned as asked are left as they are, with a warning; `corepress.report` lists them.
    """
    model, choose, weights = METHOD.plan(
        mlmodel, config, joint_compression, target=target, strict=strict, spare_constants=spare_constants
    )
    conclude = METHOD.concluding(mlmodel, strict)
    return rewrite(model, choose, weights=weights, workers=workers, progress=progress, conclude=conclude)


def chooser(config: OptimizationConfig, joint_compression: bool) -> Callable[[Weight], Prune]:
    """What to do with each weight; the function raises Skip for those that are left alone."""
    joint_forms = ("palettized", "quantized", "quantized+palettized", "palettized+quantized")

    def choose(weight: Weight) -> Prune:
        op_config = config_for(weight, config, joint_forms, joint_compression)
        by_name = weight.name in config.op_name_configs
        readers = [
            consumer
            for consumer in weight.consumers
            if not op_config.accepts_input(consumer.op_type, consumer.argument)
        ]
        if readers and not by_name:
            raise Skip(f"block and n:m sparsity serve the weights of conv and linear only, not {readers[0].op_type}")
        return Prune(op_config)

    return choose


METHOD = Method(
    "prune_weights",
    (OpThresholdPrunerConfig, OpMagnitudePrunerConfig),
    chooser,
    "its mask takes a bit for each value, so more zeros or a higher weight_threshold would help",
)


@dataclass(frozen=True)
class Prune:
    """The action on one weight."""

    config: OpThresholdPrunerConfig | OpMagnitudePrunerConfig

    def __call__(self, weight: Weight) -> CompressedWeight:
        value = weight.read()
        if isinstance(value, Sparse):
            raise Skip(f"it is sparse already, which can't be compressed further: {DENSE_FIRST}")
        pruned = self._pruned(decompress(value))
        return pruned if isinstance(value, np.ndarray) else Sparse(pruned.mask, value)

    def _pruned(self, values: np.ndarray[Any, Any]) -> Sparse:
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
