"""`DKMPalettizer`: look-up tables and indices are learned while the model is trained."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from corepress.engine import Skip
from corepress.errors import CorepressError, OrderError
from corepress.torch import training
from corepress.torch.base_model_optimizer import BaseTrainingTimeModelOptimizer
from corepress.torch.metadata import array_of, describe, read_weight, register_version, write_weight
from corepress.torch.palettization.fake_palettize import FakePalettize
from corepress.torch.palettization.palettization_config import DKMPalettizerConfig, ModuleDKMPalettizerConfig
from corepress.torch.parameters import Parameter, Slot, together
from corepress.torch.quantization.fake_quantize import FakeQuantize
from corepress.torch.quantization.quantization_config import ObserverType
from corepress.torch.report import Report, row
from corepress.torch.rewrite import check, skipped
from corepress.weights import Palettized, Quantized, Sparse

__all__ = ["DKMPalettizer", "Palettizer"]


class Palettizer(BaseTrainingTimeModelOptimizer):
    """A method that palettizes a model while it is trained."""


class DKMPalettizer(Palettizer):
    """Palettizes weights by differentiable k-means while a model is trained.

    Its cost grows with the number of distinct values, not of weights (`algorithms/learned/dkm.py`). Weights that are
    pruned, by a `MagnitudePruner` at work or before, keep their zeros: tables are of the other values. The state of the
    method is in the prepared model's `state_dict`. Source: Cho et al. 2022, arXiv 2108.12659.

    Args:
        model: Of PyTorch; it stays as it is.
        config: Which modules, and how; by default 4 bits for linear layers and 2 for others.
        strict: An addition: make an error of a rule that decides nothing, where a warning would do.

    Examples:
        >>> from corepress.torch.palettization import DKMPalettizer, DKMPalettizerConfig
        >>> model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
        >>> config = DKMPalettizerConfig.from_dict({"global_config": {"n_bits": 2, "weight_threshold": 0}})
        >>> palettizer = DKMPalettizer(model, config)
        >>> prepared = palettizer.prepare()
        >>> optimizer = torch.optim.Adam(prepared.parameters())
        >>> prepared(torch.randn(8, 64)).square().mean().backward()
        >>> _ = optimizer.step()
        >>> palettizer.step()
        >>> len(palettizer.finalize()[0].weight.unique())
        4
    """

    _supported_modules = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Embedding, nn.MultiheadAttention)

    def __init__(self, model: nn.Module, config: DKMPalettizerConfig | None = None, *, strict: bool = False):
        super().__init__(model, DKMPalettizerConfig() if config is None else config, strict=strict)

    def prepare(self, inplace: bool = False) -> nn.Module:
        """Make the model to be trained.

        A weight that can't be palettized is left as it is, with a warning; `report().skipped` says why.

        Args:
            inplace: Change the model itself instead of a copy.

        Returns:
            The model in training mode, whose weights pass through `FakePalettize`.
        """
        if self._is_prepared:
            return self._model
        self._check_config()
        self._model = self._get_model_for_compression(inplace).train()
        report = Report()
        modules: dict[str, list[Parameter]] = {}
        for parameter in filter(self._takes, training.weights(self._model)):
            modules.setdefault(parameter.owner_name, []).append(parameter)
        for own in modules.values():
            config = self._config_of(own[0])
            if config is not None:
                for parameter in own:
                    self._attach(parameter, config, report)
                if config.quantize_activations:
                    _quantize_outputs(own[0].owner, config)
        self._skipped, self._is_prepared = report.skipped, True
        return self._model

    def _takes(self, parameter: Parameter) -> bool:
        return isinstance(parameter.owner, self._supported_modules)

    def _config_of(self, parameter: Parameter) -> Any:
        own = [each for each in training.weights(parameter.owner) if each.owner is parameter.owner]
        sizes = [training.trained(each).numel() for each in own]
        return self._config.choose(parameter.owner_name, training.class_of(parameter.owner), sizes)

    def _attach(self, parameter: Parameter, config: ModuleDKMPalettizerConfig, report: Report) -> None:
        try:
            with training.idle(training.siblings(parameter, training.Part)), torch.no_grad():
                check(parameter)
                form = read_weight(parameter)
                shape, device = parameter.value.shape, parameter.value.device
            inner = form.values if isinstance(form, Sparse) else form
            if isinstance(inner, (Palettized, Quantized)):
                raise Skip("it is compressed already")
            part = FakePalettize(config, shape, parameter.output_axis, parameter.key).to(device)
        except CorepressError as reason:
            skipped(report, parameter, str(reason))
            return
        part.keep_zeros = isinstance(form, Sparse)
        training.attach(parameter, part)

    def step(self) -> None:
        """To be called after each step of the optimiser: at its milestone a weight begins to be palettized."""
        if not self._is_prepared:
            raise OrderError("call prepare() before step(): it puts the tables in")
        for _, part in training.parts(self._model, FakePalettize):
            part.step()
            self._step_count = part.steps

    def enable_fake_palett(self, flag: bool) -> None:
        """Palettize all prepared weights from now on, or none."""
        for _, part in training.parts(self._model, FakePalettize):
            part.enable_fake_palett(flag)

    def finalize(self, model: nn.Module | None = None, inplace: bool = False) -> nn.Module:
        """Make the palettized model. Masks of a `MagnitudePruner` are finished, too.

        Args:
            model: That of `prepare` or a copy of it, by default the former. If it was split by `fully_shard`, each
                process calls this, and gets a whole one on the CPU.
            inplace: Change that model itself instead of a copy.

        Returns:
            The model in evaluation mode, with the buffers by which `coremltools.convert` knows it.
        """
        if not self._is_prepared:
            raise OrderError("call prepare() before finalize(): it puts the tables in")
        model = self._get_model_to_finalize(model, inplace).eval()
        found = list(training.parts(model, FakePalettize))
        forms = {part.name: part.form(_seen(slot)) for slot, part in found}
        for slot, _ in found:
            training.detach(slot)
        for first, *others in together(slot for slot, _ in found):
            write_weight(first, forms[first.key])
            for other in others:  # whose table may have seen other calls
                describe(other, forms[first.key])
        for module in model.modules():
            _drop_quantized_outputs(module)
        register_version(model)
        return model

    def report(self) -> Report:
        """A row for each weight: what its palettized form is made of, and how far it is from the trained one."""
        report = Report()
        with torch.no_grad():
            for slot, part in training.parts(self._model, FakePalettize):
                weight = _seen(slot)
                part = part if part.started else copy.deepcopy(part)  # it is to start with the weight of its milestone
                columns = row(array_of(weight), part.form(weight)) | {"device": str(weight.device)}
                report[training.label(slot)] = columns
        report = report.normalized()
        report.skipped = dict(self._skipped)
        return report


def _seen(slot: Slot) -> torch.Tensor:
    """The weight as its tables see it: trained, and masked."""
    return training.passed(slot, FakePalettize.stage)


def _quantize_outputs(module: nn.Module, config: ModuleDKMPalettizerConfig) -> None:
    if config.dtype is torch.float32:
        return
    signed = config.dtype is torch.qint8
    rounding = FakeQuantize(ObserverType.moving_average_min_max, signed=signed, symmetric=False)
    rounding.quant_min, rounding.quant_max = config.quant_min, config.quant_max
    module.add_module("activation_post_process", rounding.to(next(module.parameters()).device))
    module.register_forward_hook(_round_output)


def _round_output(module: nn.Module, _: Any, output: Any) -> Any:
    rounding: Any = module.activation_post_process
    return (rounding(output[0]), *output[1:]) if isinstance(output, tuple) else rounding(output)


def _drop_quantized_outputs(module: nn.Module) -> None:
    for key, hook in list(module._forward_hooks.items()):
        if hook is _round_output:
            del module._forward_hooks[key]
            del module.activation_post_process


def __dir__() -> list[str]:
    return __all__
