"""What palettizers that compress at once share: their configuration, and what it makes of one weight."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from attrs import define, field
from numpy.typing import NDArray

from corepress.algorithms.lut import quantize_lut
from corepress.algorithms.palettize import normalize_channels, palettize
from corepress.errors import ConfigError
from corepress.fields import flag, member, optional_integer, value_of, whole
from corepress.torch.base_model_optimizer import BaseModelOptimizer
from corepress.torch.dtypes import lut_type
from corepress.torch.optimization_config import (
    LutType,
    ModuleOptimizationConfig,
    OptimizationConfig,
    PalettizationGranularity,
    PalettizationGranularityWord,
)
from corepress.torch.parameters import Parameter
from corepress.weights import Palettized, Quantized

log = logging.getLogger(__name__)

Array = NDArray[Any]
# Those of coreai-opt.
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "w8": {"n_bits": 8},
    "w6": {"n_bits": 6, "granularity": "per_grouped_channel", "group_size": 16},
    "w4": {"n_bits": 4, "granularity": "per_grouped_channel", "group_size": 16},
}


@define
class ModulePaletteConfig(ModuleOptimizationConfig):
    """What palettizers that compress at once have in common; see `ModulePostTrainingPalettizerConfig`."""

    n_bits: int | None = field(default=4)
    lut_dtype: LutType = field(default=None, converter=lut_type)
    granularity: PalettizationGranularityWord = member(PalettizationGranularity, "per_tensor")
    group_size: int | None = optional_integer(None, 1)
    channel_axis: int = value_of(0, "0 or 1", lambda v: whole(v) and v in (0, 1))
    cluster_dim: int | None = optional_integer(None, 1)
    enable_per_channel_scale: bool = flag()

    def __attrs_post_init__(self) -> None:
        check_palettization(self)


class PaletteFields(Protocol):
    """What the configurations of all palettizers say of a table."""

    n_bits: int | None
    granularity: PalettizationGranularityWord
    group_size: int | None
    cluster_dim: int | None
    enable_per_channel_scale: bool


def check_palettization(config: PaletteFields) -> None:
    """What the fields of a palettizer's configuration owe each other."""
    if config.n_bits not in (None, 1, 2, 3, 4, 6, 8) or isinstance(config.n_bits, bool):
        raise ConfigError(f'"n_bits" must be 1, 2, 3, 4, 6 or 8, not {config.n_bits!r}')
    grouped = config.granularity is PalettizationGranularity.per_grouped_channel
    if grouped != (config.group_size is not None):
        raise ConfigError('group_size belongs to granularity "per_grouped_channel", which needs it')
    if (config.cluster_dim or 1) > 1 and config.enable_per_channel_scale:
        raise ConfigError("enable_per_channel_scale is for scalar entries: it can't go with cluster_dim > 1")


class Palettizing(BaseModelOptimizer):
    """A palettizer whose configurations leave a module alone with `n_bits` of None."""

    def _config_of(self, parameter: Parameter) -> Any:
        config = super()._config_of(parameter)
        return None if config is None or config.n_bits is None else config


def warn_of_conversion(config: OptimizationConfig) -> None:
    """Say what `coremltools.convert` (9.0) will refuse, while it costs nothing to choose something else."""
    for each in config.configs():
        other = "enable_per_channel_scale" if each.enable_per_channel_scale else "cluster_dim > 1"
        if each.lut_dtype is not None and (each.enable_per_channel_scale or (each.cluster_dim or 1) > 1):
            log.warning("coremltools 9.0 can't convert lut_dtype together with %s: use only one of them", other)
            break


def palettize_weight(
    config: ModulePaletteConfig,
    output_axis: int,
    weight: Array,
    mask: NDArray[np.bool_] | None = None,
    importance: Array | None = None,
) -> Palettized | Quantized:
    """`config`: one with `n_bits`. `weight`: float16 or float32, rank >= 2.

    `mask`: only what is under it shapes the tables. `importance`: of the weight's shape, weighs squared errors. Raises
    ConfigError if groups or vectors do not divide the weight.
    """
    assert config.n_bits is not None
    scale = None
    if config.enable_per_channel_scale:
        weight, scale, importance = normalize_channels(weight, output_axis, importance)
    grouped = config.granularity is PalettizationGranularity.per_grouped_channel
    form = palettize(
        weight,
        config.n_bits,
        channel_axis=output_axis if config.channel_axis == 0 else 1 - output_axis,
        group_size=(config.group_size or 0) if grouped else 0,
        cluster_dim=config.cluster_dim or 1,
        importance=importance,
        mask=mask,
        binned=getattr(config, "enable_fast_kmeans_mode", False),
    )
    if config.lut_dtype is not None:
        dtype: Any = str(config.lut_dtype).removeprefix("torch.")
        form = quantize_lut(form, weight, dtype, mask=mask)
    return form if scale is None else Quantized(form, scale)
