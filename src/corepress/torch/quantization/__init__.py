"""Quantization of PyTorch models.

Without data (`post_training_quantization.py`), and while a model is trained (`quantizer.py`): `capture.py` makes a
graph of the model, `patterns.py` is the table of what is rounded, `plan.py` groups values that share a scale,
`insertion.py` puts fake quantization in, and `finishing.py` makes integers of it. `annotation.py` and
`_coreml_quantizer.py` give the same table and plan to PyTorch 2 export.

One more operation with integers: its line in `patterns.py`, which both kinds of graph read.
"""

from typing import TYPE_CHECKING, Any

from corepress.torch.quantization import post_training_quantization, quantization_config, quantizer
from corepress.torch.quantization.post_training_quantization import (
    ModulePostTrainingQuantizerConfig,
    PostTrainingQuantizer,
    PostTrainingQuantizerConfig,
)
from corepress.torch.quantization.quantization_config import (
    LinearQuantizerConfig,
    ModuleLinearQuantizerConfig,
    ObserverType,
    QuantizationScheme,
)
from corepress.torch.quantization.quantizer import LinearQuantizer

if TYPE_CHECKING:
    from corepress.torch.quantization._coreml_quantizer import CoreMLQuantizer as CoreMLQuantizer

__all__ = [
    "CoreMLQuantizer",
    "LinearQuantizer",
    "LinearQuantizerConfig",
    "ModuleLinearQuantizerConfig",
    "ModulePostTrainingQuantizerConfig",
    "ObserverType",
    "PostTrainingQuantizer",
    "PostTrainingQuantizerConfig",
    "QuantizationScheme",
    "post_training_quantization",
    "quantization_config",
    "quantizer",
]


def __getattr__(name: str) -> Any:
    """`CoreMLQuantizer` on first use: torchao, which it needs, may be missing, and takes seconds to import."""
    if name == "CoreMLQuantizer":
        from corepress.torch.quantization._coreml_quantizer import CoreMLQuantizer

        return CoreMLQuantizer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
