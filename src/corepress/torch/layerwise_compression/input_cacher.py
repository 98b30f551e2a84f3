"""What the first of the layers to be compressed is called with, for each batch of calibration data."""

from __future__ import annotations

import contextlib
import itertools
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any

from torch import nn

from corepress.errors import ConfigError
from corepress.torch.calls import Call, Device
from corepress.torch.layerwise_compression.registry import Registry

__all__ = ["DefaultInputCacher", "FirstLayerInputCacher", "GPTFirstLayerInputCacher"]


@contextlib.contextmanager
def on_device(modules: Iterable[nn.Module], device: Device) -> Iterator[None]:
    """The own parameters and buffers of modules are on a device for a while."""
    homes = []
    try:
        for module in modules if device is not None else ():
            own = itertools.chain(module._parameters.values(), module._buffers.values())
            homes += [(module, next((tensor.device for tensor in own if tensor is not None), None))]
            module._apply(lambda tensor: tensor.to(device), recurse=False)  # type: ignore[no-untyped-call]
        yield
    finally:
        for module, home in homes:
            if home is not None:
                module._apply(lambda tensor, home=home: tensor.to(home), recurse=False)  # type: ignore


class FirstLayerInputCacher(Registry, ABC):
    """Finds the inputs of the first layer to be compressed. Derive from it for models that call their layers otherwise.

    Args:
        model: Of PyTorch.
        layers: As in `LayerwiseCompressorConfig`: modules, names or regular expressions; None for all children.

    Examples:
        >>> from corepress.torch.layerwise_compression import FirstLayerInputCacher
        >>> FirstLayerInputCacher.get_class("default").__name__
        'DefaultInputCacher'
    """

    def __init__(self, model: nn.Module, layers: Any):
        self._model = model
        self._layers = layers

    @abstractmethod
    def cache(self, dataloader: Iterable[Any], nsamples: int, device: Device) -> tuple[list[Any], dict[str, Any]]:
        """What the first layer is called with for up to `nsamples` batches, on `device`; keywords common to all."""


@FirstLayerInputCacher.register("default")
class DefaultInputCacher(FirstLayerInputCacher):
    """Takes the model's own inputs; if `layers` are given, what reaches the first of them when the model runs.

    Args:
        model: Of PyTorch.
        layers: As in `LayerwiseCompressorConfig`.

    Examples:
        >>> from corepress.torch.layerwise_compression import DefaultInputCacher
        >>> model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 8))
        >>> calls, common = DefaultInputCacher(model, None).cache([torch.zeros(1, 8)], 1, "cpu")
        >>> len(calls)
        1
    """

    def cache(self, dataloader: Iterable[Any], nsamples: int, device: Device) -> tuple[list[Any], dict[str, Any]]:
        if self._layers is None:
            return [Call.of(batch).to(device) for batch in itertools.islice(dataloader, nsamples)], {}
        layers = [
            module
            for name, module in self._model.named_modules()
            if any(re.fullmatch(layer, name) if isinstance(layer, str) else module is layer for layer in self._layers)
        ]
        if not layers:
            raise ConfigError("layers= names no layer of the model")
        return self._capture(layers, dataloader, nsamples, device), {}

    def _capture(self, layers: list[nn.Module], dataloader: Iterable[Any], nsamples: int, device: Device) -> list[Call]:
        calls: list[Call] = []

        def catch(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            calls.append(Call(args, dict(kwargs)).to(device))
            raise Stop

        inside = {module for layer in layers for module in layer.modules()}
        hook = layers[0].register_forward_pre_hook(catch, with_kwargs=True)
        try:
            # The layers themselves aren't run, so that they need no room on the device.
            with on_device((module for module in self._model.modules() if module not in inside), device):
                for batch in itertools.islice(dataloader, nsamples):
                    call = Call.of(batch).to(device)
                    with contextlib.suppress(Stop):
                        call.answer(self._model)
                        raise ConfigError("the model answers without calling the first of its layers=")
        finally:
            hook.remove()
        return calls


@FirstLayerInputCacher.register("gpt")
class GPTFirstLayerInputCacher(DefaultInputCacher):
    """For models in the style of GPT: takes what the embeddings and the like make of the model's inputs.

    Args:
        model: Of PyTorch.
        layers: As in `LayerwiseCompressorConfig`.

    Examples:
        >>> from corepress.torch.layerwise_compression import FirstLayerInputCacher
        >>> FirstLayerInputCacher.get_class("gpt").__name__
        'GPTFirstLayerInputCacher'
    """


class Stop(BaseException):
    """Ends a run of a model; not an Exception, which the model might catch."""


def __dir__() -> list[str]:
    return __all__
