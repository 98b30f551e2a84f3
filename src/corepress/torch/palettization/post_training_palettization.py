"""`PostTrainingPalettizer`: the weights of a PyTorch model become entries of look-up tables, by exact k-means."""

from __future__ import annotations

import functools
from typing import ClassVar

from attrs import define
from torch import nn

from corepress.fields import suggesting, value_of, whole
from corepress.torch.base_model_optimizer import WeightByWeight
from corepress.torch.optimization_config import (
    ModuleOptimizationConfig,
    OptimizationConfig,
)
from corepress.torch.palettization.cluster import ModulePaletteConfig, Palettizing, palettize_weight, warn_of_conversion
from corepress.torch.parameters import Parameter, borrowing_copy_of
from corepress.torch.rewrite import Action, rewrite

__all__ = ["ModulePostTrainingPalettizerConfig", "PostTrainingPalettizer", "PostTrainingPalettizerConfig"]


@suggesting
@define
class ModulePostTrainingPalettizerConfig(ModulePaletteConfig):
    """How the weights of a module are palettized.

    n_bits: of an index: 1, 2, 3, 4, 6 or 8; None leaves the module alone.
    lut_dtype: int8 or uint8, as which the entries of a table are stored; None: as the weight's own type.
    granularity: "per_tensor", or "per_grouped_channel" with a table for each `group_size` channels.
    channel_axis: the axis of these channels, and of the vectors: 0, the output channels; 1, the input channels.
    cluster_dim: entries are vectors of that many neighbouring channels.
    enable_per_channel_scale: each output channel is brought to -1..1 first; its scale is stored. Scalar entries only.
    enable_fast_kmeans_mode: float32 weights with scalar entries are clustered by 65,536 bins, whose means are exact;
        see `kmeans1d.quantize_rows`. Without it, by every single value: some 30 times slower, hardly better.
    rounding_precision: without effect. coremltools rounds weights to so many decimals to be fast.
    """

    enable_fast_kmeans_mode: bool = value_of(True, "True or False", lambda v: isinstance(v, bool))
    rounding_precision: int = value_of(4, "an integer", whole)


@suggesting
@define
class PostTrainingPalettizerConfig(OptimizationConfig):
    """Which modules are palettized, and how: `ModulePostTrainingPalettizerConfig`s. By default all, to 4 bits."""

    _module_config: ClassVar[type[ModuleOptimizationConfig]] = ModulePostTrainingPalettizerConfig
    _global_by_default: ClassVar[bool] = True


class PostTrainingPalettizer(Palettizing, WeightByWeight):
    """Palettizes the weights of a trained model, without data.

    k-means with scalar entries is solved exactly; for float32 to the width of fine bins, unless
    `enable_fast_kmeans_mode` is off (`corepress.algorithms.kmeans1d`).
    """

    def __init__(self, model: nn.Module, config: PostTrainingPalettizerConfig | None = None, *, strict: bool = False):
        super().__init__(model, PostTrainingPalettizerConfig() if config is None else config, strict=strict)

    def compress(  # type: ignore[override]  # the arguments are coremltools'
        self, num_kmeans_workers: int | None = None, inplace: bool = False
    ) -> nn.Module:
        """The palettized model: this model if `inplace`, else a copy.

        `num_kmeans_workers`: threads; by default one for each core. A weight that can't be palettized as asked is left
        as it is, with a warning; `report().skipped` says why.
        """
        warn_of_conversion(self._config)
        self._check_config()
        given = self._model
        self._model = self._get_model_for_compression(inplace, borrowing_copy_of)
        self._report = rewrite(
            self._model,
            self._choose,
            borrowed_from=None if inplace else given,
            workers=num_kmeans_workers,
            description="Palettizing",
        )
        return self._model

    def _choose(self, parameter: Parameter) -> Action | None:
        config = self._config_of(parameter)
        return None if config is None else functools.partial(palettize_weight, config, parameter.output_axis)
