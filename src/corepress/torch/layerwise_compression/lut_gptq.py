"""Palettization that keeps the outputs of each layer near: an addition to what coremltools has."""

from __future__ import annotations

from typing import Any

import torch
from attrs import define, field
from torch import Tensor, nn

from corepress.algorithms.fitted.hessian import Hessian
from corepress.algorithms.fitted.lut_gptq import palettize_by_hessian
from corepress.engine import Skip
from corepress.errors import ConfigError
from corepress.fields import integer, member, optional_integer, real, suggesting, value_of
from corepress.torch.dtypes import lut_type
from corepress.torch.layerwise_compression.algorithms import (
    LayerwiseCompressionAlgorithm,
    LayerwiseCompressionAlgorithmConfig,
    OBSCompressionAlgorithm,
)
from corepress.torch.optimization_config import LutType, PalettizationGranularity, PalettizationGranularityWord
from corepress.weights import CompressedWeight

__all__ = ["LUTGPTQ", "ModuleLUTGPTQConfig"]


@LayerwiseCompressionAlgorithmConfig.register("lut_gptq")
@suggesting
@define
class ModuleLUTGPTQConfig(LayerwiseCompressionAlgorithmConfig):
    """How a layer is palettized to its inputs. It is an addition.

    Args:
        n_bits: Of an index: 1, 2, 3, 4, 6 or 8.
        lut_dtype: int8 or uint8, as which the entries of a table are stored; None: as the weight's own type.
        granularity: "per_tensor", or "per_grouped_channel" with a table for each `group_size` output channels.
        group_size: How many output channels share a table.
        cluster_dim: Entries are vectors of that many neighbouring output channels.
        hessian_dampening: Times the mean of the Hessian's diagonal, is added to it.
        rounds: Of refitting tables and indices to each other, at most; 0 stops after one pass as in GPTQ.
        algorithm: "lut_gptq".

    Raises:
        ConfigError: For values that are unknown or contradict each other.

    Examples:
        >>> from corepress.torch.layerwise_compression import LayerwiseCompressor, LayerwiseCompressorConfig
        >>> from corepress.torch.layerwise_compression import ModuleLUTGPTQConfig
        >>> model = torch.nn.Sequential(torch.nn.Linear(64, 64))
        >>> config = LayerwiseCompressorConfig(global_config=ModuleLUTGPTQConfig(n_bits=2))
        >>> compressor = LayerwiseCompressor(model, config)
        >>> small = compressor.compress([torch.randn(16, 64) for _ in range(8)])
        >>> len(small[0].weight.unique())
        4
    """

    n_bits: int = value_of(4, "1, 2, 3, 4, 6 or 8", lambda v: not isinstance(v, bool) and v in (1, 2, 3, 4, 6, 8))
    lut_dtype: LutType = field(default=None, converter=lut_type)
    granularity: PalettizationGranularityWord = member(PalettizationGranularity, "per_tensor")
    group_size: int | None = optional_integer(None, 1)
    cluster_dim: int | None = optional_integer(None, 1)
    hessian_dampening: float = real(0.01, "a number >= 0", lambda v: v >= 0)
    rounds: int = integer(10, 0)
    algorithm: str = value_of("lut_gptq", "'lut_gptq'", lambda v: v == "lut_gptq")

    def __attrs_post_init__(self) -> None:
        if (self.granularity is PalettizationGranularity.per_grouped_channel) != (self.group_size is not None):
            raise ConfigError('group_size belongs to granularity "per_grouped_channel", which needs it')


@LayerwiseCompressionAlgorithm.register("lut_gptq")
class LUTGPTQ(OBSCompressionAlgorithm):
    """Look-up tables fitted to the outputs of one layer (`corepress.algorithms.fitted.lut_gptq`). It is an addition.

    Args:
        layer: The layer, whose weight `compress` rewrites.
        config: How.

    Raises:
        ConfigError: For a layer that its tables don't fit.

    Examples:
        >>> from corepress.torch.layerwise_compression import LUTGPTQ, ModuleLUTGPTQConfig
        >>> layer, inputs = torch.nn.Linear(64, 8), torch.randn(100, 64)
        >>> fit = LUTGPTQ(layer, ModuleLUTGPTQConfig(n_bits=2))
        >>> fit.add_batch(inputs, layer(inputs))
        >>> _ = fit.compress()
        >>> len(layer.weight.unique())
        4
    """

    def __init__(self, layer: nn.Module, config: ModuleLUTGPTQConfig):
        super().__init__(layer, config)
        layout, dim = self._layout, config.cluster_dim or 1
        channels = layout.rows * layout.groups
        size = config.group_size or channels
        if channels % size or size % dim:
            raise ConfigError(f"group_size {size} and cluster_dim {dim} don't divide its {channels} channels")
        if layout.rows % dim:
            raise ConfigError(f"cluster_dim {dim} doesn't divide the {layout.rows} channels of its groups")

    def _compress(self, weight: Tensor, keep: Tensor | None, hessian: Hessian) -> CompressedWeight:
        if keep is not None:
            raise Skip("it is pruned: only SKMPalettizer and PostTrainingPalettizer palettize what is left")
        config: Any = self._config
        dense, matrices = weight.detach().cpu().flatten(0, 1), hessian.matrix.cpu().numpy()
        values = (dense if dense.dtype is torch.float16 else dense.float()).numpy()
        lut_dtype: Any = config.lut_dtype and str(config.lut_dtype).removeprefix("torch.")
        return palettize_by_hessian(
            values,
            matrices if len(matrices) > 1 else matrices[0],
            config.n_bits,
            group_size=config.group_size or 0,
            cluster_dim=config.cluster_dim or 1,
            lut_dtype=lut_dtype,
            dampening=config.hessian_dampening,
            rounds=config.rounds,
        )


def __dir__() -> list[str]:
    return __all__
