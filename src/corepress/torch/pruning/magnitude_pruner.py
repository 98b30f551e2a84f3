"""`MagnitudePruner`: the smallest values of weights become zero, step by step, while the model is trained."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import attrs
import numpy as np
from attrs import define, field
from torch import Tensor, nn

from corepress.engine import Skip
from corepress.errors import ConfigError, CorepressError, DataError, OrderError
from corepress.fields import fraction, must_be, suggesting, value_of, whole
from corepress.torch import training
from corepress.torch.base_model_optimizer import BaseTrainingTimeModelOptimizer
from corepress.torch.metadata import array_of, describe, read_weight, register_version
from corepress.torch.optimization_config import ModuleOptimizationConfig, OptimizationConfig
from corepress.torch.parameters import Parameter, Slot
from corepress.torch.pruning.masks import magnitude_mask, n_m_mask
from corepress.torch.pruning.pruning_scheduler import ConstantSparsityScheduler, PruningScheduler, scheduler_of
from corepress.torch.report import Report, sparsities
from corepress.torch.rewrite import check, skipped
from corepress.weights import Sparse

__all__ = ["MagnitudePruner", "MagnitudePrunerConfig", "ModuleMagnitudePrunerConfig"]

_GRANULARITIES = ("per_scalar", "per_kernel", "per_channel", "per_layer")


def _is_ratio(value: Any) -> bool:
    return value is None or (
        isinstance(value, tuple) and len(value) == 2 and all(map(whole, value)) and 0 <= value[0] <= value[1] > 0
    )


@suggesting
@define
class ModuleMagnitudePrunerConfig(ModuleOptimizationConfig):
    """How the weight of a module is pruned.

    Args:
        scheduler: `ConstantSparsityScheduler` or `PolynomialDecayScheduler`, or its arguments in a dictionary.
        initial_sparsity: The fraction of zeros at the beginning, from 0 to 1.
        target_sparsity: That at the end.
        granularity: What is pruned as a whole: "per_scalar", single values; for convolutions "per_kernel" or
            "per_channel" (of the output), by their Euclidean norms. "per_layer": as "per_scalar", for matrices only.
        block_size: Above 1, blocks of so many output channels are pruned as a whole.
        n_m_ratio: (n, m), of each m neighbours on axis `dim` n become zero; target_sparsity is n / m then.
        dim: The axis of n:m sparsity: 0, the output channels; 1, the input channels.
        param_name: Of the weight in its module.

    Raises:
        ConfigError: For values that are unknown or contradict each other.

    Examples:
        >>> from corepress.torch.pruning import ModuleMagnitudePrunerConfig
        >>> config = ModuleMagnitudePrunerConfig(target_sparsity=0.75, scheduler={"update_steps": [0, 100, 200]})
        >>> type(config.scheduler).__name__
        'PolynomialDecayScheduler'
    """

    scheduler: PruningScheduler = field(
        factory=lambda: ConstantSparsityScheduler(begin_step=0),
        converter=scheduler_of,
        validator=must_be("a PruningScheduler", lambda v: isinstance(v, PruningScheduler)),
    )
    initial_sparsity: float = fraction(0.0)
    target_sparsity: float = fraction(0.5)
    granularity: Literal["per_scalar", "per_kernel", "per_channel", "per_layer"] = value_of(
        "per_scalar", f"one of {', '.join(_GRANULARITIES)}", lambda v: v in _GRANULARITIES
    )
    block_size: int = value_of(1, "an integer >= 1", lambda v: whole(v, 1))
    n_m_ratio: tuple[int, int] | None = value_of(None, "a pair (n, m) with 0 <= n <= m, or None", _is_ratio)
    dim: int = value_of(1, "0 or 1", lambda v: whole(v) and v in (0, 1))
    param_name: str = value_of("weight", "the name of a parameter", lambda v: isinstance(v, str))

    def __attrs_post_init__(self) -> None:
        if self.n_m_ratio is not None and (self.block_size != 1 or self.granularity != "per_scalar"):
            raise ConfigError("n_m_ratio works with block_size 1 and granularity per_scalar only")


@suggesting
@define
class MagnitudePrunerConfig(OptimizationConfig):
    """Which modules are pruned, and how.

    Args:
        global_config: A `ModuleMagnitudePrunerConfig` for every module, or None; by default to half.
        module_type_configs: The same by the class of the module, or its name.
        module_name_configs: The same by the module's name, or a regular expression that matches all of it.

    Raises:
        ConfigError: For names and values that are unknown.

    Examples:
        >>> from corepress.torch.pruning import MagnitudePrunerConfig
        >>> config = MagnitudePrunerConfig.from_dict({"global_config": {"n_m_ratio": [2, 4]}})
        >>> config.global_config.target_sparsity
        0.5
    """

    _module_config: ClassVar[type[ModuleOptimizationConfig]] = ModuleMagnitudePrunerConfig
    _global_by_default: ClassVar[bool] = True


class Mask(training.Part):
    """A weight times its mask, so that only what is under the mask has a gradient.

    `config`: a `ModuleMagnitudePrunerConfig`; `weight`: as it is now. Buffer `mask`: ones and zeros of the weight's
    type (a product with bool takes twice as long) and shape, or with ones for the axes that it spans.
    """

    stage: ClassVar[int] = 1
    makes_zeros: ClassVar[bool] = True
    mask: Tensor

    def __init__(self, name: str, config: ModuleMagnitudePrunerConfig, weight: Tensor):
        super().__init__(name)
        if config.n_m_ratio is not None:
            n, m = config.n_m_ratio
            config = attrs.evolve(config, target_sparsity=n / m)
        self.config, self.steps, self.sparsity = config, 0, float(config.initial_sparsity)
        self.register_buffer("mask", self.choose(weight).to(weight.dtype))

    def forward(self, weight: Tensor) -> Tensor:
        # `fully_shard` may compute in another type than it trains in.
        return weight if self.idle else weight * self.mask.to(weight.dtype)

    def choose(self, weight: Tensor) -> Tensor:
        """The mask of a weight at the present sparsity."""
        if not weight.isfinite().all():
            raise DataError(f"{self.name} holds infinities or NaN, so its smallest values can't be found")
        if self.config.n_m_ratio is not None:
            m = self.config.n_m_ratio[1]
            # A ratio of two integers may come out just below the integer that it makes of m.
            if zeros := math.floor(self.sparsity * m + 1e-6):
                return n_m_mask(weight, zeros, m, self.config.dim)
        block_size = 1 if self.config.n_m_ratio else self.config.block_size
        return magnitude_mask(weight, self.sparsity, block_size, self.config.granularity)

    def step(self, slot: Slot) -> None:
        self.steps += 1
        sparsity = self.config.scheduler.compute_sparsity(self.steps, prev_sparsity=self.sparsity, config=self.config)
        if sparsity != self.sparsity:
            self.sparsity = sparsity
            self.mask.copy_(self.choose(training.trained(slot)))

    def numbers(self) -> dict[str, float]:
        return {"steps": self.steps, "sparsity": self.sparsity}

    def set_numbers(self, numbers: dict[str, float]) -> None:
        self.steps, self.sparsity = int(numbers["steps"]), numbers["sparsity"]


class MagnitudePruner(BaseTrainingTimeModelOptimizer):
    """Prunes the smallest values of weights while a model is trained.

    The trained weights stay dense, and come back where a later mask wants them. The state of the schedule is in the
    prepared model's `state_dict`. Source: Zhu and Gupta 2017, arXiv 1710.01878.

    Args:
        model: Of PyTorch; it stays as it is.
        config: Which modules, and how; by default all, to half.
        strict: An addition: make an error of a rule that decides nothing, where a warning would do.

    Examples:
        >>> from corepress.torch.pruning import MagnitudePruner, MagnitudePrunerConfig
        >>> model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
        >>> config = MagnitudePrunerConfig.from_dict({"global_config": {"target_sparsity": 0.75}})
        >>> pruner = MagnitudePruner(model, config)
        >>> prepared = pruner.prepare()
        >>> optimizer = torch.optim.Adam(prepared.parameters())
        >>> prepared(torch.randn(8, 64)).square().mean().backward()
        >>> _ = optimizer.step()
        >>> pruner.step()
        >>> float((pruner.finalize()[0].weight == 0).float().mean())
        0.75
    """

    _supported_modules = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)

    def __init__(self, model: nn.Module, config: MagnitudePrunerConfig | None = None, *, strict: bool = False):
        super().__init__(model, MagnitudePrunerConfig() if config is None else config, strict=strict)

    def prepare(self, inplace: bool = False) -> nn.Module:
        """Make the model to be trained. A weight that can't be pruned is left as it is; `report().skipped` says why.

        Args:
            inplace: Change the model itself instead of a copy.

        Returns:
            The model, whose weights pass through masks.
        """
        if self._is_prepared:
            return self._model
        self._check_config()
        self._model = self._get_model_for_compression(inplace)
        report = Report()
        for parameter in training.weights(self._model):
            config = self._config_of(parameter) if self._takes(parameter) else None
            if config is not None:
                self._attach(parameter, config, report)
        self._skipped, self._is_prepared = report.skipped, True
        return self._model

    def _takes(self, parameter: Parameter) -> bool:
        return isinstance(parameter.module, self._supported_modules)

    def _attach(self, parameter: Parameter, config: Any, report: Report) -> None:
        try:
            if config.param_name != parameter.name:
                raise Skip(f"its configuration is for a parameter {config.param_name!r}, which can't be pruned")
            weight = training.trained(parameter)
            check(parameter)
            training.attach(parameter, Mask(parameter.key, config, weight))
        except CorepressError as reason:
            skipped(report, parameter, str(reason))

    def step(self) -> None:
        """To be called after each step of the optimiser: the schedule goes on. Harmless after its end."""
        if not self._is_prepared:
            raise OrderError("call prepare() before step(): it puts the masks in")
        for slot, mask in list(training.parts(self._model, Mask)):
            mask.step(slot)
            self._step_count = mask.steps

    def finalize(self, model: nn.Module | None = None, inplace: bool = False) -> nn.Module:
        """Make the pruned model.

        Args:
            model: That of `prepare` or a copy of it, by default the former. If it was split by `fully_shard`, each
                process calls this, and gets a whole one on the CPU.
            inplace: Change that model itself instead of a copy.

        Returns:
            The model, its zeros written, with the buffers by which `coremltools.convert` knows it.
        """
        if not self._is_prepared:
            raise OrderError("call prepare() before finalize(): it puts the masks in")
        model = self._get_model_to_finalize(model, inplace)
        masks = list(training.parts(model, Mask))
        for slot, mask in masks:
            if any(part.stage > Mask.stage for part in training.siblings(slot, training.Part)):
                raise OrderError(f"{mask.name} is palettized too: finalize the palettizer, which keeps the zeros")
        for slot, mask in masks:
            training.detach(slot)
            slot.value.detach().mul_(mask.mask)
            form = read_weight(slot)
            kept = np.broadcast_to(mask.mask.cpu().bool().numpy(), tuple(slot.value.shape))
            if not isinstance(form, Sparse):
                form = Sparse(kept & (array_of(slot.value) != 0), form)
            describe(slot, form)
        register_version(model)
        return model

    def report(self) -> Report:
        """The sparsities of each weight as the network sees it now, and of all: `global`."""
        report = Report()
        for slot, mask in training.parts(self._model, Mask):
            pruned = training.trained(slot) * mask.mask
            report[training.label(slot)] = {"#params": pruned.numel(), **sparsities(array_of(pruned))}
        rows = list(report.values())
        if rows:
            total = {"#params": sum(row["#params"] for row in rows)}
            report["global"] = total | {key: _mean(rows, key) for key in rows[0] if key != "#params"}
        report.skipped = dict(self._skipped)
        return report


def _mean(rows: list[dict[str, Any]], key: str) -> float:
    """Over the weights to which a sparsity applies, by their size; -1 if there is none."""
    known = [(row[key], row["#params"]) for row in rows if row[key] >= 0]
    return sum(value * size for value, size in known) / sum(size for _, size in known) if known else -1


def __dir__() -> list[str]:
    return __all__
