"""Compression of neural networks, the older model type (iOS 15 and before): see `quantization_utils`."""

import importlib
from typing import TYPE_CHECKING, Any

from corepress.formats.neural_network import LayerWeight, Model, load

if TYPE_CHECKING:
    from corepress.neural_network import quantization_utils as quantization_utils

__all__ = ["LayerWeight", "Model", "load", "quantization_utils"]


def __getattr__(name: str) -> Any:
    if name != "quantization_utils":
        raise AttributeError(f"module 'corepress.neural_network' has no attribute {name!r}")
    return importlib.import_module("corepress.neural_network.quantization_utils")  # on first use


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
