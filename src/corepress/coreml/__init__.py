"""The public interface of `coremltools.optimize.coreml`: compress the weights of a Core ML package."""

import importlib
from typing import TYPE_CHECKING, Any

from corepress.coreml.config import OptimizationConfig
from corepress.coreml.granularity import CompressionGranularity
from corepress.coreml.interop import to_coremltools
from corepress.coreml.op_configs import (
    OpLinearQuantizerConfig,
    OpMagnitudePrunerConfig,
    OpPalettizerConfig,
    OpThresholdPrunerConfig,
)

if TYPE_CHECKING:
    from corepress.coreml import calibrated as calibrated
    from corepress.coreml import experimental as experimental
    from corepress.coreml.decompress import decompress_weights as decompress_weights
    from corepress.coreml.experimental import linear_quantize_activations as linear_quantize_activations
    from corepress.coreml.metadata import CoreMLOpMetaData as CoreMLOpMetaData
    from corepress.coreml.metadata import CoreMLWeightMetaData as CoreMLWeightMetaData
    from corepress.coreml.metadata import get_weights_metadata as get_weights_metadata
    from corepress.coreml.narrow import narrow_indices as narrow_indices
    from corepress.coreml.palettize import palettize_weights as palettize_weights
    from corepress.coreml.prune import prune_weights as prune_weights
    from corepress.coreml.quantize import linear_quantize_weights as linear_quantize_weights
    from corepress.coreml.rotating import rotate as rotate

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
    "experimental",
    "get_weights_metadata",
    "linear_quantize_activations",
    "linear_quantize_weights",
    "narrow_indices",
    "palettize_weights",
    "prune_weights",
    "rotate",
    "to_coremltools",
]


# On first use: a process has a use for few of them.
_LAZY = {
    "CoreMLOpMetaData": "corepress.coreml.metadata",
    "CoreMLWeightMetaData": "corepress.coreml.metadata",
    "decompress_weights": "corepress.coreml.decompress",
    "get_weights_metadata": "corepress.coreml.metadata",
    "linear_quantize_activations": "corepress.coreml.experimental",
    "linear_quantize_weights": "corepress.coreml.quantize",
    "narrow_indices": "corepress.coreml.narrow",
    "palettize_weights": "corepress.coreml.palettize",
    "prune_weights": "corepress.coreml.prune",
    "rotate": "corepress.coreml.rotating",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    if name in ("calibrated", "experimental"):  # calibrated imports PyTorch
        return importlib.import_module(f"corepress.coreml.{name}")
    raise AttributeError(f"module 'corepress.coreml' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
