"""When a weight becomes how sparse while it is trained."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import attrs
import torch
from attrs import define, field
from torch import Tensor

from corepress.errors import ConfigError
from corepress.fields import integer, suggesting, value_of, whole

__all__ = ["ConstantSparsityScheduler", "PolynomialDecayScheduler", "PruningScheduler"]


@define
class PruningScheduler(ABC):
    """A rule for the sparsity of each step."""

    @abstractmethod
    def compute_sparsity(self, step_count: int, prev_sparsity: float, config: Any) -> float:
        """The sparsity at a step, counted from 1.

        `prev_sparsity`: that of the step before. `config`: has `initial_sparsity` and `target_sparsity`.
        """


def _steps(value: Any) -> Tensor:
    """Step numbers given as a list, a tensor, or the words "range(start, stop, step)": int64 (n,)."""
    if isinstance(value, str):
        numbers = re.fullmatch(r"\s*range\(\s*(-?\d+(?:\s*,\s*-?\d+){0,2})\s*,?\s*\)\s*", value)
        if numbers is None:
            raise ConfigError(f'update_steps must be a list of integers or "range(start, stop, step)", not {value!r}')
        value = list(range(*map(int, numbers[1].split(","))))
    try:
        steps = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"update_steps must be a list of integers, not {value!r}") from error
    if steps.ndim != 1 or steps.numel() == 0 or (steps != steps.long()).any() or (steps < 0).any():
        raise ConfigError(f"update_steps must be a list of integers that are not negative, not {value!r}")
    return steps.long()


@suggesting
@define
class PolynomialDecayScheduler(PruningScheduler):
    """From the initial to the target sparsity in steps that become smaller.

    At the i-th of n `update_steps` the sparsity is target + (initial - target) * (1 - i / (n - 1))**power; between them
    it stays. Source: Zhu and Gupta 2017, arXiv 1710.01878.

    Args:
        update_steps: The steps at which it changes, rising.
        power: Of the polynomial.

    Examples:
        >>> from corepress.torch.pruning import ModuleMagnitudePrunerConfig, PolynomialDecayScheduler
        >>> config = ModuleMagnitudePrunerConfig(scheduler=PolynomialDecayScheduler(update_steps=[0, 10, 20], power=1))
        >>> float(config.scheduler.compute_sparsity(10, 0.0, config))
        0.25
    """

    update_steps: Tensor = field(converter=_steps, eq=attrs.cmp_using(eq=torch.equal))
    power: int = value_of(3, "an integer >= 1", lambda v: whole(v, 1))

    def compute_sparsity(self, step_count: int, prev_sparsity: float, config: Any) -> float:
        steps = self.update_steps.tolist()
        if step_count not in steps:
            return prev_sparsity
        left = 1 - steps.index(step_count) / (len(steps) - 1) if len(steps) > 1 else 0.0
        initial, target = getattr(config, "initial_sparsity", 0.0), config.target_sparsity
        return float(target + (initial - target) * left**self.power)


@suggesting
@define
class ConstantSparsityScheduler(PruningScheduler):
    """The target sparsity from one step on.

    Args:
        begin_step: That step.

    Examples:
        >>> from corepress.torch.pruning import ConstantSparsityScheduler, ModuleMagnitudePrunerConfig
        >>> config = ModuleMagnitudePrunerConfig(scheduler=ConstantSparsityScheduler(begin_step=100))
        >>> [config.scheduler.compute_sparsity(step, 0.0, config) for step in (99, 100)]
        [0.0, 0.5]
    """

    begin_step: int = integer(0, 0)

    def compute_sparsity(self, step_count: int, prev_sparsity: float, config: Any) -> float:
        return float(config.target_sparsity) if step_count >= self.begin_step else prev_sparsity


def scheduler_of(value: Any) -> Any:
    """A converter: a scheduler, or a mapping of the arguments of one."""
    if not isinstance(value, Mapping):
        return value
    kind = PolynomialDecayScheduler if "update_steps" in value else ConstantSparsityScheduler
    return kind(**value)


def __dir__() -> list[str]:
    return __all__
