"""`PostTrainingPalettizer`: the weights of a PyTorch model become entries of look-up tables, by exact k-means."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, ClassVar

from attrs import define
from torch import nn

from corepress.fields import suggesting, value_of, whole
from corepress.torch.base_model_optimizer import WeightByWeight
from corepress.torch.optimization_config import (
    ModuleOptimizationConfig,
    OptimizationConfig,
)
from corepress.torch.palettization.cluster import (
    PRESETS,
    ModulePaletteConfig,
    Palettizing,
    palettize_weight,
    warn_of_conversion,
)
from corepress.torch.parameters import Parameter, borrowing_copy_of
from corepress.torch.rewrite import Action, rewrite

__all__ = ["ModulePostTrainingPalettizerConfig", "PostTrainingPalettizer", "PostTrainingPalettizerConfig"]


@suggesting
@define
class ModulePostTrainingPalettizerConfig(ModulePaletteConfig):
    """How the weights of a module are palettized.

    Args:
        n_bits: Of an index: 1, 2, 3, 4, 6 or 8; None leaves the module alone.
        lut_dtype: int8 or uint8, as which the entries of a table are stored; None: as the weight's own type.
        granularity: "per_tensor", or "per_grouped_channel" with a table for each `group_size` channels.
        group_size: How many channels share a table.
        channel_axis: The axis of these channels, and of the vectors: 0, the output channels; 1, the input channels.
        cluster_dim: Entries are vectors of that many neighbouring channels.
        enable_per_channel_scale: Each output channel is brought to -1..1 first; its scale is stored. Scalar entries
            only.
        enable_fast_kmeans_mode: float32 weights with scalar entries are clustered by 65,536 bins, whose means are
            exact. Without it, by every single value: some 30 times slower, hardly better.
        rounding_precision: Without effect. coremltools rounds weights to so many decimals to be fast.

    Raises:
        ConfigError: For values that are unknown or contradict each other.

    Examples:
        >>> from corepress.torch.palettization import ModulePostTrainingPalettizerConfig
        >>> ModulePostTrainingPalettizerConfig(n_bits=3, granularity="per_grouped_channel", group_size=16).n_bits
        3
    """

    enable_fast_kmeans_mode: bool = value_of(True, "True or False", lambda v: isinstance(v, bool))
    rounding_precision: int = value_of(4, "an integer", whole)


@suggesting
@define
class PostTrainingPalettizerConfig(OptimizationConfig):
    """Which modules are palettized, and how.

    Args:
        global_config: A `ModulePostTrainingPalettizerConfig` for every module, or None; by default 4 bits.
        module_type_configs: The same by the class of the module, or its name.
        module_name_configs: The same by the module's name, or a regular expression that matches all of it.

    Raises:
        ConfigError: For names and values that are unknown.

    Examples:
        >>> from corepress.torch.palettization import PostTrainingPalettizerConfig
        >>> config = PostTrainingPalettizerConfig.from_dict({
        ...     "global_config": {"n_bits": 4},
        ...     "module_name_configs": {"head": {"n_bits": 8}, "embed.*": None},
        ... })
        >>> config.module_name_configs["head"].n_bits
        8
    """

    _module_config: ClassVar[type[ModuleOptimizationConfig]] = ModulePostTrainingPalettizerConfig
    _presets: ClassVar[Mapping[str, Mapping[str, Any]]] = PRESETS
    _global_by_default: ClassVar[bool] = True


class PostTrainingPalettizer(Palettizing, WeightByWeight):
    """Palettizes the weights of a trained model, without data.

    k-means with scalar entries is solved exactly; for float32 to the width of fine bins, unless
    `enable_fast_kmeans_mode` is off (`corepress.algorithms.kmeans1d`).

    Args:
        model: Of PyTorch; it stays as it is.
        config: Which modules, and how; by default all, to 4 bits.
        strict: An addition: make an error of a rule that decides nothing, where a warning would do.

    Examples:
        >>> from corepress.torch.palettization import PostTrainingPalettizer, PostTrainingPalettizerConfig
        >>> model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
        >>> config = PostTrainingPalettizerConfig.from_dict({"global_config": {"n_bits": 4}})
        >>> palettizer = PostTrainingPalettizer(model, config)
        >>> small = palettizer.compress()
        >>> len(small[0].weight.unique()), list(palettizer.report())
        (16, ['0.weight', '2.weight'])
    """

    def __init__(self, model: nn.Module, config: PostTrainingPalettizerConfig | None = None, *, strict: bool = False):
        super().__init__(model, PostTrainingPalettizerConfig() if config is None else config, strict=strict)

    def compress(  # type: ignore[override]  # the arguments are coremltools'
        self, num_kmeans_workers: int | None = None, inplace: bool = False
    ) -> nn.Module:
        """Palettize the model. A weight that can't be is left as it is, with a warning; `report().skipped` says why.

        Args:
            num_kmeans_workers: Threads; by default one for each core.
            inplace: Change the model itself instead of a copy.

        Returns:
            The palettized model, with the buffers by which `coremltools.convert` knows it.
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
