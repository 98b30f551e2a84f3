"""`SKMPalettizer`: palettization that spends its table entries where the loss is sensitive."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Iterable, Mapping
from os import PathLike
from typing import Any, ClassVar

import numpy as np
import torch
from attrs import define
from numpy.typing import NDArray
from torch import Tensor, nn

from corepress.engine import Skip
from corepress.errors import ConfigError, DataError, FormatError
from corepress.fields import integer, suggesting
from corepress.torch.base_model_optimizer import BaseDataCalibratedModelOptimizer, Reporting
from corepress.torch.metadata import array_of
from corepress.torch.optimization_config import (
    ModuleOptimizationConfig,
    OptimizationConfig,
)
from corepress.torch.palettization.cluster import ModulePaletteConfig, Palettizing, palettize_weight, warn_of_conversion
from corepress.torch.palettization.fisher import LossFunction, fisher_diagonal, normalized
from corepress.torch.parameters import Parameter, bake_parametrizations, copy_of, has_parametrizations
from corepress.torch.rewrite import Action, rewrite
from corepress.weights import CompressedWeight

__all__ = ["ModuleSKMPalettizerConfig", "SKMPalettizer", "SKMPalettizerConfig"]

log = logging.getLogger(__name__)


@suggesting
@define
class ModuleSKMPalettizerConfig(ModulePaletteConfig):
    """How the weights of a module are palettized; the fields are those of `ModulePostTrainingPalettizerConfig`."""


@suggesting
@define
class SKMPalettizerConfig(OptimizationConfig):
    """Which modules are palettized, and how: `ModuleSKMPalettizerConfig`s. By default all, to 4 bits.

    calibration_nsamples: so many samples of the dataloader are used, at most.
    """

    _module_config: ClassVar[type[ModuleOptimizationConfig]] = ModuleSKMPalettizerConfig
    _global_by_default: ClassVar[bool] = True

    calibration_nsamples: int = integer(128, least=1)


class SKMPalettizer(Palettizing, Reporting, BaseDataCalibratedModelOptimizer):
    """Palettizes weights by k-means in which each element weighs as much as the loss is sensitive to it.

    Sensitive k-means of Kim et al. 2023, "SqueezeLLM" (arXiv 2306.07629). With scalar entries the weighted k-means is
    solved exactly (`corepress.algorithms.kmeans1d`); a vector weighs as much as its elements do on average.
    """

    def __init__(self, model: nn.Module, config: SKMPalettizerConfig | None = None, *, strict: bool = False):
        super().__init__(model, SKMPalettizerConfig() if config is None else config, strict=strict)

    def compute_sensitivity(
        self,
        dataloader: Iterable[Any],
        loss_fn: LossFunction,
        sensitivity_path: str | PathLike[str] | None = None,
        num_sensitivity_workers: int = 1,
        fsdp_auto_wrap_policy: Any = None,
    ) -> dict[str, Tensor]:
        """How sensitive the loss is to each parameter, by its name: float32 of its shape, at most 1.

        The sum over samples of the squared gradient (`fisher.fisher_diagonal`), divided by its largest element; zeros
        become the least of the others, and nothing is below 1e-12. The model stays as it is.

        `dataloader`: gives samples, of which `calibration_nsamples` are used. `loss_fn(model, sample)`: a scalar loss.
        `sensitivity_path`: a file to save the result to, with `torch.save`. `num_sensitivity_workers`: processes that
        share the samples, on any device; the model and `loss_fn` must be picklable then. `fsdp_auto_wrap_policy`: for
        coremltools' sake; it is without effect, as each process holds the whole model.
        """
        if fsdp_auto_wrap_policy is not None:
            log.warning("fsdp_auto_wrap_policy is not needed: each process holds the whole model")
        if dataloader is None or loss_fn is None:
            raise ConfigError("sensitivities need a dataloader and a loss_fn, or a sensitivity_path to load them from")
        model = self._model
        if has_parametrizations(model):  # the weights that will be palettized are no parameters yet
            model = copy_of(model)
            bake_parametrizations(model)
        most = self._config.calibration_nsamples
        found = normalized(fisher_diagonal(model, dataloader, loss_fn, most=most, workers=num_sensitivity_workers))
        if sensitivity_path is not None:
            torch.save(found, sensitivity_path)
        return found

    def compress(  # type: ignore[override]  # the arguments are coremltools'
        self,
        dataloader: Iterable[Any] | None = None,
        loss_fn: LossFunction | None = None,
        sensitivity_path: str | PathLike[str] | None = None,
        num_kmeans_workers: int | None = None,
        num_sensitivity_workers: int = 1,
        inplace: bool = False,
        fsdp_auto_wrap_policy: Any = None,
    ) -> nn.Module:
        """The palettized model: this model if `inplace`, else a copy.

        `sensitivity_path`: a file of `compute_sensitivity` to read; else it is called with the other arguments.
        `num_kmeans_workers`: threads; by default one for each core. A weight that can't be palettized as asked is left
        as it is, with a warning; `report().skipped` says why.
        """
        warn_of_conversion(self._config)
        self._check_config()
        self._model = self._get_model_for_compression(inplace)
        sensitivity = None if sensitivity_path is None else load_sensitivity(sensitivity_path)
        bake_parametrizations(self._model)
        if sensitivity is None:
            sensitivity = self.compute_sensitivity(
                dataloader,  # type: ignore[arg-type]
                loss_fn,  # type: ignore[arg-type]
                None,
                num_sensitivity_workers,
                fsdp_auto_wrap_policy=fsdp_auto_wrap_policy,
            )
        importance = _by_parameter(self._model, sensitivity)

        def choose(parameter: Parameter) -> Action | None:
            return self._choose(parameter, importance.get(id(parameter.value)))

        self._report = rewrite(self._model, choose, workers=num_kmeans_workers, description="Palettizing")
        return self._model

    def _choose(self, parameter: Parameter, sensitivity: Tensor | None) -> Action | None:
        config = self._config_of(parameter)
        if config is None:
            return None
        if sensitivity is None:
            raise Skip("there is no sensitivity for it")

        def action(weight: NDArray[Any], mask: NDArray[np.bool_] | None) -> CompressedWeight:
            return palettize_weight(config, parameter.output_axis, weight, mask, array_of(sensitivity))

        return action


def load_sensitivity(path: str | PathLike[str]) -> dict[str, Tensor]:
    """What `compute_sensitivity` saved: tensors by the names of parameters. Raises CorepressError for other files."""
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise FormatError(f"{path} is no file of sensitivities: {error}") from error
    if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()):
        raise FormatError(f"{path} is no file of sensitivities: it must hold tensors by the names of parameters")
    return dict(found)


def _by_parameter(model: nn.Module, sensitivity: Mapping[str, Tensor]) -> dict[int, Tensor]:
    """The sensitivity of each parameter by its `id`, so that any of the names of a shared one will do."""
    parameters = model.named_parameters(remove_duplicate=False)
    found = {id(value): sensitivity[name] for name, value in parameters if name in sensitivity}
    if not found:
        raise DataError("none of the sensitivities belongs to a parameter of this model: names must be the model's")
    return found
