"""Palettization of PyTorch models.

Without data (`post_training_palettization.py`), by sensitivities from gradients (`sensitive_k_means.py`, `fisher.py`),
and while a model is trained (`palettizer.py`, `fake_palettize.py`). `cluster.py` makes of a weight and the fields that
their configurations share what `algorithms/palettize.py` takes: one more palettizer calls it, too.
"""

from corepress.torch.palettization import (
    fake_palettize,
    palettization_config,
    palettizer,
    post_training_palettization,
    sensitive_k_means,
)
from corepress.torch.palettization.fake_palettize import FakePalettize
from corepress.torch.palettization.palettization_config import DKMPalettizerConfig, ModuleDKMPalettizerConfig
from corepress.torch.palettization.palettizer import DKMPalettizer
from corepress.torch.palettization.post_training_palettization import (
    ModulePostTrainingPalettizerConfig,
    PostTrainingPalettizer,
    PostTrainingPalettizerConfig,
)
from corepress.torch.palettization.sensitive_k_means import (
    ModuleSKMPalettizerConfig,
    SKMPalettizer,
    SKMPalettizerConfig,
)

__all__ = [
    "DKMPalettizer",
    "DKMPalettizerConfig",
    "FakePalettize",
    "ModuleDKMPalettizerConfig",
    "ModulePostTrainingPalettizerConfig",
    "ModuleSKMPalettizerConfig",
    "PostTrainingPalettizer",
    "PostTrainingPalettizerConfig",
    "SKMPalettizer",
    "SKMPalettizerConfig",
    "fake_palettize",
    "palettization_config",
    "palettizer",
    "post_training_palettization",
    "sensitive_k_means",
]


def __dir__() -> list[str]:
    return __all__
