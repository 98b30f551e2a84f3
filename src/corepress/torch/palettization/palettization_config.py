"""The configuration of `DKMPalettizer`: names and defaults are those of coremltools."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import attrs
import torch
from attrs import define, field
from torch import nn

from corepress.configuration import Rule, check_level, copied
from corepress.errors import ConfigError
from corepress.fields import (
    flag,
    fraction,
    integer,
    member,
    must_be,
    optional_integer,
    real,
    suggesting,
    value_of,
    weight_threshold,
    whole,
)
from corepress.torch.dtypes import torch_type
from corepress.torch.optimization_config import (
    ModuleOptimizationConfig,
    OptimizationConfig,
    PalettizationGranularity,
    PalettizationGranularityWord,
    own_config,
    types_of,
)
from corepress.torch.palettization.cluster import check_palettization

__all__ = ["DKMPalettizerConfig", "ModuleDKMPalettizerConfig"]

log = logging.getLogger(__name__)

_LUT_TYPES = {
    "f32": None, "float32": None, "f16": torch.float16, "float16": torch.float16, "bf16": torch.bfloat16,
    "b16": torch.bfloat16, "i8": torch.int8, "int8": torch.int8, "u8": torch.uint8, "uint8": torch.uint8,
}  # fmt: skip
_BITS = {nn.Linear: 4}  # of other modules: 2
_KINDS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.MultiheadAttention, nn.Embedding)


def _word(default: str, *others: str) -> Any:
    allowed = (default, *others)
    return value_of(default, f"one of {', '.join(allowed)}", lambda v: v in allowed)


def _positive(default: float) -> Any:
    return real(default, "a positive number", lambda v: v > 0)


def _not_negative(default: float) -> Any:
    return real(default, "a number that is not negative", lambda v: v >= 0)


@suggesting
@define
class ModuleDKMPalettizerConfig(ModuleOptimizationConfig):
    """How the weights of a module are palettized while they are trained.

    Without effect, as the memory and the search that they are about are not needed: palett_max_mem, palett_min_tsize,
    palett_unique, palett_shard, palett_batch_mode, palett_dist, kmeans_init, kmeans_opt1d_threshold, kmeans_n_init,
    kmeans_batch_threshold, kmeans_error_bnd; and palett_lambda and add_extra_centroid, which coremltools does not use
    either. Deprecated: partition_size, without effect; cluster_dtype, of which "oc_last" sets `cluster_permute`.

    Args:
        n_bits: Of an index: 1, 2, 3, 4, 6 or 8; None: 4 for linear layers, 2 for others.
        weight_threshold: Only weights of more elements are palettized.
        granularity: "per_tensor", or "per_grouped_channel" with a table for each `group_size` output channels.
        group_size: How many output channels share a table.
        channel_axis: 0, the output channels.
        enable_per_channel_scale: Output channels are divided by a scale first, which is found once and stored.
        per_channel_scaling_factor_scheme: That scale: "min_max", half the channel's range, or "abs", its greatest
            magnitude.
        milestone: The calls of `step` after which palettization begins.
        cluster_dim: Entries are vectors of that many neighbouring channels. None: 1.
        lut_dtype: Of the entries: "f32", "f16", "bf16", "i8" or "u8".
        quantize_activations: Outputs of the module are rounded while it is trained.
        dtype: To which type: qint8 or quint8.
        quant_min: From which integer.
        quant_max: To which integer.
        palett_mode: "dkm", soft attention; "gsm", with Gumbel noise; "hard", the nearest entry.
        palett_tau: The temperature of the attention.
        zero_threshold: The least value of the temperature.
        kmeans_max_iter: Iterations, at most.
        palett_epsilon: The change of the error at which they end.
        prune_threshold: How much nearer, in squared distance, the entry nearest to zero is taken to be.
        enforce_zero: That entry is zero.
        palett_cluster_tol: The share of entries that may be equal before they are moved apart.
        percentage_palett_enable: The share of groups that learn; others keep the tables that they begin with.
        cluster_permute: Its first member is the axis of groups and vectors, in place of the output channels.

    Raises:
        ConfigError: For values that are unknown or contradict each other.

    Examples:
        >>> from corepress.torch.palettization import ModuleDKMPalettizerConfig
        >>> ModuleDKMPalettizerConfig(n_bits=2, lut_dtype="f16", milestone=100).milestone
        100
    """

    n_bits: int | None = field(default=None)
    weight_threshold: int = weight_threshold()
    granularity: PalettizationGranularityWord = member(PalettizationGranularity, "per_tensor")
    group_size: int | None = optional_integer(None, 1)
    channel_axis: int = value_of(0, "0", lambda v: whole(v) and v == 0)
    enable_per_channel_scale: bool = flag()
    milestone: int = integer(0, 0)
    cluster_dim: int | None = optional_integer(None, 1)
    quant_min: int = value_of(-128, "an integer", whole)
    quant_max: int = value_of(127, "an integer", whole)
    dtype: torch.dtype = field(
        default=torch.qint8,
        converter=torch_type,
        validator=must_be("qint8, quint8 or float32", lambda v: v in (torch.qint8, torch.quint8, torch.float32)),
    )
    lut_dtype: str = _word(*_LUT_TYPES)
    quantize_activations: bool = flag()
    cluster_permute: tuple[int, ...] | None = value_of(
        None, "an order of axes, or None", lambda v: v is None or sorted(v) == list(range(len(v)))
    )
    palett_max_mem: float = _not_negative(1.0)
    kmeans_max_iter: int = integer(3, 1)
    prune_threshold: float = _not_negative(1e-7)
    kmeans_init: str = value_of("auto", "a word", lambda v: isinstance(v, str))
    kmeans_opt1d_threshold: int = integer(1024, 0)
    enforce_zero: bool = flag()
    palett_mode: Literal["dkm", "gsm", "hard"] = _word("dkm", "gsm", "hard")
    palett_tau: float = _positive(0.0001)
    palett_epsilon: float = _not_negative(0.0001)
    palett_lambda: float = _not_negative(0.0)
    add_extra_centroid: bool = flag()
    palett_cluster_tol: float = fraction(0.0)
    palett_min_tsize: int = integer(64 * 1024, 0)
    palett_unique: bool = flag()
    palett_shard: bool = flag()
    palett_batch_mode: bool = flag()
    palett_dist: bool = flag()
    per_channel_scaling_factor_scheme: Literal["min_max", "abs"] = _word("min_max", "abs")
    percentage_palett_enable: float = fraction(1.0)
    kmeans_batch_threshold: int = integer(4, 0)
    kmeans_n_init: int = integer(10, 1)
    zero_threshold: float = _positive(1e-7)
    kmeans_error_bnd: float = _not_negative(0.0)
    partition_size: int | None = field(default=None)
    cluster_dtype: str | None = field(default=None)

    def __attrs_post_init__(self) -> None:
        check_palettization(self)
        for name, instead in (("partition_size", "group_size"), ("cluster_dtype", "lut_dtype")):
            if getattr(self, name) is not None:
                log.warning("%s is deprecated: use %s", name, instead)

    @property
    def lut_type(self) -> torch.dtype | None:
        """The type of the entries; None: the weight's own."""
        return _LUT_TYPES[self.lut_dtype]

    def completed(self, module: nn.Module) -> ModuleDKMPalettizerConfig:
        """The same with the number of bits and of dimensions that a module has by default."""
        bits = next((bits for kind, bits in _BITS.items() if isinstance(module, kind)), 2)
        return attrs.evolve(self, n_bits=self.n_bits or bits, cluster_dim=self.cluster_dim or 1)


def _by_default() -> dict[Any, ModuleDKMPalettizerConfig]:
    return {kind: ModuleDKMPalettizerConfig() for kind in _KINDS}


def _own(value: Any) -> Any:
    """Of coremltools' as ours: a configuration, several in the order of their thresholds, or a dictionary of these."""
    if isinstance(value, dict):
        return {key: _own(each) for key, each in value.items()}
    own = own_config(value)
    known = isinstance(own, list) and all(isinstance(each, ModuleDKMPalettizerConfig) for each in own)
    return sorted(own, key=lambda each: each.weight_threshold or 0) if known else own


def _own_dict(entries: Any) -> Any:
    return copied(entries, _own)


def _by_type(entries: Any) -> Any:
    return types_of(_own_dict(entries))


@suggesting
@define
class DKMPalettizerConfig(OptimizationConfig):
    """Which modules are palettized, and how.

    In place of one configuration there may be a list, for weights of different sizes: the greatest `weight_threshold`
    that a weight exceeds decides.

    Args:
        global_config: A `ModuleDKMPalettizerConfig` for every module, a list of them, or None; by default 4 bits for
            linear layers and 2 for others.
        module_type_configs: The same by the class of the module, or its name.
        module_name_configs: The same by the module's name, or a regular expression that matches all of it.

    Raises:
        ConfigError: For names and values that are unknown.

    Examples:
        >>> from corepress.torch.palettization import DKMPalettizerConfig
        >>> large = {"n_bits": 2, "weight_threshold": 10_000}
        >>> small = {"n_bits": 4, "weight_threshold": 1_000}
        >>> config = DKMPalettizerConfig.from_dict({"global_config": [large, small]})
        >>> [held.n_bits for held in config.global_config]
        [4, 2]
    """

    _module_config: ClassVar[type[ModuleOptimizationConfig]] = ModuleDKMPalettizerConfig

    global_config: Any = field(default=None, converter=_own, validator=check_level)
    module_type_configs: dict[Any, Any] = field(factory=dict, converter=_by_type, validator=check_level)
    module_name_configs: dict[str, Any] = field(factory=dict, converter=_own_dict, validator=check_level)

    def __attrs_post_init__(self) -> None:
        if not (self.global_config or self.module_type_configs or self.module_name_configs):
            self.module_type_configs = _by_default()

    def _check(self, level: str, key: Any, config: Any) -> None:
        for each in config if isinstance(config, list) else [config]:
            if each is not None and not isinstance(each, ModuleDKMPalettizerConfig):
                raise ConfigError(
                    f"{level} {key!r} of a DKMPalettizerConfig must be a ModuleDKMPalettizerConfig, a list of some, or "
                    f"None, not {each!r}"
                )

    def rules(self) -> list[Rule]:
        """Every entry for a name or a type; none of the default's, which nobody has written."""
        is_default = not self.module_name_configs and self.module_type_configs == _by_default()
        return [] if is_default else super().rules()

    def set_global(self, global_config: Any) -> DKMPalettizerConfig:
        """Set the configuration, or configurations by size, for every module that has none of its own."""
        self.global_config = global_config
        return self

    def set_module_type(self, object_type: Any, opt_config: Any) -> DKMPalettizerConfig:
        """Set the configuration, or configurations by size, for all modules of a class."""
        self.module_type_configs = self.module_type_configs | {object_type: opt_config}
        return self

    def set_module_name(self, module_name: str, opt_config: Any) -> DKMPalettizerConfig:
        """Set the configuration, or configurations by size, for the modules whose name matches."""
        self.module_name_configs = self.module_name_configs | {module_name: opt_config}
        return self

    def configs(self) -> Iterator[Any]:
        """Every configuration that is set."""
        for config in super().configs():
            yield from config if isinstance(config, list) else [config]

    @classmethod
    def _read(cls, value: Any, rule: Rule) -> Any:
        if isinstance(value, list):
            return [cls._read(each, rule) for each in value]
        return super()._read(value, rule)

    def choose(self, name: str, module: nn.Module, sizes: list[int]) -> ModuleDKMPalettizerConfig | None:
        """The configuration for a module whose weights have so many elements: all must exceed its threshold."""
        found = self.get_module_config(name, module)
        for config in reversed(found if isinstance(found, list) else [found]):
            if config is not None and min(sizes) > (config.weight_threshold or 0):
                chosen: ModuleDKMPalettizerConfig = config.completed(module)
                return chosen
        return None


def __dir__() -> list[str]:
    return __all__
