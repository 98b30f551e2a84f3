"""One weight and one palettizer's configuration to a compressed form."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from corepress.algorithms.lut import quantize_lut
from corepress.algorithms.palettize import normalize_channels, palettize
from corepress.torch.optimization_config import PalettizationGranularity
from corepress.weights import Palettized, Quantized

Array = NDArray[Any]


def palettize_weight(
    weight: Array,
    config: Any,
    output_axis: int,
    *,
    mask: NDArray[np.bool_] | None = None,
    importance: Array | None = None,
) -> Palettized | Quantized:
    """`weight`: float16 or float32, rank >= 2. `config`: has the fields that all palettizers share.

    `mask`: only what is under it shapes the tables. `importance`: of the weight's shape, weighs squared errors. Raises
    ConfigError if groups or vectors do not divide the weight.
    """
    scale = None
    if config.enable_per_channel_scale:
        weight, scale, importance = normalize_channels(weight, output_axis, importance)
    grouped = config.granularity is PalettizationGranularity.per_grouped_channel
    form = palettize(
        weight,
        config.n_bits,
        channel_axis=output_axis if config.channel_axis == 0 else 1 - output_axis,
        group_size=config.group_size if grouped else 0,
        cluster_dim=config.cluster_dim or 1,
        importance=importance,
        mask=mask,
        binned=getattr(config, "enable_fast_kmeans_mode", False),
    )
    if config.lut_dtype is not None:
        dtype: Any = str(config.lut_dtype).removeprefix("torch.")
        form = quantize_lut(form, weight, dtype, mask=mask)
    return form if scale is None else Quantized(form, scale)
