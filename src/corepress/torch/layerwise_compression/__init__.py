"""Compression of PyTorch models layer by layer, with calibration data: GPTQ, SparseGPT, and look-up tables."""

from corepress.torch.layerwise_compression import algorithms, input_cacher, layerwise_compressor, lut_gptq
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
from corepress.torch.layerwise_compression.lut_gptq import LUTGPTQ, ModuleLUTGPTQConfig

__all__ = [
    "GPTQ",
    "LUTGPTQ",
    "DefaultInputCacher",
    "FirstLayerInputCacher",
    "GPTFirstLayerInputCacher",
    "LayerwiseCompressionAlgorithm",
    "LayerwiseCompressionAlgorithmConfig",
    "LayerwiseCompressor",
    "LayerwiseCompressorConfig",
    "ModuleGPTQConfig",
    "ModuleLUTGPTQConfig",
    "ModuleSparseGPTConfig",
    "SparseGPT",
    "algorithms",
    "input_cacher",
    "layerwise_compressor",
    "lut_gptq",
]


def __dir__() -> list[str]:
    return __all__
