"""Compression of PyTorch models, with the public interface of `coremltools.optimize.torch`.

A folder is a kind of compression, with names of the peer: `palettization`, `quantization`, `pruning`, and
`layerwise_compression` for methods that are fitted to data layer by layer. Beside them is what they share: which module
gets which configuration (`optimization_config.py`, `rules.py`), where weights are (`parameters.py`), what is done with
them (`rewrite.py`, `shards.py`, and `training.py` for what learns), and how a compressed weight lives in a module
(`metadata.py`). Algorithms are in `corepress.algorithms`; nothing here may import `coreml`, `runtime` or `formats`, but
for `formats.atomic`, except `searching.py`, `refining.py` and `core_ai.py`, which stand above what they import.
`import corepress.torch` must take no longer than `import torch`: the compiler of PyTorch, torchao, cattrs and rich are
imported on first use (`tests/torch/test_import.py`).

One more method: a configuration (`ModuleOptimizationConfig`) and an optimizer that derives from one of the classes of
`base_model_optimizer.py`; a layer-wise one is two registered classes (`layerwise_compression/algorithms.py`).
"""

import importlib
from typing import TYPE_CHECKING, Any

from corepress.errors import importing

if TYPE_CHECKING:
    from corepress.torch.core_ai import for_coreai as for_coreai
    from corepress.torch.refining import refine as refine
    from corepress.torch.searching import search as search

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
    "for_coreai",
    "layerwise_compression",
    "optimization_config",
    "palettization",
    "pruning",
    "quantization",
    "refine",
    "search",
]
# What imports the rest of corepress, on first use.
_LATER = {
    "for_coreai": "corepress.torch.core_ai",
    "refine": "corepress.torch.refining",
    "search": "corepress.torch.searching",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'corepress.torch' has no attribute {name!r}")
    return getattr(importlib.import_module(_LATER[name]), name)


def __dir__() -> list[str]:
    return __all__
