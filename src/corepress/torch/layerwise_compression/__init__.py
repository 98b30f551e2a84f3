"""Compression of PyTorch models layer by layer, with calibration data: GPTQ, SparseGPT, and look-up tables.

`layerwise_compressor.py` goes through the layers, `stages.py` says which are compressed from one run, `input_cacher.py`
finds what the first one reads, `algorithms.py` and `lut_gptq.py` are the methods on a layer, `activation_scaling.py`
scales their inputs first, and `checkpoint.py` lets a run go on where it ended.

One more method: a configuration and an algorithm, registered under one name (`algorithms.py`); one that needs the
Hessian of a layer's inputs derives from `OBSCompressionAlgorithm` and says what becomes of one matrix.
"""

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
