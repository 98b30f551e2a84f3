"""The public interface of `coremltools.optimize.coreml`: compress the weights of a Core ML package."""

from corepress.coreml.config import OptimizationConfig
from corepress.coreml.decompress import decompress_weights
from corepress.coreml.experimental import linear_quantize_activations
from corepress.coreml.granularity import CompressionGranularity
from corepress.coreml.interop import to_coremltools
from corepress.coreml.metadata import CoreMLOpMetaData, CoreMLWeightMetaData, get_weights_metadata
from corepress.coreml.op_configs import (
    OpLinearQuantizerConfig,
    OpMagnitudePrunerConfig,
    OpPalettizerConfig,
    OpThresholdPrunerConfig,
)
from corepress.coreml.palettize import palettize_weights
from corepress.coreml.prune import prune_weights
from corepress.coreml.quantize import linear_quantize_weights

__all__ = [
    "CompressionGranularity",
    "CoreMLOpMetaData",
    "CoreMLWeightMetaData",
    "OpLinearQuantizerConfig",
    "OpMagnitudePrunerConfig",
    "OpPalettizerConfig",
    "OpThresholdPrunerConfig",
    "OptimizationConfig",
    "decompress_weights",
    "get_weights_metadata",
    "linear_quantize_activations",
    "linear_quantize_weights",
    "palettize_weights",
    "prune_weights",
    "to_coremltools",
]
