"""The classes that every method of compression of a PyTorch model derives from."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import Any, ClassVar

from torch import nn

from corepress.torch.optimization_config import OptimizationConfig
from corepress.torch.parameters import SUPPORTED
from corepress.torch.report import Report

__all__ = [
    "BaseDataCalibratedModelOptimizer",
    "BaseModelOptimizer",
    "BasePostTrainingModelOptimizer",
    "BaseTrainingTimeModelOptimizer",
]


class BaseModelOptimizer(ABC):
    """A method of compression, a model and a configuration."""

    _supported_modules: ClassVar[tuple[type[nn.Module], ...]] = SUPPORTED

    def __init__(self, model: nn.Module, config: OptimizationConfig | None = None):
        self._model = model
        self._config: Any = config

    @abstractmethod
    def report(self) -> Report:
        """What became of each weight."""

    @property
    def supported_modules(self) -> tuple[type[nn.Module], ...]:
        return self._supported_modules

    def _get_model_for_compression(self, inplace: bool) -> nn.Module:
        return self._model if inplace else copy.deepcopy(self._model)


class _CompressesAtOnce(BaseModelOptimizer):
    _report: Report | None = None

    def report(self) -> Report:
        """What became of each weight: a row for each that was compressed."""
        return Report() if self._report is None else self._report.normalized()


class BasePostTrainingModelOptimizer(_CompressesAtOnce):
    """A method that compresses a trained model without data."""

    @abstractmethod
    def compress(self, *args: Any, **kwargs: Any) -> nn.Module:
        """The compressed model: the model itself if `inplace`, else a copy."""


class BaseDataCalibratedModelOptimizer(_CompressesAtOnce):
    """A method that compresses a trained model with the help of some data."""

    @abstractmethod
    def compress(self, *args: Any, **kwargs: Any) -> nn.Module:
        """The compressed model: the model itself if `inplace`, else a copy."""


class BaseTrainingTimeModelOptimizer(BaseModelOptimizer):
    """A method that learns the compressed form while the model is trained."""

    def __init__(self, model: nn.Module, config: OptimizationConfig | None = None):
        super().__init__(model, config)
        self._step_count = 0

    @abstractmethod
    def prepare(self, *args: Any, **kwargs: Any) -> nn.Module:
        """The model to be trained."""

    @abstractmethod
    def step(self) -> None:
        """To be called after each step of the optimiser."""

    @abstractmethod
    def finalize(self, model: nn.Module | None = None, inplace: bool = False) -> nn.Module:
        """The compressed model, ready for `coremltools.convert`."""


def __dir__() -> list[str]:
    return __all__
