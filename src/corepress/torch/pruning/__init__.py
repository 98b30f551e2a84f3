"""Pruning of PyTorch models while they are trained."""

from corepress.torch.pruning import magnitude_pruner, pruning_scheduler
from corepress.torch.pruning.magnitude_pruner import (
    MagnitudePruner,
    MagnitudePrunerConfig,
    ModuleMagnitudePrunerConfig,
)
from corepress.torch.pruning.pruning_scheduler import ConstantSparsityScheduler, PolynomialDecayScheduler

__all__ = [
    "ConstantSparsityScheduler",
    "MagnitudePruner",
    "MagnitudePrunerConfig",
    "ModuleMagnitudePrunerConfig",
    "PolynomialDecayScheduler",
    "magnitude_pruner",
    "pruning_scheduler",
]


def __dir__() -> list[str]:
    return __all__
