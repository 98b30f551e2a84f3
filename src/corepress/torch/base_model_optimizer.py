"""The classes that every method of compression of a PyTorch model derives from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from corepress.errors import OrderError
from corepress.torch.distributed import has_split_weights, unwrapped, whole_copy
from corepress.torch.optimization_config import OptimizationConfig, own_config
from corepress.torch.parameters import SUPPORTED, Parameter, copy_of
from corepress.torch.report import Report
from corepress.torch.rewrite import Action
from corepress.torch.rules import check_weights
from corepress.torch.shards import compress_shards
from corepress.torch.training import class_of

__all__ = [
    "BaseDataCalibratedModelOptimizer",
    "BaseModelOptimizer",
    "BasePostTrainingModelOptimizer",
    "BaseTrainingTimeModelOptimizer",
]


class BaseModelOptimizer(ABC):
    """A method of compression, a model and a configuration: the base of all methods.

    Args:
        model: Of PyTorch.
        config: Which modules, and how.
        strict: An addition: a rule of the configuration for a name or a type that decides nothing is a ConfigError,
            instead of a warning.

    Examples:
        >>> from corepress.torch.base_model_optimizer import BaseModelOptimizer
        >>> from corepress.torch.palettization import PostTrainingPalettizer
        >>> palettizer = PostTrainingPalettizer(torch.nn.Linear(8, 8))
        >>> isinstance(palettizer, BaseModelOptimizer), torch.nn.Linear in palettizer.supported_modules
        (True, True)
    """

    _supported_modules: ClassVar[tuple[type[nn.Module], ...]] = SUPPORTED

    def __init__(self, model: nn.Module, config: OptimizationConfig | None = None, *, strict: bool = False):
        self._model = model
        self._config: Any = own_config(config)
        self._strict = strict

    @abstractmethod
    def report(self) -> Report:
        """What became of each weight."""

    @property
    def supported_modules(self) -> tuple[type[nn.Module], ...]:
        return self._supported_modules

    def _takes(self, parameter: Parameter) -> bool:
        """Whether the method could compress a weight at all."""
        return True

    def _config_of(self, parameter: Parameter) -> Any:
        """How the method compresses a weight that it takes; None: it is left alone."""
        return self._config.get_module_config(parameter.owner_name, class_of(parameter.owner))

    def _check_config(self) -> None:
        """Before the model is changed: warn of rules without effect; refuse two ways for one shared weight."""
        name = type(self).__name__
        check_weights(self._model, self._config, self._takes, self._config_of, name, self._strict)

    def _get_model_for_compression(self, inplace: bool, copy: Callable[[nn.Module], nn.Module] = copy_of) -> nn.Module:
        if has_split_weights(self._model):
            raise OrderError(
                "the model's weights are split over processes (DTensor): compress or prepare it first, and call "
                "fully_shard afterwards"
            )
        return self._model if inplace else copy(self._model)


class _CompressesAtOnce(BaseModelOptimizer):
    """A method that compresses a trained model in one call."""

    def __init__(self, model: nn.Module, config: OptimizationConfig | None = None, *, strict: bool = False):
        super().__init__(model, config, strict=strict)
        self._uncompressed_model: nn.Module | None = None

    def _begin(self, inplace: bool) -> nn.Module:
        """The model to be compressed: the model itself if `inplace`, else a copy; the other one is kept, unchanged."""
        self._uncompressed_model = self._get_model_for_compression(inplace=not inplace)
        self._model = self._get_model_for_compression(inplace=inplace)
        return self._model


class BasePostTrainingModelOptimizer(_CompressesAtOnce):
    """A method that compresses a trained model without data.

    Who derives from it calls `super().compress(inplace=inplace)`, and changes the model that comes back.

    Args:
        model: Of PyTorch.
        config: Which modules, and how.
        strict: As in `BaseModelOptimizer`.

    Examples:
        >>> from corepress.torch.base_model_optimizer import BasePostTrainingModelOptimizer
        >>> class Halve(BasePostTrainingModelOptimizer):
        ...     def compress(self, inplace=False):
        ...         model = super().compress(inplace=inplace)
        ...         model.weight.data /= 2
        ...         return model
        ...     def report(self):
        ...         return {}
        >>> layer = torch.nn.Linear(8, 8)
        >>> bool((Halve(layer).compress().weight * 2 == layer.weight).all())
        True
    """

    def compress(self, *args: Any, inplace: bool = False, **kwargs: Any) -> nn.Module:
        """The model to be compressed: the model itself if `inplace`, else a copy; the other one is kept, unchanged."""
        return self._begin(inplace)


class BaseDataCalibratedModelOptimizer(_CompressesAtOnce):
    """A method that compresses a trained model with the help of some data; derived from as the one without.

    Args:
        model: Of PyTorch.
        config: Which modules, and how.
        strict: As in `BaseModelOptimizer`.

    Examples:
        >>> from corepress.torch.base_model_optimizer import BaseDataCalibratedModelOptimizer
        >>> from corepress.torch.layerwise_compression import LayerwiseCompressor
        >>> issubclass(LayerwiseCompressor, BaseDataCalibratedModelOptimizer)
        True
    """

    def compress(self, dataloader: Iterable[Any], *args: Any, inplace: bool = False, **kwargs: Any) -> nn.Module:
        """The model to be compressed: the model itself if `inplace`, else a copy; the other one is kept, unchanged."""
        return self._begin(inplace)


class Reporting(BaseModelOptimizer):
    """A method of ours that compresses at once, and reports what it did."""

    def __init__(self, model: nn.Module, config: OptimizationConfig | None = None, *, strict: bool = False):
        super().__init__(model, config, strict=strict)
        self._report = Report()

    def report(self) -> Report:
        """What became of each weight: a row for each that was compressed."""
        return self._report.normalized()


class WeightByWeight(Reporting, BasePostTrainingModelOptimizer):
    """A method of ours that compresses each weight by itself, so that files of a checkpoint will do for it, too."""

    @abstractmethod
    def _choose(self, parameter: Parameter) -> Action | None:
        """What to do with a weight; None leaves it alone."""

    def compress_checkpoint(self, source: str | Path, destination: str | Path, *, workers: int | None = None) -> None:
        """An addition: compress the `.safetensors` files of a folder into a new folder, one file at a time.

        So a model larger than memory can be compressed; the one that was given may be on the meta device.
        `corepress.torch.shards.load_compressed` reads the result.
        """
        self._check_config()
        self._report = compress_shards(self._model, self._choose, Path(source), Path(destination), workers=workers)


class BaseTrainingTimeModelOptimizer(BaseModelOptimizer):
    """A method that learns the compressed form while the model is trained: `prepare`, `step`, `finalize`.

    Args:
        model: Of PyTorch.
        config: Which modules, and how.
        strict: As in `BaseModelOptimizer`.

    Examples:
        >>> from corepress.torch.base_model_optimizer import BaseTrainingTimeModelOptimizer
        >>> from corepress.torch.pruning import MagnitudePruner
        >>> issubclass(MagnitudePruner, BaseTrainingTimeModelOptimizer)
        True
    """

    def __init__(self, model: nn.Module, config: OptimizationConfig | None = None, *, strict: bool = False):
        super().__init__(model, config, strict=strict)
        self._step_count = 0
        self._is_prepared = False
        self._skipped: dict[str, str] = {}  # weights that are left alone, and why

    @abstractmethod
    def prepare(self, *args: Any, **kwargs: Any) -> nn.Module:
        """The model to be trained."""

    def _get_model_to_finalize(self, model: nn.Module | None, inplace: bool) -> nn.Module:
        """A trained model, by default that of `prepare`, out of its wrapper: itself if `inplace`, else a copy.

        Of a model that `fully_shard` split, each process gets a whole copy, on the CPU.
        """
        model = unwrapped(self._model if model is None else model)
        if not has_split_weights(model):
            return model if inplace else copy_of(model)
        if inplace:
            raise OrderError("a model that fully_shard split can't be finalized inplace: let finalize() copy it")
        return whole_copy(model)

    @abstractmethod
    def step(self) -> None:
        """To be called after each step of the optimiser."""

    @abstractmethod
    def finalize(self, model: nn.Module | None = None, inplace: bool = False) -> nn.Module:
        """The compressed model, ready for `coremltools.convert`."""


def __dir__() -> list[str]:
    return __all__
