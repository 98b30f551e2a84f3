"""Palettization of PyTorch models."""

from corepress.torch.palettization import post_training_palettization
from corepress.torch.palettization.post_training_palettization import (
    ModulePostTrainingPalettizerConfig,
    PostTrainingPalettizer,
    PostTrainingPalettizerConfig,
)

__all__ = [
    "ModulePostTrainingPalettizerConfig",
    "PostTrainingPalettizer",
    "PostTrainingPalettizerConfig",
    "post_training_palettization",
]


def __dir__() -> list[str]:
    return __all__
