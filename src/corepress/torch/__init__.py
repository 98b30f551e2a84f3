"""Compression of PyTorch models, with the public interface of `coremltools.optimize.torch`."""

from corepress.errors import importing

with importing("corepress.torch"):
    from corepress.torch import (
        base_model_optimizer,
        layerwise_compression,
        optimization_config,
        palettization,
        pruning,
        quantization,
    )

__all__ = [
    "base_model_optimizer",
    "layerwise_compression",
    "optimization_config",
    "palettization",
    "pruning",
    "quantization",
]


def __dir__() -> list[str]:
    return __all__
