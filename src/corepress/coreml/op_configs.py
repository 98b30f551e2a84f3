"""How a weight is compressed: one configuration class for each kind of compression.

Names, defaults and allowed values are those of coremltools 9.0. The fields after `weight_threshold` are
additions, and their defaults change nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar, get_args

from attrs import define, field

from corepress import fields
from corepress.coreml.granularity import CompressionGranularity, WeightDtype, dtype_of, granularity_of, scale_dtype_of
from corepress.errors import ConfigError

_MAX_RANK = 5  # of a tensor in Core ML

C = TypeVar("C", bound="OpCompressorConfig")
# Words in any case are taken, and kept in capitals.
LinearMode = Literal["linear_symmetric", "linear", "LINEAR_SYMMETRIC", "LINEAR"]
LutDtype = Literal["int8", "uint8", "fp8_e4m3fn", "fp8_e5m2"]
PaletteMode = Literal["kmeans", "uniform", "unique", "custom", "KMEANS", "UNIFORM", "UNIQUE", "CUSTOM"]
# The modes of palettization that are told how many entries a table has; any other finds the number itself.
WITH_NBITS = ("kmeans", "uniform")


def _outlier_fraction() -> Any:
    return fields.real(0.0, "a number from 0 to below 0.5", lambda v: 0 <= v < 0.5)


def _of_outliers(fraction: float) -> list[str]:
    """What a target needs to hold them."""
    return ["pruning"] if fraction else []


@define
class OpCompressorConfig:
    """What the configurations of all kinds of compression have in common."""

    def features(self) -> list[str]:
        """What of `corepress.targets` the result is bound to need, as far as the configuration tells."""
        return []

    def accepts_input(self, op_type: str, input_name: str | None = None) -> bool:
        """Whether this configuration can serve that input of an operation (None: any of its inputs)."""
        return True

    def _validate_op_type(self, op_type: str) -> None:
        if not self.accepts_input(op_type):
            raise ConfigError(
                f"block sparsity or n:m pruning does not support op type {op_type}: it serves the weights of "
                "conv and linear only. Use target_sparsity without block_size there."
            )

    @classmethod
    def _from_dict(cls: type[C], config_dict: Mapping[str, Any]) -> C:
        config: C = fields.structure(config_dict, cls)
        return config


@fields.suggesting
@define
class OpLinearQuantizerConfig(OpCompressorConfig):
    """Linear quantization: `weight = scale * (data - offset)`.

    Args:
        mode: "linear_symmetric" (default; the range is [-R, R]) or "linear" (from minimum to maximum).
        dtype: int8 (default), uint8, int4 or uint4; a string, or a type of NumPy, ml_dtypes or coremltools. In Core AI
            models (`.aimodel`) also int2, uint2, and floating point of 8 and 4 bits: fp8_e4m3fn, fp8_e5m2, fp4_e2m1fn.
        granularity: "per_tensor", "per_channel" (default) or "per_block".
        block_size: With "per_block" only: the elements of a block along the input axis (an integer), or the block's
            size on every axis of the weight (a tuple); 0 stands for the whole axis.
        weight_threshold: Only weights of more elements than this are quantized; None for all.
        scale_search: An addition: instead of the scale of the range take one with which a layer's outputs change
            less, as far as that can be told without data.
        smaller_block: An addition: where a block size does not divide its axis, use the largest divisor below it
            instead of leaving the weight alone.
        float_zero_point: An addition, with mode "linear": zero points with a fraction, as half-quadratic quantization
            (HQQ) finds them without data, and GPTQ by the range; since iOS18. They take the bits of a scale.
        scale_dtype: An addition: None (as the weight), or "fp8_e8m0fnu": scales that are powers of two and take 8 bits
            each, for int8 and floating point in Core AI models. With blocks of 32 these are the OCP's microscaling
            formats MXFP4, MXFP8 and MXINT8.
        outlier_fraction: An addition: the part of the values, the largest, that is kept apart as they are, such as
            0.005; a second product adds what they give. They cost their own bits, and one bit for each element.

    Raises:
        ConfigError: For values that are unknown or contradict each other.

    Examples:
        >>> from corepress.coreml import OpLinearQuantizerConfig, OptimizationConfig
        >>> options = OpLinearQuantizerConfig(dtype="int4", granularity="per_block", block_size=32, scale_search=True)
        >>> small = cto.coreml.linear_quantize_weights("model.mlpackage", OptimizationConfig(options))
        >>> small.size() < cto.load("model.mlpackage").size() / 3
        True
    """

    mode: LinearMode = fields.choice(
        "LINEAR_SYMMETRIC",
        "LINEAR",
        message='Only mode {allowed} supported for weight affine quantization. Got mode: "{value}".',
    )
    dtype: WeightDtype = field(default=WeightDtype.INT8, converter=dtype_of)
    granularity: CompressionGranularity = field(
        default=CompressionGranularity.PER_CHANNEL,
        converter=granularity_of,
        validator=fields.one_of(
            CompressionGranularity.PER_TENSOR,
            CompressionGranularity.PER_CHANNEL,
            CompressionGranularity.PER_BLOCK,
        ),
    )
    block_size: int | tuple[int, ...] | None = fields.value_of(
        32,
        "an integer >= 0 or a tuple of them",
        lambda v: v is None or all(fields.whole(size, 0) for size in (v if isinstance(v, tuple) else [v])),
    )
    weight_threshold: int | None = fields.weight_threshold()
    scale_search: bool = fields.flag()
    smaller_block: bool = fields.flag()
    float_zero_point: bool = fields.flag()
    scale_dtype: str | None = field(default=None, converter=scale_dtype_of)
    outlier_fraction: float = _outlier_fraction()

    def __attrs_post_init__(self) -> None:
        if self.float_zero_point and self.mode != "LINEAR":
            raise ConfigError('float_zero_point=True needs mode="linear": symmetric ranges have no zero point.')
        if self.float_zero_point and self.scale_search:
            raise ConfigError("float_zero_point=True keeps the scale of the range: give it or scale_search=True.")
        if self.dtype.floating and (self.mode == "LINEAR" or self.scale_search):
            given = 'mode="linear"' if self.mode == "LINEAR" else "scale_search=True"
            raise ConfigError(f"dtype {self.dtype} is floating point, which has no {given}: leave that out.")
        if self.scale_dtype and not (self.dtype.floating or self.dtype is WeightDtype.INT8):
            raise ConfigError(f"scale_dtype {self.scale_dtype} is for int8 and floating point, not for {self.dtype}.")
        if self.scale_dtype and (self.mode == "LINEAR" or self.scale_search):
            given = 'mode="linear"' if self.mode == "LINEAR" else "scale_search=True"
            raise ConfigError(f"scale_dtype {self.scale_dtype} is symmetric and always searched: leave {given} out.")
        if self.granularity is CompressionGranularity.PER_BLOCK and self.block_size is None:
            raise ConfigError('"block_size" must be set with granularity="per_block". Got None.')
        blocks = self.granularity is CompressionGranularity.PER_BLOCK
        fields.warn_of_idle(
            self, [(name, blocks, 'granularity="per_block"') for name in ("block_size", "smaller_block")]
        )

    @property
    def nbits(self) -> int:
        return self.dtype.nbits

    @property
    def signed(self) -> bool:
        return self.dtype.signed

    def features(self) -> list[str]:
        numbers = str(self.dtype) if self.dtype.floating else f"{self.nbits}-bit"
        found = [f"{self.granularity.name.lower()} quantization", f"{numbers} quantization"]
        scale = ["E8M0-scale quantization"] if self.scale_dtype else []
        offset = ["float-offset quantization"] if self.float_zero_point else []
        return [*scale, *offset, *_of_outliers(self.outlier_fraction), *found]


@fields.suggesting
@define
class OpActivationLinearQuantizerConfig(OpLinearQuantizerConfig):
    """How the activations of an operation are quantized. Every activation has one scale.

    Args:
        mode: "linear_symmetric" or "linear", as for weights.
        dtype: int8 or uint8.
        granularity: Without meaning here, as are the other fields of `OpLinearQuantizerConfig`.
        block_size: Without meaning here.
        weight_threshold: Without meaning here.
        scale_search: Without meaning here.
        smaller_block: Without meaning here.
        float_zero_point: Without meaning here.
        scale_dtype: Without meaning here.
        outlier_fraction: Without meaning here.

    Examples:
        >>> from corepress.coreml.experimental import OpActivationLinearQuantizerConfig
        >>> OpActivationLinearQuantizerConfig(mode="linear", dtype="uint8").dtype.name
        'UINT8'
    """


@fields.suggesting
@define
class OpThresholdPrunerConfig(OpCompressorConfig):
    """Set every value of small magnitude to zero, and store what is left as sparse.

    Args:
        threshold: At least 0: values of magnitude up to this become zero.
        minimum_sparsity_percentile: From 0 to 1; a weight with a smaller part of zeros than this stays dense.
        weight_threshold: Only weights of more elements than this are pruned; None for all.

    Raises:
        ConfigError: For values that are out of range.

    Examples:
        >>> from corepress.coreml import OpThresholdPrunerConfig, OptimizationConfig
        >>> config = OptimizationConfig(OpThresholdPrunerConfig(threshold=0.03, minimum_sparsity_percentile=0.3))
        >>> sparse = cto.coreml.prune_weights("model.mlpackage", config)
        >>> sparse.size() < cto.load("model.mlpackage").size()
        True
    """

    threshold: float = fields.real(1e-12, "a finite number >= 0", lambda v: v >= 0)
    minimum_sparsity_percentile: float = fields.fraction(0.5)
    weight_threshold: int | None = fields.weight_threshold()

    def features(self) -> list[str]:
        return ["pruning"]


def _is_ratio(value: Any) -> bool:
    whole = isinstance(value, tuple) and len(value) == 2 and all(fields.whole(x, 0) for x in value)
    return whole and value[0] <= value[1] and value[1] > 0


@fields.suggesting
@define
class OpMagnitudePrunerConfig(OpCompressorConfig):
    """Set the values of least magnitude to zero; give either `target_sparsity` or `n_m_ratio`.

    `block_size` and `n_m_ratio` serve the weights of conv and linear only.

    Args:
        target_sparsity: From 0 to 1, the part of the weight that becomes zero.
        block_size: Above 1, with `target_sparsity`: zero whole runs of so many values along `dim`.
        n_m_ratio: (n, m) with n <= m: zero the n smallest of every m values along `dim`.
        dim: 0 (output channels, the default of `block_size`) or 1 (input channels, the default of `n_m_ratio`).
        weight_threshold: Only weights of more elements than this are pruned; None for all.

    Raises:
        ConfigError: For values that are unknown or contradict each other.

    Examples:
        >>> from corepress.coreml import OpMagnitudePrunerConfig, OptimizationConfig
        >>> config = OptimizationConfig(OpMagnitudePrunerConfig(n_m_ratio=(2, 4)))
        >>> sparse = cto.coreml.prune_weights("model.mlpackage", config)
        >>> weight = next(weight.dense() for weight in sparse.weights() if weight.name == "scores_weight_to_fp16")
        >>> int((weight[0, :4] == 0).sum())
        2
    """

    target_sparsity: float | None = fields.fraction(None)
    block_size: int | None = fields.value_of(None, "an integer > 1 or None", lambda v: v is None or fields.whole(v, 2))
    n_m_ratio: tuple[int, int] | None = fields.value_of(
        None,
        "a tuple of two integers (n, m), n <= m, m > 0",
        lambda v: v is None or _is_ratio(v),
    )
    dim: int | None = fields.value_of(None, "1 or 0", lambda v: v is None or (fields.whole(v, 0) and v <= 1))
    weight_threshold: int | None = fields.weight_threshold()

    def __attrs_post_init__(self) -> None:
        if self.n_m_ratio is not None and self.block_size is not None:
            raise ConfigError('"block_size" and "n_m_ratio" cannot be set at the same time.')
        if (self.target_sparsity is None) == (self.n_m_ratio is None):
            raise ConfigError(
                'Either "target_sparsity" or "n_m_ratio" need to be set. They cannot be set at the same time.'
            )
        if not self._is_structural_pruning():
            if self.dim is not None:
                raise ConfigError('"dim" can only be set along with "block_size" or "n_m_ratio".')
        elif self.dim is None:
            self.dim = 0 if self.n_m_ratio is None else 1

    def _is_structural_pruning(self) -> bool:
        return self.n_m_ratio is not None or self.block_size is not None

    def features(self) -> list[str]:
        return ["pruning"]

    def accepts_input(self, op_type: str, input_name: str | None = None) -> bool:
        weight = op_type in ("conv", "linear") and input_name in (None, "weight")
        return weight or not self._is_structural_pruning()


@fields.suggesting
@define
class OpPalettizerConfig(OpCompressorConfig):
    """Palettization: every value becomes an index into a look-up table (LUT) of 2**nbits entries.

    Args:
        mode: "kmeans" (default), "uniform" (entries at even steps), "unique" (the weight's own values, up to 256), or
            "custom" (by `lut_function`).
        nbits: 1, 2, 3, 4, 6 or 8; needed by kmeans and uniform, not allowed with other modes.
        lut_function: With "custom" only: called with the weight, gives back `(lut, indices)`.
        granularity: "per_tensor" (default) or "per_grouped_channel": one LUT for each `group_size` channels.
        group_size: At least 0, default 32; 0 for all channels.
        channel_axis: The axis of the groups; None takes it from the operation.
        cluster_dim: At least 1; above 1, each entry is a vector of so many neighbouring output channels.
        enable_per_channel_scale: Bring every output channel to one range before it is palettized.
        num_kmeans_workers: How many weights or groups to cluster at a time.
        weight_threshold: Only weights of more elements than this are palettized; None for all.
        lut_dtype: An addition: None (as the weight), "int8" or "uint8": quantize the entries of the LUT. In Core AI
            models also "fp8_e4m3fn" and "fp8_e5m2".
        smaller_group: An addition: where `group_size` does not divide the channels, use the largest divisor below it
            instead of leaving the weight alone.
        restarts: An addition: at least 1; vector k-means keeps the best of so many runs.
        outlier_fraction: An addition: as in `OpLinearQuantizerConfig`.

    Raises:
        ConfigError: For values that are unknown or contradict each other.

    Examples:
        >>> from corepress.coreml import OpPalettizerConfig, OptimizationConfig
        >>> options = OpPalettizerConfig(nbits=3, granularity="per_grouped_channel", group_size=16)
        >>> small = cto.coreml.palettize_weights("model.mlpackage", OptimizationConfig(options))
        >>> small.size() < cto.load("small.mlpackage").size()
        True
    """

    mode: PaletteMode = fields.choice(*filter(str.isupper, get_args(PaletteMode)))
    nbits: int | None = fields.value_of(
        None,
        "1, 2, 3, 4, 6 or 8",
        lambda v: v is None or (fields.whole(v) and v in (1, 2, 3, 4, 6, 8)),
        'Invalid value of "{name}" ({value!r}) for palettization: it must be {allowed}.',
    )
    lut_function: Callable[..., Any] | None = field(
        default=None, validator=fields.must_be("a function or None", lambda v: v is None or callable(v))
    )
    granularity: CompressionGranularity = field(
        default=CompressionGranularity.PER_TENSOR,
        converter=granularity_of,
        validator=fields.one_of(CompressionGranularity.PER_TENSOR, CompressionGranularity.PER_GROUPED_CHANNEL),
    )
    group_size: int = fields.integer(32, least=0)
    channel_axis: int | None = fields.value_of(
        None,
        "None or an axis of a tensor, -5 to 4",
        lambda v: v is None or (fields.whole(v, -_MAX_RANK) and v < _MAX_RANK),
    )
    cluster_dim: int = fields.integer(1, least=1)
    enable_per_channel_scale: bool = fields.flag()
    num_kmeans_workers: int = fields.value_of(1, "an integer", fields.whole)
    weight_threshold: int | None = fields.weight_threshold()
    lut_dtype: LutDtype | None = fields.value_of(
        None,
        'None, "int8" or "uint8", or "fp8_e4m3fn" or "fp8_e5m2" for Core AI models',
        lambda v: v is None or v in get_args(LutDtype),
    )
    smaller_group: bool = fields.flag()
    restarts: int = fields.integer(4, least=1)
    outlier_fraction: float = _outlier_fraction()

    def __attrs_post_init__(self) -> None:
        mode = self.mode.lower()
        for name, value, needed in [
            ("nbits", self.nbits, mode in WITH_NBITS),
            ("lut_function", self.lut_function, mode == "custom"),
        ]:
            if (value is not None) != needed:
                raise ConfigError(f'"{name}" must {"" if needed else "not "}be given with mode "{mode}".')
        grouped = self.granularity is CompressionGranularity.PER_GROUPED_CHANNEL
        of_groups = ("group_size", "channel_axis", "smaller_group")
        fields.warn_of_idle(
            self,
            [
                *((name, grouped, 'granularity="per_grouped_channel"') for name in of_groups),
                ("cluster_dim", mode != "uniform", 'another mode than "uniform", which has no tables of vectors'),
                ("restarts", self.cluster_dim > 1, "a cluster_dim above 1"),
            ],
        )

    def features(self) -> list[str]:
        names = {
            self.granularity.name.lower(): True,
            "vector": self.cluster_dim > 1,
            "per_channel_scale": self.enable_per_channel_scale,
            f"{self.lut_dtype}-LUT": self.lut_dtype is not None,
            f"{self.nbits}-bit": self.nbits is not None,
        }
        found = [f"{name} palettization" for name, needed in names.items() if needed]
        return [*found, *_of_outliers(self.outlier_fraction)]
