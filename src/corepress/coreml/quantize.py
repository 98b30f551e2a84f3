"""`linear_quantize_weights`: weights become integers of 4 or 8 bits with scales and offsets; in Core AI models also of
2 bits, and floating-point numbers of 4 and 8."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from corepress.coreml.action import Action, Evidence, worth_it
from corepress.coreml.axes import channel_axes
from corepress.coreml.config import OptimizationConfig
from corepress.coreml.granularity import CompressionGranularity
from corepress.coreml.interop import takes_any_model
from corepress.coreml.method import Method
from corepress.coreml.op_configs import OpLinearQuantizerConfig
from corepress.coreml.prepare import largest_divisor
from corepress.engine import Progress, Skip
from corepress.errors import ConfigError
from corepress.formats.mlprogram import Model, Weight
from corepress.formats.mlprogram.values import MIN_BLOB_ELEMENTS
from corepress.weights import CompressedWeight, Palettized, Quantized, Sparse

if TYPE_CHECKING:
    import torch

    from corepress.algorithms.fitted.statistics import Statistics

Array = NDArray[Any]
Granularity = CompressionGranularity


@takes_any_model
def linear_quantize_weights(
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
    """Replace each chosen weight by int4, uint4, int8 or uint8 numbers with a scale (and offset) per tensor, channel or
    block.

    Weights that can't be quantized as asked are left as they are, with a warning; `corepress.report` lists them.

    Args:
        mlmodel: A path, a `corepress.Model` or an `MLModel` of coremltools.
        config: What to quantize and how, with `OpLinearQuantizerConfig`s.
        joint_compression: Quantize also the non-zero values of sparse weights and the LUTs of palettized ones; for a
            LUT the granularity must be "per_tensor", since its axes are not those of the weight.
        target: Raise the model to this deployment target first, such as "iOS18".
        workers: Threads; by default one for each core.
        progress: Called after each weight with the number done, of all, and a name.
        strict: As in `palettize_weights`.
        spare_constants: As in `palettize_weights`.

    Returns:
        The result, of the same kind as the model (for a path: a `Model`).

    Raises:
        ConfigError: For a configuration that the target can't hold.

    Examples:
        >>> options = cto.coreml.OpLinearQuantizerConfig(dtype="int4", granularity="per_block", block_size=32)
        >>> small = cto.coreml.linear_quantize_weights("model.mlpackage", cto.coreml.OptimizationConfig(options))
        >>> cto.report(small).compressed[0].bits
        4
    """
    plan = METHOD.plan(mlmodel, config, joint_compression, None, target, strict, spare_constants)
    return plan.run(workers, progress)


@dataclass(frozen=True)
class Quantize(Action):
    """Rounding to the nearest; without data. `axes`: the input and the output channel axis of the weight."""

    verb = "quantized"
    joint_forms = ("sparse", "palettized", "sparse+palettized")

    config: OpLinearQuantizerConfig
    axes: tuple[int, int]

    @classmethod
    def on(cls, weight: Weight, config: OpLinearQuantizerConfig, named: bool) -> Quantize:
        if "palettized" in weight.compression and config.granularity is not Granularity.PER_TENSOR:
            raise ConfigError(
                f'{weight.name}: it is palettized, so its LUT is quantized: use granularity="per_tensor", since the '
                "axes of a LUT are not those of the weight"
            )
        return cls(config, channel_axes(weight))

    def compress(self, value: Array | CompressedWeight) -> CompressedWeight | None:
        if isinstance(value, np.ndarray):
            return worth_it(self._quantized(value, None), value, self.adapted(value.shape))
        if isinstance(value, Palettized):
            return self._with_lut(value)
        if isinstance(value, Sparse) and not value.mask.any():
            raise Skip("all its values are zero", quiet=True)
        if isinstance(value, Sparse) and isinstance(value.values, Palettized):
            return Sparse(value.mask, self._with_lut(value.values))
        if isinstance(value, Sparse) and isinstance(value.values, np.ndarray):
            return Sparse(value.mask, self._quantized(value.values, value.mask))
        return None

    def _quantized(self, values: Array, mask: NDArray[np.bool_] | None) -> Quantized:
        from corepress.algorithms.hqq import quantize_half_quadratic
        from corepress.algorithms.linear import quantize

        config = self.config
        if config.float_zero_point:
            sizes = self.block_sizes(values.shape)
            wanted: Any = config.dtype.value
            return quantize_half_quadratic(values, dtype=wanted, block_sizes=sizes, mask=mask)
        if config.dtype.floating or config.scale_dtype:
            from corepress.algorithms.floats import quantize_to_floats

            kept = values if mask is None else Sparse(mask, values).decompress()
            floating: Any = config.dtype.value
            sizes = self.block_sizes(values.shape)
            return quantize_to_floats(kept, dtype=floating, block_sizes=sizes, exponents=bool(config.scale_dtype))
        mode: Any = config.mode.lower()
        integers: Any = config.dtype.value
        return quantize(
            values,
            dtype=integers,
            mode=mode,
            block_sizes=self.block_sizes(values.shape),
            scale_search=config.scale_search,
            mask=mask,
        )

    def _with_lut(self, value: Palettized) -> Palettized:
        if not isinstance(value.lut, np.ndarray):
            raise Skip("its LUT is quantized already")
        if value.lut.size < MIN_BLOB_ELEMENTS:
            raise Skip(f"its LUT has only {value.lut.size} entries, so that a scale would take the bytes that it saves")
        return Palettized(value.indices, self._quantized(value.lut, None), value.vector_axis)

    def adapted(self, shape: tuple[int, ...]) -> str:
        config = self.config
        if config.granularity is not Granularity.PER_BLOCK or not config.smaller_block:
            return ""
        asked = config.block_size
        sizes = self.block_sizes(shape)
        taken = sizes[self.axes[0]] if isinstance(asked, int) else sizes
        return "" if taken == asked else f"blocks of {taken}"

    def block_sizes(self, shape: tuple[int, ...]) -> Sequence[int]:
        config = self.config
        sizes = [0] * len(shape)
        input_axis, output_axis = self.axes
        if config.granularity is Granularity.PER_CHANNEL:
            sizes[output_axis] = 1
        elif config.granularity is Granularity.PER_BLOCK:
            assert config.block_size is not None
            if isinstance(config.block_size, int):
                sizes[output_axis], sizes[input_axis] = 1, config.block_size
            elif len(config.block_size) != len(shape):
                raise ConfigError(f"block_size has {len(config.block_size)} entries for a weight of rank {len(shape)}")
            else:
                sizes = list(config.block_size)
        if config.smaller_block:
            return [largest_divisor(total, size) if size else 0 for total, size in zip(shape, sizes, strict=True)]
        for total, size in zip(shape, sizes, strict=True):
            if size and total % size:
                raise ConfigError(
                    f"blocks of {size} don't divide an axis of {total}; smaller_block=True takes a smaller size there"
                )
        return sizes


class Gptq(Quantize):
    """Rounding in which the errors of a layer's output make up for each other: `algorithms/fitted/gptq.py`."""

    evidence = Evidence.INPUTS

    def fit(self, value: Array | CompressedWeight, statistics: Statistics) -> CompressedWeight | None:
        from corepress.algorithms.fitted.gptq import gptq, integers
        from corepress.algorithms.fitted.hessian import DAMPENING

        config, layout, hessian = self.config, statistics.layout, statistics.hessian
        per_tensor = config.granularity is Granularity.PER_TENSOR
        dense = value.values if isinstance(value, Sparse) else value
        if not isinstance(dense, np.ndarray):
            return None
        if config.dtype.floating or config.dtype.nbits not in (4, 8) or config.scale_dtype:  # it rounds to integers
            return None
        block = None
        if config.granularity is Granularity.PER_BLOCK:
            if not isinstance(config.block_size, int):
                return None
            block = self.block_sizes(value.shape)[0 if layout.transposed else 1] * layout.elements
        symmetric, few = config.mode == "LINEAR_SYMMETRIC", config.dtype.nbits == 4
        dampening = statistics.dampening or DAMPENING

        def rounded(weight: torch.Tensor, keep: torch.Tensor | None) -> Quantized:
            return gptq(
                weight,
                hessian.matrix,
                bits=4 if few else 8,
                symmetric=symmetric,
                float_zero=config.float_zero_point,
                per_tensor=per_tensor,
                block_size=block,
                by_activation=True,
                scale_search=config.scale_search or few,
                keep=keep,
                factor=hessian.factor(dampening, by_activation=True),
            )

        form: CompressedWeight = integers(
            layout.fitted(statistics.refitted(value), rounded),
            signed=config.dtype.signed,
            symmetric=symmetric,
            one_scale=per_tensor,
        )
        return form


METHOD = Method(
    "linear_quantize_weights",
    (OpLinearQuantizerConfig,),
    Quantize,
    {"gptq": Gptq},
    "fewer bits, larger blocks or a higher weight_threshold would help",
)
