"""`LinearQuantizer`: a PyTorch model learns to compute with integers while it is trained."""

from __future__ import annotations

import logging
import types
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn

from corepress.errors import ConfigError, OrderError
from corepress.torch import training
from corepress.torch.base_model_optimizer import BaseTrainingTimeModelOptimizer
from corepress.torch.distributed import has_split_weights, is_split, unwrapped, whole_copy
from corepress.torch.metadata import register_version
from corepress.torch.parameters import bake_parametrizations
from corepress.torch.quantization.capture import capture
from corepress.torch.quantization.fake_quantize import FakeQuantize
from corepress.torch.quantization.finishing import finish_activations, finish_layers
from corepress.torch.quantization.insertion import places, quantize_activations, quantize_layers, weight_configs
from corepress.torch.quantization.layers import FakeQuantizedLayer
from corepress.torch.quantization.quantization_config import LinearQuantizerConfig
from corepress.torch.quantization.values import real_values
from corepress.torch.report import Report
from corepress.torch.rules import check_places, check_shared, shared_weights

__all__ = ["LinearQuantizer", "Quantizer"]

log = logging.getLogger(__name__)


class Quantizer(BaseTrainingTimeModelOptimizer):
    """A method that quantizes a model while it is trained."""


class LinearQuantizer(Quantizer):
    """Quantization-aware training: weights and activations are rounded in the forward pass, gradients pass through.

    The graph of the model is that of `torch.fx`; `patterns.py` is the table of what is quantized.
    Source: Jacob et al. 2017, "Quantization and training of neural networks for efficient integer-arithmetic-only
    inference", arXiv 1712.05877.

    Args:
        model: Of PyTorch; it stays as it is.
        config: Which modules and functions, and how; by default all, W8A8.
        strict: An addition: make an error of a rule that decides nothing, where a warning would do.

    Examples:
        >>> from corepress.torch.quantization import LinearQuantizer
        >>> model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
        >>> quantizer = LinearQuantizer(model)
        >>> prepared = quantizer.prepare((torch.randn(8, 64),))
        >>> optimizer = torch.optim.Adam(prepared.parameters())
        >>> prepared(torch.randn(8, 64)).square().mean().backward()
        >>> _ = optimizer.step()
        >>> quantizer.step()
        >>> quantizer.finalize()(torch.randn(8, 64)).shape
        torch.Size([8, 10])
    """

    def __init__(self, model: nn.Module, config: LinearQuantizerConfig | None = None, *, strict: bool = False):
        super().__init__(model, LinearQuantizerConfig() if config is None else config, strict=strict)
        self._milestones = self._config.leading.milestones
        self._quantization_scheme = self._config.leading.quantization_scheme  # read by tests of coremltools

    def prepare(self, example_inputs: Any = None, inplace: bool = False) -> nn.Module:
        """Put fake quantization into the model.

        Modules of PyTorch without weights of their own in the table, such as LSTM, and functions on weights stay as
        they are.

        Args:
            example_inputs: The arguments of `forward`: a tensor or array, several in a tuple or list, or by their names
                in a dictionary. They tell which values are tensors of floating-point numbers, mostly without a run: so
                a shape, such as [1, 3, 224, 224], will do in place of a tensor, and None where no integers are computed
                from tensors.
            inplace: Share the parameters with the model, instead of with a copy.

        Returns:
            The model in training mode, a `torch.fx.GraphModule`.

        Raises:
            CorepressError: For a `forward` that `torch.fx` can't capture; the message names the module and the line.
        """
        if self._is_prepared:
            log.warning("the model is prepared already")
            return self._model
        model = self._get_model_for_compression(inplace)
        _bake(model)
        model.train()
        prepared = capture(model, self._config.non_traceable_module_names)
        self._check_graph(model, prepared)
        real = real_values(prepared, example_inputs)
        quantize_layers(prepared, self._config)
        quantize_activations(prepared, self._config, real)
        self._preserve(model, prepared)
        if self._milestones is not None:
            for fake_quant in _fake_quants(prepared):
                fake_quant.observer_enabled = fake_quant.fake_quant_enabled = False
        self._model, self._is_prepared = prepared, True
        return prepared

    def _check_graph(self, model: nn.Module, prepared: fx.GraphModule) -> None:
        """Before anything is quantized: warn of rules without effect; refuse two ways for one shared weight."""
        check_places(model, self._config, places(prepared), type(self).__name__, self._strict)
        configs = weight_configs(prepared, self._config)
        groups = shared_weights(prepared)
        check_shared([(p.key, configs[p.module_name]) for p in own if p.module_name in configs] for own in groups)

    def _preserve(self, source: nn.Module, target: fx.GraphModule) -> None:
        """Give a graph the attributes of the model that the configuration names; methods are bound to it."""
        for name in self._config.preserved_attributes:
            if hasattr(source, name):
                value = getattr(source, name)
                bound = isinstance(value, types.MethodType) and value.__self__ is source
                setattr(target, name, types.MethodType(value.__func__, target) if bound else value)

    def step(self) -> None:
        """Count a step of the optimizer, and do what the milestones say of it."""
        if not self._is_prepared:
            log.warning("step() does nothing before prepare()")
            return
        if any(is_split(fake_quant.scale) for fake_quant in _fake_quants(self._model)):
            raise ConfigError(
                'algorithm "learnable" keeps its scales in parameters, which fully_shard must not split: train with '
                "DistributedDataParallel, or with algorithm vanilla"
            )
        if self._milestones is None:
            return
        fake_quants = list(_fake_quants(self._model))
        # The count is in the state dictionary, so that a training goes on where it was.
        step = max((fake_quant.steps for fake_quant in fake_quants), default=self._step_count)
        observe, simulate, settle, freeze = (step == milestone for milestone in self._milestones)
        for fake_quant in fake_quants:
            fake_quant.observer_enabled = (fake_quant.observer_enabled or observe) and not settle
            fake_quant.fake_quant_enabled = fake_quant.fake_quant_enabled or simulate
            fake_quant.steps = step + 1
        for module in self._model.modules():
            if isinstance(module, FakeQuantizedLayer):
                module.freeze_bn = module.freeze_bn or freeze
        self._step_count = step + 1

    def finalize(self, model: nn.Module | None = None, inplace: bool = False) -> nn.Module:
        """Make the quantized model.

        Batch norms are folded; weights are dense, with the buffers that say which integers they are; activations pass
        through `quantize_per_tensor` and `dequantize`. Values that no data was observed of stay in floating point, with
        a warning.

        Args:
            model: The prepared one, trained; by default that of `prepare`. If it was split by `fully_shard`, each
                process calls this, and gets a whole one on the CPU.
            inplace: Change that model itself instead of a copy.

        Returns:
            The model in evaluation mode, ready for `torch.jit.trace` and `coremltools.convert`.

        Raises:
            OrderError: Before `prepare`.
            DataError: If a weight or a scale is not finite.
        """
        if not self._is_prepared:
            raise OrderError("finalize() needs a prepared model: call prepare(example_inputs) and train it first")
        prepared = unwrapped(self._model if model is None else model)
        if not isinstance(prepared, fx.GraphModule):
            raise OrderError(f"finalize() needs the model that prepare() gave, not a {type(prepared).__name__}")
        finished = self._get_model_to_finalize(prepared, inplace)
        assert isinstance(finished, fx.GraphModule)
        self._preserve(prepared, finished)
        finished.eval()
        finish_activations(finished)
        finish_layers(finished)
        register_version(finished)
        return finished

    def enable_observer_sync(self) -> None:
        """Let observers see the data of all processes of a distributed training, as they do by default."""
        self._synchronize(True)

    def disable_observer_sync(self) -> None:
        """Let observers see the data of their own process only, such as in a validation that one process does."""
        self._synchronize(False)

    def _synchronize(self, synchronize: bool) -> None:
        for fake_quant in _fake_quants(self._model):
            fake_quant.synchronize = synchronize

    @torch.no_grad()
    def report(self) -> Report:
        """A row for each weight and each activation of the prepared model; `error` is the root of the mean square."""
        report = Report()
        model = whole_copy(self._model) if has_split_weights(self._model) else self._model
        for name, module in model.named_modules():
            if isinstance(module, FakeQuantizedLayer) and module.weight_fake_quant is not None:
                error = _error(module.weight_fake_quant, module.weight)
                columns = {"type": "weight", **_columns(module.weight_fake_quant)}
                report[name] = {**columns, "error": error, "#params": module.weight.numel()}
            elif isinstance(module, FakeQuantize) and module.members:
                report[name] = {"type": "activation", **_columns(module), "error": float("nan"), "#params": -1}
        return report


def _bake(model: nn.Module) -> None:
    """Make weights plain that are computed from others, as by weight norm; but the masks of a pruner stay at work."""
    masks = [(slot, part) for slot, part in training.parts(model, training.Part) if part.makes_zeros]
    with training.idle([mask for _, mask in masks]):
        bake_parametrizations(model)
    for slot, mask in masks:
        training.attach(slot, mask)


def _fake_quants(model: nn.Module) -> Iterator[FakeQuantize]:
    return (module for module in model.modules() if isinstance(module, FakeQuantize))


def _columns(fake_quant: FakeQuantize) -> dict[str, Any]:
    return {
        "device": fake_quant.scale.device,
        "algorithm": fake_quant.algorithm,
        "qscheme": "symmetric" if fake_quant.symmetric else "affine",
        "per_channel": fake_quant.channel_axis is not None,
        "dtype": torch.qint8 if fake_quant.signed else torch.quint8,
        "qmin": fake_quant.quant_min,
        "qmax": fake_quant.quant_max,
    }


def _error(fake_quant: FakeQuantize, weight: Tensor) -> float:
    return float((fake_quant.simulate(weight) - weight).square().mean().sqrt())


def __dir__() -> list[str]:
    return __all__
