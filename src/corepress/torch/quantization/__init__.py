"""Quantization of PyTorch models."""

from corepress.torch.quantization import post_training_quantization, quantization_config
from corepress.torch.quantization.post_training_quantization import (
    ModulePostTrainingQuantizerConfig,
    PostTrainingQuantizer,
    PostTrainingQuantizerConfig,
)
from corepress.torch.quantization.quantization_config import QuantizationScheme

__all__ = [
    "ModulePostTrainingQuantizerConfig",
    "PostTrainingQuantizer",
    "PostTrainingQuantizerConfig",
    "QuantizationScheme",
    "post_training_quantization",
    "quantization_config",
]


def __dir__() -> list[str]:
    return __all__
