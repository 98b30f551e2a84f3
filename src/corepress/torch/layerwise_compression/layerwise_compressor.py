"""`LayerwiseCompressor`: compresses a model layer by layer, each so that its output on some samples changes little."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from attrs import define, field
from torch import nn

from corepress.algorithms.fitted.awq import Rounding
from corepress.configuration import Rule, check_level
from corepress.errors import ConfigError, DataError
from corepress.fields import flag, integer, matches_nothing, suggesting
from corepress.torch.base_model_optimizer import BaseDataCalibratedModelOptimizer, Reporting
from corepress.torch.calls import Call
from corepress.torch.layerwise_compression import fingerprint
from corepress.torch.layerwise_compression.activation_scaling import scale_activations
from corepress.torch.layerwise_compression.algorithms import (
    GPTQ,
    LayerwiseCompressionAlgorithmConfig,
    ModuleGPTQConfig,
)
from corepress.torch.layerwise_compression.checkpoint import Checkpoint, run_of
from corepress.torch.layerwise_compression.input_cacher import FirstLayerInputCacher
from corepress.torch.layerwise_compression.layout import SUPPORTED, is_supported
from corepress.torch.layerwise_compression.run import Run, unless_idle
from corepress.torch.layerwise_compression.stages import (
    evaluating,
    is_in,
)
from corepress.torch.metadata import register_version
from corepress.torch.optimization_config import (
    ModuleOptimizationConfig,
    OptimizationConfig,
    by_type,
    own_config,
    own_dict,
    place_of,
)
from corepress.torch.parameters import Parameter, bake_parametrizations

__all__ = ["LayerwiseCompressor", "LayerwiseCompressorConfig"]


def _layers(value: Any) -> Any:
    if value is None or isinstance(value, nn.ModuleList):
        return value
    if not isinstance(value, (list, tuple)) or not all(isinstance(layer, (nn.Module, str)) for layer in value):
        raise ConfigError(f"layers must be a list of modules or of their names, not {value!r}")
    return list(value)


def _cacher(value: Any) -> Any:
    return FirstLayerInputCacher.get_class(value)


@suggesting
@define
class LayerwiseCompressorConfig(OptimizationConfig):
    """Which layers are compressed, and how: by a `ModuleGPTQConfig`, a `ModuleSparseGPTConfig`, or one of your own.

    Args:
        layers: Modules, or names or regular expressions of names, of layers each of which reads the output of the one
            before. None: the children of an nn.Sequential; of any other model everything, by running all of it for each
            of its blocks.
        global_config: The configuration of an algorithm for every layer, or None.
        module_type_configs: The same by the class of the module, or its name.
        module_name_configs: The same by the module's name, or a regular expression that matches all of it.
        input_cacher: How the first layer's inputs are found: "default", "gpt", or a class of your own.
        calibration_nsamples: How many batches of the data are used, at most.
        match_original: An addition: bring each layer's outputs near those that it had while nothing was compressed, so
            that it makes up for earlier errors; takes more runs, and the memory of a second model or layer.

    Raises:
        ConfigError: For names and values that are unknown.

    Examples:
        >>> from corepress.torch.layerwise_compression import LayerwiseCompressorConfig
        >>> gptq = {"algorithm": "gptq", "weight_dtype": "uint4"}
        >>> LayerwiseCompressorConfig.from_dict({"layers": ["layers.*"], "global_config": gptq}).calibration_nsamples
        128
    """

    _module_config: ClassVar[type[ModuleOptimizationConfig]] = LayerwiseCompressionAlgorithmConfig

    layers: Any = field(default=None, converter=_layers)
    # After `layers`, in whose place coremltools has it.
    global_config: Any = field(default=None, converter=own_config, validator=check_level)
    module_type_configs: dict[Any, Any] = field(factory=dict, converter=by_type, validator=check_level)
    module_name_configs: dict[str, Any] = field(factory=dict, converter=own_dict, validator=check_level)
    input_cacher: Any = field(default="default", converter=_cacher)
    calibration_nsamples: int = integer(128, 1)
    match_original: bool = flag()

    @classmethod
    def _read(cls, value: Any, rule: Rule) -> Any:
        if not isinstance(value, Mapping):
            return value
        try:
            if "algorithm" not in value:
                raise ConfigError('it needs an "algorithm", such as "gptq"')
            return LayerwiseCompressionAlgorithmConfig.get_class(value["algorithm"]).from_dict(value)
        except ConfigError as error:
            raise ConfigError(f"{place_of(rule)}: {error}") from error

    def get_layers(self, model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
        """The names and modules that `layers` stands for, in the model's order."""
        if self.layers is None:
            yield from model.named_children()
            return
        for name, module in model.named_modules():
            if any(_names(layer, name, module) for layer in self.layers):
                yield name, module


def _names(layer: nn.Module | str, name: str, module: nn.Module) -> bool:
    return re.fullmatch(layer, name) is not None if isinstance(layer, str) else module is layer


class LayerwiseCompressor(Reporting, BaseDataCalibratedModelOptimizer):
    """Compresses the linear and convolutional layers of a model with the help of some samples of its input.

    Each layer is compressed so that its outputs on the samples change little: by GPTQ (arXiv 2210.17323), SparseGPT
    (arXiv 2301.00774), or `lut_gptq`, which fits look-up tables.

    Args:
        model: Of PyTorch; it stays as it is.
        config: Which layers, and how.
        strict: An addition: make an error of a rule that decides nothing, where a warning would do.

    Examples:
        >>> from corepress.torch.layerwise_compression import LayerwiseCompressor, LayerwiseCompressorConfig
        >>> model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
        >>> config = LayerwiseCompressorConfig.from_dict({"global_config": {"algorithm": "gptq"}})
        >>> compressor = LayerwiseCompressor(model, config)
        >>> small = compressor.compress([torch.randn(16, 64) for _ in range(4)])
        >>> list(compressor.report())
        ['0.weight', '2.weight']
    """

    _supported_modules = SUPPORTED

    def __init__(self, model: nn.Module, config: LayerwiseCompressorConfig, *, strict: bool = False):
        super().__init__(model, config, strict=strict)

    @torch.no_grad()
    def compress(  # type: ignore[override]  # the arguments are coremltools'
        self,
        dataloader: Iterable[Any],
        device: str | torch.device | None = None,
        inplace: bool = False,
        *,
        checkpoint_dir: str | Path | None = None,
    ) -> nn.Module:
        """Compress the model. A layer that can't be is left as it is, with a warning; `report().skipped` says why.

        Args:
            dataloader: Batches of the model's input: a tensor, a tuple of arguments or a dictionary of keyword
                arguments.
            device: Where the work is done; None: where the model is.
            inplace: Change the model itself instead of a copy.
            checkpoint_dir: An addition: finished stages are saved here, and a second call with the same model, data (in
                the same order) and configuration goes on behind the last one, to the same result.

        Returns:
            The compressed model, with the buffers by which `coremltools.convert` knows it.

        Raises:
            DataError: Without samples.
            ConfigError: If the configuration names modules that can't be compressed.
            CorepressError: If a layer can't take what the one before it gives, or `checkpoint_dir` is of another run.
        """
        self._check_names()
        self._check_config()
        names = None if self._config.layers is None else [name for name, _ in self._config.get_layers(self._model)]
        if names == []:
            raise ConfigError(f"layers={self._config.layers!r} names no layer of the model")
        model = self._get_model_for_compression(inplace)
        bake_parametrizations(model)
        layers = None if names is None else [model.get_submodule(name) for name in names]
        cacher = self._config.input_cacher(model, layers)
        run = None
        if checkpoint_dir is not None:
            dataloader = list(itertools.islice(dataloader, self._config.calibration_nsamples))
            run = run_of(model, self._config, names, dataloader)
        with evaluating(model):
            if any(map(_scales, self._config.configs())):
                dataloader = list(itertools.islice(dataloader, self._config.calibration_nsamples))
                rounding_of = functools.partial(self._rounding_of, names)
                scale_activations(model, [Call.of(batch) for batch in dataloader], rounding_of, device)
                if run is not None:  # the scales are not in the files, and depend on how sums were computed
                    run["the scales of activation_aware_scale"] = fingerprint.of_weights(model)
            inputs, keywords = cacher.cache(dataloader, self._config.calibration_nsamples, device)
            calls = [Call.of(given, keywords) for given in inputs]
            if not calls:
                raise DataError("the dataloader gives no batch to calibrate with")
            checkpoint = None if checkpoint_dir is None or run is None else Checkpoint(checkpoint_dir, model, run)
            one_run = Run(model, self._config, self._config.match_original, checkpoint)
            self._report = one_run.compress(names, calls, device)
        register_version(model)
        self._model = model
        return model

    def _takes(self, parameter: Parameter) -> bool:
        return is_supported(parameter.module)

    def _config_of(self, parameter: Parameter) -> Any:
        return unless_idle(super()._config_of(parameter))

    def _rounding_of(self, names: list[str] | None, parameter: Parameter) -> Rounding | None:
        config = self._config.get_module_config(parameter.owner_name, parameter.owner)
        reached = names is None or any(is_in(parameter.module_name, name) for name in names)
        if not reached or not _scales(config):
            return None
        try:
            algorithm = GPTQ(parameter.module, config)
        except ConfigError:  # which the compression itself will say
            return None
        algorithm.cleanup()  # the Hessians of all layers would be too much at once
        return algorithm.rounded

    def _check_names(self) -> None:
        for kind, config in self._config.module_type_configs.items():
            known = not isinstance(kind, type) or issubclass(kind, SUPPORTED) or kind.__name__ == "Conv1D"
            if config is not None and not known:
                raise ConfigError(f"module_type_configs names {kind.__name__}, which can't be compressed layer by "
                                  "layer: only Linear, Conv1d and Conv2d can")  # fmt: skip
        for pattern, config in self._config.module_name_configs.items():
            named = [module for name, module in self._model.named_modules() if re.fullmatch(pattern, name)]
            if config is not None and not any(map(is_supported, named)):
                if not named:
                    names = (name for name, module in self._model.named_modules() if is_supported(module))
                    raise ConfigError(matches_nothing("module_name_configs", pattern, names))
                raise ConfigError(f"module_name_configs {pattern!r} names a {type(named[0]).__name__}, but only "
                                  "Linear, Conv1d and Conv2d can be compressed layer by layer")  # fmt: skip


def _scales(config: Any) -> bool:
    return isinstance(config, ModuleGPTQConfig) and config.activation_aware_scale and config.weight_n_bits <= 8


def __dir__() -> list[str]:
    return __all__
