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
from corepress.fields import flag, integer, suggesting
from corepress.torch.base_model_optimizer import BaseDataCalibratedModelOptimizer, Reporting
from corepress.torch.metadata import array_of
from corepress.torch.optimization_config import (
    ModuleOptimizationConfig,
    OptimizationConfig,
)
from corepress.torch.palettization.cluster import (
    PRESETS,
    ModulePaletteConfig,
    Palettizing,
    palettize_weight,
    warn_of_conversion,
)
from corepress.torch.palettization.fisher import LossFunction, factored, fisher_diagonal, normalized
from corepress.torch.parameters import Parameter, bake_parametrizations, copy_of, has_parametrizations
from corepress.torch.rewrite import Action, rewrite
from corepress.weights import CompressedWeight

__all__ = ["ModuleSKMPalettizerConfig", "SKMPalettizer", "SKMPalettizerConfig"]

log = logging.getLogger(__name__)


@suggesting
@define
class ModuleSKMPalettizerConfig(ModulePaletteConfig):
    """How the weights of a module are palettized; the fields are those of `ModulePostTrainingPalettizerConfig`.

    Args:
        n_bits: Of an index: 1, 2, 3, 4, 6 or 8; None leaves the module alone.
        lut_dtype: int8 or uint8, as which the entries of a table are stored; None: as the weight's own type.
        granularity: "per_tensor", or "per_grouped_channel" with a table for each `group_size` channels.
        group_size: How many channels share a table.
        channel_axis: The axis of these channels, and of the vectors: 0, the output channels; 1, the input channels.
        cluster_dim: Entries are vectors of that many neighbouring channels.
        enable_per_channel_scale: Each output channel is brought to -1..1 first; its scale is stored.
        factored_sensitivity: An addition: the sensitivity of an element is estimated from the means of its row and its
            column, which some hundred samples say far more about than about each element (Adafactor, arXiv 1804.04235).

    Raises:
        ConfigError: For values that are unknown or contradict each other.

    Examples:
        >>> from corepress.torch.palettization import ModuleSKMPalettizerConfig, SKMPalettizerConfig
        >>> config = SKMPalettizerConfig(global_config=ModuleSKMPalettizerConfig(n_bits=3))
        >>> config.global_config.n_bits
        3
    """

    factored_sensitivity: bool = flag()


@suggesting
@define
class SKMPalettizerConfig(OptimizationConfig):
    """Which modules are palettized, and how.

    Args:
        global_config: A `ModuleSKMPalettizerConfig` for every module, or None; by default 4 bits.
        module_type_configs: The same by the class of the module, or its name.
        module_name_configs: The same by the module's name, or a regular expression that matches all of it.
        calibration_nsamples: So many samples of the dataloader are used, at most.

    Raises:
        ConfigError: For names and values that are unknown.

    Examples:
        >>> from corepress.torch.palettization import SKMPalettizerConfig
        >>> config = SKMPalettizerConfig.from_dict({"global_config": {"n_bits": 3}, "calibration_nsamples": 64})
        >>> config.calibration_nsamples
        64
    """

    _module_config: ClassVar[type[ModuleOptimizationConfig]] = ModuleSKMPalettizerConfig
    _presets: ClassVar[Mapping[str, Mapping[str, Any]]] = PRESETS
    _global_by_default: ClassVar[bool] = True

    calibration_nsamples: int = integer(128, least=1)


class SKMPalettizer(Palettizing, Reporting, BaseDataCalibratedModelOptimizer):
    """Palettizes weights by k-means in which each element weighs as much as the loss is sensitive to it.

    With scalar entries the weighted k-means is solved exactly (`corepress.algorithms.kmeans1d`); a vector weighs as
    much as its elements do on average. Source: Kim et al. 2023, "SqueezeLLM", arXiv 2306.07629.

    Args:
        model: Of PyTorch; it stays as it is.
        config: Which modules, and how; by default all, to 4 bits.
        strict: An addition: make an error of a rule that decides nothing, where a warning would do.

    Examples:
        >>> from corepress.torch.palettization import SKMPalettizer
        >>> model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
        >>> samples = [torch.randn(1, 64) for _ in range(8)]
        >>> small = SKMPalettizer(model).compress(samples, loss_fn=lambda model, sample: model(sample).square().sum())
        >>> len(small[0].weight.unique())
        16
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
        """Measure how sensitive the loss is to each parameter. The model stays as it is.

        It is the sum over samples of the squared gradient, divided by its largest element; zeros become the least of
        the others, and nothing is below 1e-12.

        Args:
            dataloader: Gives samples, of which `calibration_nsamples` are used.
            loss_fn: Called with the model and a sample; returns a scalar loss.
            sensitivity_path: A file to save the result to, with `torch.save`.
            num_sensitivity_workers: Processes that share the samples, on any device; the model and `loss_fn` must be
                picklable then.
            fsdp_auto_wrap_policy: For coremltools' sake; without effect, as each process holds the whole model.

        Returns:
            By the name of each parameter, float32 of its shape, at most 1.
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
        """Palettize the model. A weight that can't be is left as it is, with a warning; `report().skipped` says why.

        Args:
            dataloader: As in `compute_sensitivity`.
            loss_fn: As in `compute_sensitivity`.
            sensitivity_path: A file of `compute_sensitivity` to read; else it is called with the other arguments.
            num_kmeans_workers: Threads; by default one for each core.
            num_sensitivity_workers: As in `compute_sensitivity`.
            inplace: Change the model itself instead of a copy.
            fsdp_auto_wrap_policy: As in `compute_sensitivity`.

        Returns:
            The palettized model, with the buffers by which `coremltools.convert` knows it.
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
            importance = factored(sensitivity) if config.factored_sensitivity else sensitivity
            return palettize_weight(config, parameter.output_axis, weight, mask, array_of(importance))

        return action


def load_sensitivity(path: str | PathLike[str]) -> dict[str, Tensor]:
    """What `compute_sensitivity` saved: tensors by the names of parameters. Raises CorepressError for other files."""
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise FormatError(f"{path} is not a file of sensitivities: {error}") from error
    if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()):
        raise FormatError(f"{path} is not a file of sensitivities: it must hold tensors by the names of parameters")
    return dict(found)


def _by_parameter(model: nn.Module, sensitivity: Mapping[str, Tensor]) -> dict[int, Tensor]:
    """The sensitivity of each parameter by its `id`, so that any of the names of a shared one will do."""
    parameters = model.named_parameters(remove_duplicate=False)
    found = {id(value): sensitivity[name] for name, value in parameters if name in sensitivity}
    if not found:
        raise DataError("none of the sensitivities belongs to a parameter of this model: names must be the model's")
    return found
