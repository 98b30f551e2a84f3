"""`palettize_weights`: weights become indices into look-up tables (LUT)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from corepress.coreml.action import Action, Evidence, worth_it
from corepress.coreml.axes import channel_axes, conv_groups
from corepress.coreml.config import OptimizationConfig
from corepress.coreml.granularity import CompressionGranularity
from corepress.coreml.interop import takes_any_model
from corepress.coreml.method import Method
from corepress.coreml.op_configs import OpPalettizerConfig
from corepress.coreml.prepare import largest_divisor
from corepress.engine import Progress, Skip
from corepress.errors import ConfigError
from corepress.formats.mlprogram import Model, Weight
from corepress.targets import by_opset
from corepress.weights import CompressedWeight, Palettized, Quantized, Sparse

if TYPE_CHECKING:
    from corepress.algorithms.fitted.statistics import Sensitivity, Statistics

Array = NDArray[Any]

# Of LUT-GPTQ. Samples are few as a rule, and what is fitted to every direction of theirs does not carry to others;
# more rounds gain nothing on others, either.
_DAMPENING = 0.1
_ROUNDS = 4


@takes_any_model
def palettize_weights(
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
    """Replace each chosen weight by indices of 1, 2, 3, 4, 6 or 8 bits into one or more look-up tables.

    Weights that can't be palettized as asked are left as they are, with a warning; `corepress.report` lists them.
    k-means with scalar entries is solved exactly (Lagrangian search over shortest paths with Monge costs: Aggarwal,
    Schieber and Tokuyama 1994; see `corepress.algorithms.kmeans1d`).

    Args:
        mlmodel: A path, a `corepress.Model` or an `MLModel` of coremltools.
        config: What to palettize and how, with `OpPalettizerConfig`s.
        joint_compression: Palettize also the non-zero values of sparse weights and the integers of quantized ones.
        target: Raise the model to this deployment target first, such as "iOS18".
        workers: Threads; by default one for each core.
        progress: Called after each weight with the number done, of all, and a name.
        strict: Make an error of a rule in `config` that changes nothing, and of a call that compresses no weight
            (Missed), where a warning would do.
        spare_constants: Leave alone what no product, look-up or recurrence reads, such as anchors and added positions:
            True does so, False does not, None does not but warns. What `op_name_configs` names exactly is never spared.

    Returns:
        The result, of the same kind as the model (for a path: a `Model`).

    Raises:
        ConfigError: For a configuration that the target can't hold.

    Examples:
        >>> config = cto.coreml.OptimizationConfig(cto.coreml.OpPalettizerConfig(nbits=4))
        >>> small = cto.coreml.palettize_weights("model.mlpackage", config)
        >>> small.save("four_bits.mlpackage").size() < cto.load("model.mlpackage").size() / 3
        True
    """
    plan = METHOD.plan(mlmodel, config, joint_compression, None, target, strict, spare_constants)
    return plan.run(workers, progress)


@dataclass(frozen=True)
class Palettize(Action):
    """k-means, even steps, all distinct values, or the caller's table; without data.

    `groups`: of the convolution that reads the weight; `allowed_bits`: of the target. `importance`: of the weight's
    shape, weighs the squared errors.
    """

    verb = "palettized"
    joint_forms = ("sparse", "quantized")

    config: OpPalettizerConfig
    channel_axis: int
    groups: int
    allowed_bits: tuple[int, ...]
    importance: Array | None = field(default=None, compare=False)

    @classmethod
    def on(cls, weight: Weight, config: OpPalettizerConfig, named: bool) -> Palettize:
        _, channel_axis = channel_axes(weight)
        bits = by_opset(weight.node.function.opset).palettized_bits
        return cls(config, channel_axis, conv_groups(weight) if config.cluster_dim > 1 else 1, bits)

    def compress(self, value: Array | CompressedWeight) -> CompressedWeight | None:
        if isinstance(value, np.ndarray):
            return worth_it(self._dense(value, None), value, self.adapted(value.shape))
        if isinstance(value, Sparse) and not value.mask.any():
            raise Skip("all its values are zero", quiet=True)
        if isinstance(value, Sparse) and isinstance(value.values, np.ndarray):
            return Sparse(*self._sparse(value.mask, value.values))
        if isinstance(value, Quantized) and isinstance(value.data, np.ndarray):
            return self._quantized(value, value.data)
        return None

    def _sparse(self, mask: NDArray[np.bool_], values: Array) -> tuple[NDArray[np.bool_], Palettized | Quantized]:
        dim = self.config.cluster_dim
        if dim > 1:
            # A vector is kept or left out whole.
            axis = self.axis(values.ndim)
            self._check_vectors(values.shape, axis)
            mask = np.repeat(np.logical_or.reduceat(mask, range(0, mask.shape[axis], dim), axis), dim, axis)
            values = np.where(mask, values, values.dtype.type(0))
        return mask, self._dense(values, mask)

    def _quantized(self, value: Quantized, data: Array) -> CompressedWeight:
        """The integers palettized; each LUT takes up the scale and offset of what it serves."""
        from corepress.algorithms.lut import scale_into_lut

        form = scale_into_lut(Quantized(self._clustered(data, None, None), value.scale, value.offset, value.bits))
        if form.nbytes >= value.nbytes:
            raise Skip("it has so many scales that a look-up table for each would take more bytes than it saves")
        return form

    def _dense(self, values: Array, mask: NDArray[np.bool_] | None) -> Palettized | Quantized:
        from corepress.algorithms.lut import quantize_lut, scale_into_lut

        lut_dtype: Any = self.config.lut_dtype
        form: Palettized | Quantized
        if self.config.enable_per_channel_scale:
            form = scale_into_lut(self._scaled(values, mask))
            if form.nbytes >= values.nbytes:
                raise Skip("it has so many channels that a look-up table for each would take more bytes than it saves")
        else:
            form = self._clustered(values, mask, None)
        if lut_dtype is None or not isinstance(form, Palettized):
            return form
        return quantize_lut(form, values, lut_dtype, mask=mask)

    def _scaled(self, values: Array, mask: NDArray[np.bool_] | None) -> Quantized:
        """Palettized after each output channel was brought to the range -1..1, with the scale that undoes it."""
        from corepress.algorithms.palettize import normalize_channels

        normalized, scale, importance = normalize_channels(values, self.channel_axis)
        return Quantized(self._clustered(normalized, mask, importance), scale)

    def _clustered(self, values: Array, mask: NDArray[np.bool_] | None, importance: Array | None) -> Palettized:
        from corepress.algorithms.palettize import palettize

        config = self.config
        mode: Any = config.mode.lower()
        axis = self.axis(values.ndim)
        if config.cluster_dim > 1:
            self._check_vectors(values.shape, axis)
        if self.importance is not None:
            importance = self.importance * (1.0 if importance is None else importance)
        return palettize(
            values,
            config.nbits,
            mode=mode,
            channel_axis=axis,
            group_size=self.group_size(values.shape[axis]),
            cluster_dim=config.cluster_dim,
            lut_function=config.lut_function,
            allowed_bits=self.allowed_bits,
            importance=importance,
            mask=mask,
            restarts=config.restarts,
        )

    def axis(self, rank: int) -> int:
        grouped = self.config.granularity is CompressionGranularity.PER_GROUPED_CHANNEL
        axis = self.config.channel_axis
        if not grouped or axis is None:
            return self.channel_axis
        if not -rank <= axis < rank:
            raise ConfigError(f"it has {rank} axes, and channel_axis {axis} is none of them")
        return axis % rank

    def group_size(self, channels: int) -> int:
        if self.config.granularity is not CompressionGranularity.PER_GROUPED_CHANNEL:
            return 0
        size = self.config.group_size
        if self.config.smaller_group:
            return largest_divisor(channels, size, self.config.cluster_dim)
        if size and channels % size:
            raise ConfigError(
                f"groups of {size} don't divide its {channels} channels; smaller_group=True takes a smaller size there"
            )
        return size

    def together(self, rows: int) -> int:
        return self.group_size(rows) or self.config.cluster_dim

    def adapted(self, shape: tuple[int, ...]) -> str:
        if self.config.granularity is not CompressionGranularity.PER_GROUPED_CHANNEL or not self.config.smaller_group:
            return ""
        size = self.group_size(shape[self.axis(len(shape))])
        return "" if size == self.config.group_size else f"groups of {size}"

    def _check_vectors(self, shape: tuple[int, ...], axis: int) -> None:
        channels = shape[axis] // (self.groups if axis == 0 else 1)
        if channels % self.config.cluster_dim:
            raise Skip(
                f"its {channels} channels on axis {axis} are not a multiple of cluster_dim {self.config.cluster_dim}"
            )


class LutGptq(Palettize):
    """Tables and indices that keep the outputs of the layer near: `algorithms/fitted/lut_gptq.py`."""

    evidence = Evidence.INPUTS

    def fit(self, value: Array | CompressedWeight, statistics: Statistics) -> CompressedWeight | None:
        from corepress.algorithms.fitted.lut_gptq import palettize_by_hessian

        config, layout = self.config, statistics.layout
        output_axis = 1 if layout.transposed else 0
        if not isinstance(value, np.ndarray):
            return None
        if config.mode != "KMEANS" or config.enable_per_channel_scale or config.nbits is None:
            return None
        grouped = config.granularity is CompressionGranularity.PER_GROUPED_CHANNEL
        if grouped and config.channel_axis is not None and self.axis(value.ndim) != output_axis:
            return None
        lut_dtype: Any = config.lut_dtype
        hessian = statistics.hessian.matrix.numpy()
        form = palettize_by_hessian(
            layout.matrices(statistics.refitted(value)).reshape(-1, layout.columns),
            hessian if layout.groups > 1 else hessian[0],
            config.nbits,
            group_size=self.group_size(value.shape[output_axis]) if grouped else 0,
            cluster_dim=config.cluster_dim,
            lut_dtype=lut_dtype,
            dampening=statistics.dampening or _DAMPENING,
            rounds=_ROUNDS,
        )
        whole: CompressedWeight = layout.form(form)
        return whole


class SensitiveKMeans(Palettize):
    """k-means in which an element weighs as much as the outputs of the model depend on it (arXiv 2306.07629)."""

    evidence = Evidence.SENSITIVITY

    def fit(self, value: Array | CompressedWeight, statistics: Sensitivity) -> CompressedWeight | None:
        return replace(self, importance=statistics.importance).compress(value)


METHOD = Method(
    "palettize_weights",
    (OpPalettizerConfig,),
    Palettize,
    {"lut-gptq": LutGptq, "skm": SensitiveKMeans},
    "fewer bits, larger groups or a higher weight_threshold would help",
)
