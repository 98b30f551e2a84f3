"""Pruning of PyTorch models while they are trained.

`magnitude_pruner.py` has the optimizer and the part that masks a weight, `masks.py` the rules for what stays, on
tensors, and `pruning_scheduler.py` says when how much goes: one more schedule is a `PruningScheduler` there, which
`scheduler_of` makes of its arguments.
"""

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
