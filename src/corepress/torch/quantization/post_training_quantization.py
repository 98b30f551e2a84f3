"""`PostTrainingQuantizer`: the weights of a PyTorch model become integers with scales, without data."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from attrs import define, field
from numpy.typing import NDArray
from torch import Tensor, nn

from corepress.algorithms.fitted.awq import Rounding
from corepress.algorithms.linear import IntegerType, quantize
from corepress.errors import ConfigError
from corepress.fields import flag, member, suggesting
from corepress.torch import dtypes
from corepress.torch.base_model_optimizer import WeightByWeight
from corepress.torch.metadata import array_of
from corepress.torch.optimization_config import (
    ModuleOptimizationConfig,
    OptimizationConfig,
    QuantizationGranularity,
    QuantizationGranularityWord,
)
from corepress.torch.parameters import Parameter, bake_parametrizations, borrowing_copy_of, copy_of
from corepress.torch.quantization.quantization_config import QuantizationScheme, QuantizationSchemeWord
from corepress.torch.rewrite import Action, rewrite
from corepress.weights import Quantized, decompress

__all__ = ["ModulePostTrainingQuantizerConfig", "PostTrainingQuantizer", "PostTrainingQuantizerConfig"]

_DTYPES = ("int8", "uint8", "int4", "uint4", "float32")


def _block_size(value: Any) -> tuple[int, ...] | None:
    if value is None:
        return None
    sizes = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    if not sizes or any(not isinstance(size, int) or isinstance(size, bool) or size < 0 for size in sizes):
        raise ConfigError(f"block_size must be an integer or one for each axis, not {value!r}")
    return sizes


@suggesting
@define
class ModulePostTrainingQuantizerConfig(ModuleOptimizationConfig):
    """How the weights of a module are quantized.

    Args:
        weight_dtype: int8, uint8, int4 or uint4; float32 leaves the module alone. A word, or a type of PyTorch.
        granularity: "per_tensor", "per_channel" (of the output), or "per_block".
        quantization_scheme: "symmetric", with the zero point in the middle of the range, or "affine".
        block_size: With "per_block": the elements of a block along the input channels, or the block's size on the
            output and the input channels; 0 stands for the whole axis.
        scale_search: An addition: instead of the scale of the range take one with which a layer's outputs change
            less, as far as that can be told without data.
        activation_aware_scale: An addition: scale the input channels of linear and convolutional layers first, as AWQ
            does (arXiv 2306.00978), where the norm or layer before can take up the inverse; `compress` then needs data.

    Raises:
        ConfigError: For values that are unknown or contradict each other.

    Examples:
        >>> from corepress.torch.quantization import ModulePostTrainingQuantizerConfig
        >>> config = ModulePostTrainingQuantizerConfig(weight_dtype="int4", granularity="per_block", block_size=32)
        >>> config.block_size
        (32,)
    """

    weight_dtype: Any = "int8"
    weight_n_bits: int = field(init=False)
    granularity: QuantizationGranularityWord = member(QuantizationGranularity, "per_channel")
    quantization_scheme: QuantizationSchemeWord = member(QuantizationScheme, "symmetric")
    block_size: tuple[int, ...] | None = field(default=None, converter=_block_size)
    scale_search: bool = flag()
    activation_aware_scale: bool = flag()

    def __attrs_post_init__(self) -> None:
        name = dtypes.dtype_name(self.weight_dtype)
        if name not in _DTYPES:
            raise ConfigError(f"weight_dtype must be one of {', '.join(_DTYPES)}, not {self.weight_dtype!r}")
        if (self.granularity is QuantizationGranularity.per_block) != (self.block_size is not None):
            raise ConfigError('block_size belongs to granularity "per_block", which needs it')
        self.weight_n_bits = dtypes.bits(name)
        self.weight_dtype = dtypes.torch_type(name)

    @classmethod
    def from_dict(cls, config_dict: Mapping[str, Any]) -> ModulePostTrainingQuantizerConfig:
        """Build from the names of fields and their values; the argument's name is coremltools'."""
        return cls._structured(config_dict)

    @property
    def dtype_name(self) -> IntegerType:
        """Such as "int4", for which PyTorch has no type."""
        signed = dtypes.is_signed(self.weight_dtype)
        if self.weight_n_bits == 4:
            return "int4" if signed else "uint4"
        return "int8" if signed else "uint8"


@suggesting
@define
class PostTrainingQuantizerConfig(OptimizationConfig):
    """Which modules are quantized, and how.

    Args:
        global_config: A `ModulePostTrainingQuantizerConfig` for every module, or None; by default int8.
        module_type_configs: The same by the class of the module, or its name.
        module_name_configs: The same by the module's name, or a regular expression that matches all of it.

    Raises:
        ConfigError: For names and values that are unknown.

    Examples:
        >>> from corepress.torch.quantization import PostTrainingQuantizerConfig
        >>> config = PostTrainingQuantizerConfig.from_dict({"module_name_configs": {"head": None, "embed.*": None}})
        >>> list(config.module_name_configs)
        ['head', 'embed.*']
    """

    _module_config: ClassVar[type[ModuleOptimizationConfig]] = ModulePostTrainingQuantizerConfig
    _presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "w8": {"weight_dtype": "int8", "scale_search": True},
        "w4": {"weight_dtype": "int4", "scale_search": True},
        "w4_per_block": {
            "weight_dtype": "int4", "granularity": "per_block", "block_size": 32, "scale_search": True
        },
    }  # fmt: skip
    _global_by_default: ClassVar[bool] = True

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        if len({config.quantization_scheme for config in self.configs()}) > 1:
            raise ConfigError("quantization_scheme must be the same in the configurations of all modules")


class PostTrainingQuantizer(WeightByWeight):
    """Quantizes the weights of a trained model, without data; values stay floating point until it is converted.

    Args:
        model: Of PyTorch; it stays as it is.
        config: Which modules, and how; by default all, to int8.
        strict: An addition: make an error of a rule that decides nothing, where a warning would do.

    Examples:
        >>> from corepress.torch.quantization import PostTrainingQuantizer, PostTrainingQuantizerConfig
        >>> model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
        >>> config = PostTrainingQuantizerConfig.from_dict({"global_config": {"weight_dtype": "int4"}})
        >>> quantizer = PostTrainingQuantizer(model, config)
        >>> small = quantizer.compress()
        >>> bool(quantizer.report()["0.weight"]["snr"] > 15)
        True
    """

    def __init__(self, model: nn.Module, config: PostTrainingQuantizerConfig | None = None, *, strict: bool = False):
        super().__init__(model, PostTrainingQuantizerConfig() if config is None else config, strict=strict)

    def compress(  # type: ignore[override]  # the arguments are coremltools'
        self, inplace: bool = False, *, dataloader: Iterable[Any] | None = None, workers: int | None = None
    ) -> nn.Module:
        """Quantize the model. A weight that can't be is left as it is, with a warning; `report().skipped` says why.

        Args:
            inplace: Change the model itself instead of a copy.
            dataloader: For `activation_aware_scale`: batches of the model's input, a tensor, a tuple of arguments or a
                dictionary of keyword arguments.
            workers: Threads; by default one for each core.

        Returns:
            The quantized model, with the buffers by which `coremltools.convert` knows it.

        Raises:
            ConfigError: If `dataloader` is missing.
            DataError: If it is empty.
        """
        self._check_config()
        scales = any(config.activation_aware_scale for config in self._config.configs())
        given, borrows = self._model, not inplace and not scales
        model = self._get_model_for_compression(inplace, borrowing_copy_of if borrows else copy_of)
        if scales:
            self._scale_activations(model, dataloader)
        self._model = model
        self._report = rewrite(
            model, self._choose, borrowed_from=given if borrows else None, workers=workers, description="Quantizing"
        )
        return model

    def _scale_activations(self, model: nn.Module, dataloader: Iterable[Any] | None) -> None:
        from corepress.torch.calls import Call
        from corepress.torch.layerwise_compression.activation_scaling import scale_activations  # builds on this package

        calls = [Call.of(batch) for batch in dataloader or ()]
        if not calls:
            raise ConfigError("activation_aware_scale needs data: give compress a dataloader with batches of the input")
        bake_parametrizations(model)
        scale_activations(model, calls, self._rounding_of)

    def _rounding_of(self, parameter: Parameter) -> Rounding | None:
        config, action = self._config_of(parameter), self._choose(parameter)
        if action is None or not config.activation_aware_scale:
            return None

        def rounded(weight: Tensor, hessian: Tensor) -> Tensor:
            given = weight.reshape(parameter.value.shape).to(parameter.value.dtype)
            return torch.from_numpy(decompress(action(array_of(given), None))).to(weight).reshape(weight.shape)

        return rounded

    def _config_of(self, parameter: Parameter) -> Any:
        config = super()._config_of(parameter)
        return None if config is None or config.weight_dtype is torch.float32 else config

    def _choose(self, parameter: Parameter) -> Action | None:
        config = self._config_of(parameter)
        return None if config is None else functools.partial(quantize_weight, config, parameter)


def quantize_weight(
    config: ModulePostTrainingQuantizerConfig,
    parameter: Parameter,
    weight: NDArray[Any],
    mask: NDArray[np.bool_] | None = None,
) -> Quantized:
    """`weight`: the value of `parameter`, or one like it. `mask`: only what is under it shapes the scales.

    Raises ConfigError if blocks do not divide the weight.
    """
    return quantize(
        weight,
        dtype=config.dtype_name,
        mode="linear_symmetric" if config.quantization_scheme is QuantizationScheme.symmetric else "linear",
        block_sizes=block_sizes(config, parameter, weight.ndim),
        scale_search=config.scale_search,
        mask=mask,
    )


def block_sizes(config: Any, parameter: Parameter, rank: int) -> list[int]:
    """The elements that share a scale, on each axis of a weight; 0: the whole axis."""
    sizes = [0] * rank
    if config.granularity is QuantizationGranularity.per_channel:
        sizes[parameter.output_axis] = 1
    elif config.granularity is QuantizationGranularity.per_block:
        given = config.block_size
        if len(given) > rank or any(given[2:]):
            raise ConfigError(f"block_size {given} does not fit {parameter}: only its channels can be cut into blocks")
        outputs, inputs = (1, given[0]) if len(given) == 1 else given[:2]
        shape = parameter.value.shape
        outputs, inputs = outputs % shape[parameter.output_axis], inputs % shape[parameter.input_axis]
        # Blocks on the input axis alone are blocks of each output channel.
        sizes[parameter.output_axis], sizes[parameter.input_axis] = outputs or (1 if inputs else 0), inputs
        if not any(sizes):
            raise ConfigError(f"block_size {given} cuts no axis of {parameter}: use per_channel or per_tensor")
    return sizes
