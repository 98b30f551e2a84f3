"""Compression of PyTorch models layer by layer, with calibration data: GPTQ and SparseGPT."""

from corepress.torch.layerwise_compression import algorithms, input_cacher, layerwise_compressor
from corepress.torch.layerwise_compression.algorithms import (
    GPTQ,
    LayerwiseCompressionAlgorithm,
    LayerwiseCompressionAlgorithmConfig,
    ModuleGPTQConfig,
    ModuleSparseGPTConfig,
    SparseGPT,
)
from corepress.torch.layerwise_compression.input_cacher import (
    DefaultInputCacher,
    FirstLayerInputCacher,
    GPTFirstLayerInputCacher,
)
from corepress.torch.layerwise_compression.layerwise_compressor import LayerwiseCompressor, LayerwiseCompressorConfig

__all__ = [
    "GPTQ",
    "DefaultInputCacher",
    "FirstLayerInputCacher",
    "GPTFirstLayerInputCacher",
    "LayerwiseCompressionAlgorithm",
    "LayerwiseCompressionAlgorithmConfig",
    "LayerwiseCompressor",
    "LayerwiseCompressorConfig",
    "ModuleGPTQConfig",
    "ModuleSparseGPTConfig",
    "SparseGPT",
    "algorithms",
    "input_cacher",
    "layerwise_compressor",
]


def __dir__() -> list[str]:
    return __all__
