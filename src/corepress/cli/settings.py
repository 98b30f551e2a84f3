"""The options of palettizing, quantizing and pruning, and what they ask of a package or a neural network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from corepress.cli.declare import Option
from corepress.errors import ConfigError
from corepress.names import NETWORK_MODES

if TYPE_CHECKING:
    from corepress.coreml import (
        OpLinearQuantizerConfig,
        OpMagnitudePrunerConfig,
        OpPalettizerConfig,
        OpThresholdPrunerConfig,
    )

_HALF = 16
_OUTLIERS = Option(
    help="Part of each weight's values, the largest, that is kept apart as float16, such as 0.5%: a second product."
)


@dataclass(frozen=True)
class Palettization:
    """The options of `palettize`, but for those of all commands."""

    nbits: Annotated[int | None, Option(help="Bits of an index: 1, 2, 3, 4, 6 or 8. [default: 4]")] = None
    mode: Annotated[
        Literal["kmeans", "uniform", "unique"],
        Option(help="How the entries of the look-up table (LUT) are found; unique keeps all values as they are."),
    ] = "kmeans"
    granularity: Annotated[
        Literal["per_tensor", "per_grouped_channel"],
        Option(help="What shares a look-up table: the whole weight, or each group of channels."),
    ] = "per_tensor"
    group_size: Annotated[int, Option(min=1, help="Number of channels in a group.")] = 32
    channel_axis: Annotated[
        int | None, Option(help="Axis along which channels are grouped. [default: by operation]")
    ] = None
    cluster_dim: Annotated[
        int, Option(min=1, help="Number of channels that share an index: entries are vectors of this length.")
    ] = 1
    per_channel_scale: Annotated[bool, Option(help="Scale each output channel before its values are clustered.")] = (
        False
    )
    lut_dtype: Annotated[
        Literal["int8", "uint8", "fp8_e4m3fn", "fp8_e5m2"] | None,
        Option(help="Store the entries of the look-up table in this type; fp8 is for Core AI models (.aimodel)."),
    ] = None
    smaller_group: Annotated[
        bool,
        Option(help="Use smaller groups where the size does not divide the channels, or leave those weights alone."),
    ] = True
    outliers: Annotated[str | None, _OUTLIERS] = None

    def config(self, weight_threshold: int) -> OpPalettizerConfig:
        """What is asked of a package."""
        from corepress.coreml import OpPalettizerConfig
        from corepress.coreml.op_configs import WITH_NBITS

        return OpPalettizerConfig(
            mode=self.mode, nbits=4 if self.nbits is None and self.mode in WITH_NBITS else self.nbits,
            granularity=self.granularity, group_size=self.group_size, channel_axis=self.channel_axis,
            cluster_dim=self.cluster_dim, enable_per_channel_scale=self.per_channel_scale,
            weight_threshold=weight_threshold, lut_dtype=self.lut_dtype,
            smaller_group=self.smaller_group and self.granularity == "per_grouped_channel",
            outlier_fraction=_part(self.outliers),
        )  # fmt: skip

    def of_network(self) -> tuple[int, str]:
        """What is asked of a neural network: the number of bits and the mode."""
        return self.nbits or 4, NETWORK_MODES[self.mode]


@dataclass(frozen=True)
class Quantization:
    """The options of `quantize`, but for those of all commands."""

    dtype: Annotated[
        Literal["int8", "uint8", "int4", "uint4", "float16", "int2", "uint2", "fp8_e4m3fn", "fp8_e5m2", "fp4_e2m1fn"],
        Option(
            help="Type of the stored numbers; float16 is for neural networks only, those of 2 bits and those of "
            "floating point (fp) for Core AI models (.aimodel)."
        ),
    ] = "int8"
    mode: Annotated[
        Literal["linear_symmetric", "linear"],
        Option(help="Whether the range is symmetric around zero, or goes from the minimum to the maximum."),
    ] = "linear_symmetric"
    granularity: Annotated[
        Literal["per_tensor", "per_channel", "per_block"],
        Option(help="What shares a scale: the whole weight, each channel, or each block of input channels."),
    ] = "per_channel"
    block_size: Annotated[int, Option(min=1, help="Number of input channels in a block.")] = 32
    scale_search: Annotated[bool, Option(help="Search scales that change outputs less.")] = False
    smaller_block: Annotated[
        bool,
        Option(help="Use smaller blocks where the size does not divide the channels, or leave those weights alone."),
    ] = True
    float_zero_point: Annotated[
        bool,
        Option(help="Zero points with a fraction, without data by half-quadratic quantization (HQQ); needs iOS18."),
    ] = False
    scale_dtype: Annotated[
        Literal["fp8_e8m0fnu"] | None,
        Option(
            help="Scales that are powers of two, for int8 and fp numbers in Core AI models; with blocks of 32 the MX "
            "formats."
        ),
    ] = None
    outliers: Annotated[str | None, _OUTLIERS] = None

    def config(self, weight_threshold: int) -> OpLinearQuantizerConfig:
        """What is asked of a package."""
        from corepress.coreml import OpLinearQuantizerConfig

        dtype: Any = self.dtype  # float16 is refused before
        return OpLinearQuantizerConfig(
            mode=self.mode, dtype=dtype, granularity=self.granularity, block_size=self.block_size,
            weight_threshold=weight_threshold, scale_search=self.scale_search,
            smaller_block=self.smaller_block and self.granularity == "per_block",
            float_zero_point=self.float_zero_point, scale_dtype=self.scale_dtype, outlier_fraction=_part(self.outliers),
        )  # fmt: skip

    def of_network(self) -> tuple[int, str]:
        """What is asked of a neural network: the number of bits and the mode."""
        return _HALF if self.dtype == "float16" else 4 if self.dtype.endswith("4") else 8, self.mode


@dataclass(frozen=True)
class Pruning:
    """The options of `prune`, but for those of all commands."""

    sparsity: Annotated[
        float | None,
        Option(min=0, max=1, help="Part of the values to set to zero."),
    ] = None
    threshold: Annotated[float | None, Option(min=0, help="Set values up to this magnitude to zero.")] = None
    minimum_sparsity: Annotated[
        float,
        Option(
            min=0, max=1,
            help="With --threshold: leave weights dense of which less than this part would be zero.",
        ),
    ] = 0.5  # fmt: skip
    n_m: Annotated[str | None, Option(help="N:M: set the N smallest of every M values to zero.")] = None
    block_size: Annotated[int | None, Option(min=2, help="Set whole runs of this many channels to zero.")] = None
    dim: Annotated[int | None, Option(min=0, max=1, help="Axis of --n-m and --block-size: 0 or 1.")] = None

    def config(self, weight_threshold: int) -> OpMagnitudePrunerConfig | OpThresholdPrunerConfig:
        """What is asked of a package."""
        from corepress.coreml import OpMagnitudePrunerConfig, OpThresholdPrunerConfig

        if sum(given is not None for given in (self.sparsity, self.threshold, self.n_m)) != 1:
            raise ConfigError("prune needs exactly one of --sparsity, --threshold and --n-m (or --config)")
        if self.threshold is not None:
            return OpThresholdPrunerConfig(self.threshold, self.minimum_sparsity, weight_threshold)
        ratio = None if self.n_m is None else _ratio(self.n_m)
        return OpMagnitudePrunerConfig(self.sparsity, self.block_size, ratio, self.dim, weight_threshold)


def _part(text: str | None) -> float:
    """A part of a whole: 0.005, or 0.5%."""
    given = (text or "0").strip()
    try:
        return float(given.removesuffix("%")) / (100 if given.endswith("%") else 1)
    except ValueError as error:
        raise ConfigError(f"--outliers: {text!r} is no part of a whole, such as 0.5% or 0.005") from error


def _ratio(text: str) -> tuple[int, int]:
    try:
        n, m = (int(part) for part in text.split(":"))
    except ValueError as error:
        raise ConfigError(f"--n-m: {text!r} is not of the form N:M, such as 2:4") from error
    if not 0 < n <= m:
        raise ConfigError(f"--n-m {text}: of every M values N become zero, with N from 1 to M, such as 2:4")
    return n, m
