"""`PostTrainingPalettizer`: the weights of a PyTorch model become entries of look-up tables, by exact k-means."""

from __future__ import annotations

import logging
from typing import Any, ClassVar

import numpy as np
from attrs import define, field
from numpy.typing import NDArray
from torch import nn

from corepress.errors import ConfigError
from corepress.fields import flag, suggesting, value_of, whole
from corepress.torch.base_model_optimizer import WeightByWeight
from corepress.torch.dtypes import lut_type
from corepress.torch.fields import channel_axis, member, optional_integer
from corepress.torch.optimization_config import (
    LutType,
    ModuleOptimizationConfig,
    OptimizationConfig,
    PalettizationGranularity,
    PalettizationGranularityWord,
)
from corepress.torch.palettization.cluster import palettize_weight
from corepress.torch.parameters import Parameter, borrowing_copy_of
from corepress.torch.rewrite import Action, rewrite

__all__ = ["ModulePostTrainingPalettizerConfig", "PostTrainingPalettizer", "PostTrainingPalettizerConfig"]

log = logging.getLogger(__name__)


@suggesting
@define
class ModulePostTrainingPalettizerConfig(ModuleOptimizationConfig):
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

    n_bits: int | None = field(default=4)
    lut_dtype: LutType = field(default=None, converter=lut_type)
    granularity: PalettizationGranularityWord = member(PalettizationGranularity, "per_tensor")
    group_size: int | None = optional_integer(None, 1)
    channel_axis: int = channel_axis()
    cluster_dim: int | None = optional_integer(None, 1)
    enable_per_channel_scale: bool = flag()
    enable_fast_kmeans_mode: bool = value_of(True, "True or False", lambda v: isinstance(v, bool))
    rounding_precision: int = value_of(4, "an integer", whole)

    def __attrs_post_init__(self) -> None:
        check_palettization(self)


def check_palettization(config: Any) -> None:
    """What the fields of a palettizer's configuration owe each other."""
    if config.n_bits not in (None, 1, 2, 3, 4, 6, 8) or isinstance(config.n_bits, bool):
        raise ConfigError(f'"n_bits" must be 1, 2, 3, 4, 6 or 8, not {config.n_bits!r}')
    grouped = config.granularity is PalettizationGranularity.per_grouped_channel
    if grouped != (config.group_size is not None):
        raise ConfigError('group_size belongs to granularity "per_grouped_channel", which needs it')
    if (config.cluster_dim or 1) > 1 and config.enable_per_channel_scale:
        raise ConfigError("enable_per_channel_scale is for scalar entries: it can't go with cluster_dim > 1")


def warn_of_conversion(config: OptimizationConfig) -> None:
    """Say what `coremltools.convert` (9.0) will refuse, while it costs nothing to choose something else."""
    for each in config.configs():
        other = "enable_per_channel_scale" if each.enable_per_channel_scale else "cluster_dim > 1"
        if each.lut_dtype is not None and (each.enable_per_channel_scale or (each.cluster_dim or 1) > 1):
            log.warning("coremltools 9.0 can't convert lut_dtype together with %s: use only one of them", other)
            break


@suggesting
@define
class PostTrainingPalettizerConfig(OptimizationConfig):
    """Which modules are palettized, and how: `ModulePostTrainingPalettizerConfig`s. By default all, to 4 bits."""

    _module_config: ClassVar[type[ModuleOptimizationConfig]] = ModulePostTrainingPalettizerConfig
    _global_by_default: ClassVar[bool] = True


class PostTrainingPalettizer(WeightByWeight):
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

    def _config_of(self, parameter: Parameter) -> Any:
        config = super()._config_of(parameter)
        return None if config is None or config.n_bits is None else config

    def _choose(self, parameter: Parameter) -> Action | None:
        config = self._config_of(parameter)
        if config is None:
            return None

        def action(weight: NDArray[Any], mask: NDArray[np.bool_] | None) -> Any:
            return palettize_weight(weight, config, parameter.output_axis, mask=mask)

        return action
