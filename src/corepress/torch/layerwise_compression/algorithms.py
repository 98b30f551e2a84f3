"""GPTQ and SparseGPT on the layers of a PyTorch model, and their configurations.

Another method takes part by registering a configuration and an algorithm under one name.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from itertools import repeat
from typing import Any

import numpy as np
import torch
from attrs import define, field
from torch import Tensor, nn

from corepress.algorithms.fitted.gptq import gptq
from corepress.algorithms.fitted.grid import NORMAL_FLOAT
from corepress.algorithms.fitted.hessian import Factor, Hessian
from corepress.algorithms.fitted.sparsegpt import sparsegpt
from corepress.algorithms.fitted.statistics import Statistics
from corepress.engine import Skip
from corepress.errors import ConfigError
from corepress.fields import flag, fraction, integer, member, optional_integer, real, suggesting, value_of, whole
from corepress.torch import dtypes
from corepress.torch.layerwise_compression.layout import layout_of, reads, vectors_of
from corepress.torch.layerwise_compression.registry import Registry
from corepress.torch.metadata import read_weight, write_weight
from corepress.torch.optimization_config import (
    ModuleOptimizationConfig,
    QuantizationGranularity,
    QuantizationGranularityWord,
)
from corepress.torch.quantization.quantization_config import QuantizationScheme, QuantizationSchemeWord
from corepress.torch.rewrite import check
from corepress.weights import CompressedWeight, Quantized, Sparse

__all__ = [
    "GPTQ",
    "LayerwiseCompressionAlgorithm",
    "LayerwiseCompressionAlgorithmConfig",
    "ModuleGPTQConfig",
    "ModuleSparseGPTConfig",
    "OBSCompressionAlgorithm",
    "SparseGPT",
]


class LayerwiseCompressionAlgorithmConfig(Registry, ModuleOptimizationConfig):
    """How a layer is compressed. Its field `algorithm` is the name under which the algorithm is registered.

    Examples:
        >>> from corepress.torch.layerwise_compression import LayerwiseCompressionAlgorithmConfig
        >>> LayerwiseCompressionAlgorithmConfig.get_class("gptq").__name__
        'ModuleGPTQConfig'
    """


def _ratio(value: Any) -> bool:
    pair = value is None or (isinstance(value, tuple) and len(value) == 2 and all(whole(v, 1) for v in value))
    return pair and (value is None or value[0] <= value[1])


def _read_dtype(config: Any, allowed: tuple[str, ...]) -> None:
    name = dtypes.dtype_name(config.weight_dtype)
    if name not in allowed:
        raise ConfigError(f"weight_dtype must be one of {', '.join(allowed)}, not {config.weight_dtype!r}")
    config.weight_n_bits, config.weight_dtype = dtypes.bits(name), dtypes.torch_type(name)
    if config.enable_normal_float and config.weight_n_bits not in NORMAL_FLOAT:
        raise ConfigError(f'enable_normal_float works with weight_dtype "uint3" or "uint4", not {name!r}')


def _named(name: str) -> Any:
    return value_of(name, repr(name), lambda v: v == name)


@LayerwiseCompressionAlgorithmConfig.register("gptq")
@suggesting
@define
class ModuleGPTQConfig(LayerwiseCompressionAlgorithmConfig):
    """How GPTQ quantizes a layer.

    Source: Frantar et al. 2022, arXiv 2210.17323.

    Args:
        weight_dtype: uint8, uint4 or uint3; float32 leaves the layer alone.
        granularity: "per_tensor", "per_channel" (of the output), or "per_block" with `block_size`.
        quantization_scheme: "symmetric", with the zero point in the middle of the range, or "affine".
        block_size: So many input channels share a scale.
        enable_normal_float: Levels are quantiles of the normal distribution; 3 or 4 bits.
        hessian_dampening: Times the mean of the Hessian's diagonal, is added to it.
        use_activation_order_heuristic: The columns of the largest inputs first; the scales of blocks are fixed before.
        processing_group_size: Columns that are settled between two matrix products; concerns speed.
        algorithm: "gptq".
        scale_search: An addition: of several scales each row takes those with the least output error; seven times the
            work of rounding. None: with 4 bits or fewer, where it halves the error.
        activation_aware_scale: An addition: scale input channels first, as AWQ does (arXiv 2306.00978), where the norm
            or layer before can take up the inverse. The search rounds each layer eleven times. Where most norms also
            feed a residual, as in BERT, it gains next to nothing.

    Raises:
        ConfigError: For values that are unknown or contradict each other.

    Examples:
        >>> from corepress.torch.layerwise_compression import LayerwiseCompressorConfig, ModuleGPTQConfig
        >>> config = LayerwiseCompressorConfig(global_config=ModuleGPTQConfig(weight_dtype="uint4", scale_search=True))
        >>> config.global_config.weight_n_bits
        4
    """

    weight_dtype: Any = "uint8"
    weight_n_bits: int = field(init=False)
    granularity: QuantizationGranularityWord = member(QuantizationGranularity, "per_channel")
    quantization_scheme: QuantizationSchemeWord = member(QuantizationScheme, "symmetric")
    block_size: int | None = optional_integer(None, 1)
    enable_normal_float: bool = flag()
    hessian_dampening: float = real(0.01, "a number >= 0", lambda v: v >= 0)
    use_activation_order_heuristic: bool = flag()
    processing_group_size: int = integer(128, 1)
    algorithm: str = _named("gptq")
    scale_search: bool | None = value_of(None, "True, False or None", lambda v: v is None or isinstance(v, bool))
    activation_aware_scale: bool = flag()

    @classmethod
    def from_dict(cls, config_dict: Mapping[str, Any]) -> ModuleGPTQConfig:
        """Build from the names of fields and their values; the argument's name is coremltools'."""
        return cls._structured(config_dict)

    def __attrs_post_init__(self) -> None:
        _read_dtype(self, ("uint8", "uint4", "uint3", "float32"))
        if self.enable_normal_float and self.block_size:
            raise ConfigError("enable_normal_float has one scale per channel, without a block_size: Core ML Tools "
                              "converts no others")  # fmt: skip


@LayerwiseCompressionAlgorithmConfig.register("sparse_gpt")
@suggesting
@define
class ModuleSparseGPTConfig(LayerwiseCompressionAlgorithmConfig):
    """How SparseGPT prunes a layer, and maybe quantizes what is left.

    Source: Frantar and Alistarh 2023, arXiv 2301.00774.

    Args:
        target_sparsity: The fraction of zeros, from 0 to 1.
        n_m_ratio: (n, m): instead, n zeros among every m neighbouring columns of a row.
        weight_dtype: uint8, uint4 or uint3; float16 and float32 don't quantize, float16 rounds to its precision.
        quantization_granularity: "per_tensor" or "per_channel"; "per_block" is taken as the latter.
        quantization_scheme: As in `ModuleGPTQConfig`.
        enable_normal_float: As in `ModuleGPTQConfig`.
        hessian_dampening: As in `ModuleGPTQConfig`.
        processing_group_size: As in `ModuleGPTQConfig`.
        algorithm: "sparse_gpt".
        scale_search: As in `ModuleGPTQConfig`.

    Raises:
        ConfigError: For values that are unknown or contradict each other.

    Examples:
        >>> from corepress.torch.layerwise_compression import LayerwiseCompressor, LayerwiseCompressorConfig
        >>> from corepress.torch.layerwise_compression import ModuleSparseGPTConfig
        >>> model = torch.nn.Sequential(torch.nn.Linear(64, 64))
        >>> options = ModuleSparseGPTConfig(target_sparsity=0.5, weight_dtype="float32")
        >>> compressor = LayerwiseCompressor(model, LayerwiseCompressorConfig(global_config=options))
        >>> sparse = compressor.compress([torch.randn(16, 64) for _ in range(8)])
        >>> f"{float((sparse[0].weight == 0).float().mean()):.1f}"
        '0.5'
    """

    target_sparsity: float = fraction(0.5)
    n_m_ratio: tuple[int, int] | None = value_of(None, "two integers n <= m, or None", _ratio)
    weight_dtype: Any = "uint8"
    weight_n_bits: int = field(init=False)
    quantization_granularity: QuantizationGranularityWord = member(QuantizationGranularity, "per_channel")
    quantization_scheme: QuantizationSchemeWord = member(QuantizationScheme, "symmetric")
    enable_normal_float: bool = flag()
    hessian_dampening: float = real(0.01, "a number >= 0", lambda v: v >= 0)
    processing_group_size: int = integer(128, 1)
    algorithm: str = _named("sparse_gpt")
    scale_search: bool = flag()

    @classmethod
    def from_dict(cls, config_dict: Mapping[str, Any]) -> ModuleSparseGPTConfig:
        """Build from the names of fields and their values; the argument's name is coremltools'."""
        return cls._structured(config_dict)

    def __attrs_post_init__(self) -> None:
        _read_dtype(self, ("uint8", "uint4", "uint3", "float16", "float32"))


class LayerwiseCompressionAlgorithm(Registry):
    """Compresses one layer: sees its inputs and outputs batch by batch, then rewrites its weight.

    Derive from it, and register the class under the name of its configuration's `algorithm`.

    Args:
        layer: The layer.
        config: How. A ValueError of the constructor leaves the layer alone.

    Examples:
        >>> from corepress.torch.layerwise_compression import LayerwiseCompressionAlgorithm
        >>> class Halve(LayerwiseCompressionAlgorithm):
        ...     def __init__(self, layer, config):
        ...         self.layer = layer
        ...     def add_batch(self, inp, out):
        ...         pass
        ...     def compress(self):
        ...         self.layer.weight.data /= 2
        ...     def cleanup(self):
        ...         pass
        >>> layer = torch.nn.Linear(8, 8)
        >>> Halve(layer, None).compress()
    """

    @abstractmethod
    def __init__(self, layer: nn.Module, config: Any): ...

    @abstractmethod
    def add_batch(self, inp: Tensor, out: Tensor) -> None:
        """Gather statistics of the input and the output of one call of the layer."""

    @abstractmethod
    def compress(self) -> Any:
        """Write the compressed weight into the layer; may return it, a `CompressedWeight`."""

    @abstractmethod
    def cleanup(self) -> None:
        """Let go of the statistics."""


class OBSCompressionAlgorithm(LayerwiseCompressionAlgorithm):
    """A method that needs the Hessian of the squared output error, as the optimal brain surgeon does."""

    def __init__(self, layer: nn.Module, config: Any):
        self._layer = layer
        self._parameter, self._layout = layout_of(layer)
        self._config = config
        self._statistics: Statistics | None = self._new_statistics()

    def _new_statistics(self) -> Statistics:
        return Statistics(self._layout, self._parameter.value.device)

    @property
    def reads(self) -> tuple[Any, ...]:
        """Equal for layers of which one tensor makes the same statistics."""
        return reads(self._layer, self._layout)

    def share(self, other: OBSCompressionAlgorithm) -> None:
        """Use the statistics of a layer that gets the same inputs, and the factor of its Hessian."""
        self._statistics = other._statistics

    def add_batch(self, inp: Tensor, out: Tensor, *, original: Tensor | None = None) -> None:
        """Gather statistics of the input of one call. `original`: what it was before any layer was compressed."""
        self._statistics = self._statistics or self._new_statistics()
        originals: Iterable[Tensor | None] = repeat(None)
        if original is not None and original.shape == inp.shape:
            originals = vectors_of(self._layer, self._layout, original)
        for vectors, other in zip(vectors_of(self._layer, self._layout, inp), originals, strict=False):
            self._statistics.add(vectors, other)

    def compress(self) -> CompressedWeight:
        """Write the compressed weight into the layer; CorepressError, with the layer unchanged, where it can't be."""
        parameter, statistics = self._parameter, self._statistics
        check(parameter)
        if statistics is None or statistics.hessian.count == 0:
            raise Skip("no sample reached it")
        before = read_weight(parameter)
        mask = before.mask if isinstance(before, Sparse) and isinstance(before.values, np.ndarray) else None
        if mask is None and not isinstance(before, np.ndarray):
            raise Skip("it is compressed already")
        keep = None if mask is None else torch.from_numpy(mask).to(parameter.value.device)
        weight = statistics.refitted(parameter.value.detach())
        weight = weight if keep is None else weight * keep
        hessian = statistics.hessian

        def fit(matrices: Tensor, kept: Tensor | None) -> CompressedWeight:
            return self._compress(matrices, kept, hessian)

        form = self._layout.fitted(weight, fit, keep)
        write_weight(parameter, form)
        return form

    @abstractmethod
    def _compress(self, weight: Tensor, keep: Tensor | None, hessian: Hessian) -> CompressedWeight:
        """The matrices of all groups of the layer. `keep`: False for what was pruned before."""

    def cleanup(self) -> None:
        self._statistics = None


@LayerwiseCompressionAlgorithm.register("gptq")
class GPTQ(OBSCompressionAlgorithm):
    """GPTQ on one layer. `LayerwiseCompressor` makes it; derive from it to change how a layer is rounded.

    Source: Frantar et al. 2022, arXiv 2210.17323.

    Args:
        layer: The layer, whose weight `compress` rewrites.
        config: How.

    Raises:
        ConfigError: If blocks don't divide its input channels.

    Examples:
        >>> from corepress.torch.layerwise_compression import GPTQ, ModuleGPTQConfig
        >>> layer, inputs = torch.nn.Linear(64, 8), torch.randn(100, 64)
        >>> gptq = GPTQ(layer, ModuleGPTQConfig(weight_dtype="uint4"))
        >>> gptq.add_batch(inputs, layer(inputs))
        >>> before = layer.weight.clone()
        >>> _ = gptq.compress()
        >>> bool((layer.weight != before).any())
        True
    """

    def __init__(self, layer: nn.Module, config: ModuleGPTQConfig):
        super().__init__(layer, config)
        channels = self._layout.columns // self._layout.elements
        if config.block_size and channels % config.block_size:
            raise ConfigError(f"block_size {config.block_size} doesn't divide its {channels} input channels")

    def _compress(self, weight: Tensor, keep: Tensor | None, hessian: Hessian) -> CompressedWeight:
        config = self._config
        factor = hessian.factor(config.hessian_dampening, config.use_activation_order_heuristic)
        return self._gptq(weight, keep, hessian.matrix, factor)

    def _gptq(self, weight: Tensor, keep: Tensor | None, hessian: Tensor, factor: Factor | None = None) -> Quantized:
        config = self._config
        few = config.weight_n_bits <= 4
        return gptq(
            weight,
            hessian,
            bits=config.weight_n_bits,
            symmetric=config.quantization_scheme is QuantizationScheme.symmetric,
            per_tensor=config.granularity is QuantizationGranularity.per_tensor,
            block_size=config.block_size and config.block_size * self._layout.elements,
            normal_float=config.enable_normal_float,
            by_activation=config.use_activation_order_heuristic,
            processing_group_size=config.processing_group_size,
            dampening=config.hessian_dampening,
            scale_search=few if config.scale_search is None else config.scale_search,
            keep=keep,
            factor=factor,
        )

    def rounded(self, weight: Tensor, hessian: Tensor) -> Tensor:
        """What a weight of the layer's number of elements would become; `hessian`: (groups, columns, columns)."""
        given = weight.reshape(self._layout.shape).to(self._parameter.value.dtype)
        kept = given != 0 if isinstance(read_weight(self._parameter), Sparse) else None
        form = self._layout.fitted(given, lambda matrices, mask: self._gptq(matrices, mask, hessian), kept)
        return torch.from_numpy(form.decompress()).to(weight).reshape(weight.shape)


@LayerwiseCompressionAlgorithm.register("sparse_gpt")
class SparseGPT(OBSCompressionAlgorithm):
    """SparseGPT on one layer. `LayerwiseCompressor` makes it; derive from it to change how a layer is pruned.

    Source: Frantar and Alistarh 2023, arXiv 2301.00774.

    Args:
        layer: The layer, whose weight `compress` rewrites.
        config: How.

    Examples:
        >>> from corepress.torch.layerwise_compression import ModuleSparseGPTConfig, SparseGPT
        >>> layer, inputs = torch.nn.Linear(64, 8), torch.randn(100, 64)
        >>> sparse_gpt = SparseGPT(layer, ModuleSparseGPTConfig(target_sparsity=0.5, weight_dtype="float32"))
        >>> sparse_gpt.add_batch(inputs, layer(inputs))
        >>> _ = sparse_gpt.compress()
        >>> f"{float((layer.weight == 0).float().mean()):.1f}"
        '0.5'
    """

    def _compress(self, weight: Tensor, keep: Tensor | None, hessian: Hessian) -> CompressedWeight:
        config = self._config
        form = sparsegpt(
            weight,
            hessian.matrix,
            sparsity=config.target_sparsity,
            n_m_ratio=config.n_m_ratio,
            bits=config.weight_n_bits if config.weight_n_bits < 16 else None,
            symmetric=config.quantization_scheme is QuantizationScheme.symmetric,
            per_tensor=config.quantization_granularity is QuantizationGranularity.per_tensor,
            normal_float=config.enable_normal_float,
            processing_group_size=config.processing_group_size,
            scale_search=config.scale_search,
            factor=hessian.factor(config.hessian_dampening),
        )
        if config.weight_dtype is torch.float16 and form.dtype != "float16":
            dense = form.decompress().astype("float16")
            form = Sparse(form.mask & (dense != 0), dense.astype("float32"))
        return form


def __dir__() -> list[str]:
    return __all__
