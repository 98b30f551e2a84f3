"""Quantization of PyTorch models."""

from corepress.torch.quantization import post_training_quantization, quantization_config, quantizer
from corepress.torch.quantization.post_training_quantization import (
    ModulePostTrainingQuantizerConfig,
    PostTrainingQuantizer,
    PostTrainingQuantizerConfig,
)
from corepress.torch.quantization.quantization_config import (
    LinearQuantizerConfig,
    ModuleLinearQuantizerConfig,
    ObserverType,
    QuantizationScheme,
)
from corepress.torch.quantization.quantizer import LinearQuantizer

__all__ = [
    "LinearQuantizer",
    "LinearQuantizerConfig",
    "ModuleLinearQuantizerConfig",
    "ModulePostTrainingQuantizerConfig",
    "ObserverType",
    "PostTrainingQuantizer",
    "PostTrainingQuantizerConfig",
    "QuantizationScheme",
    "post_training_quantization",
    "quantization_config",
    "quantizer",
]


def __dir__() -> list[str]:
    return __all__
