"""Puts corepress.torch in the place of `coremltools.optimize.torch`, for tests that are imported afterwards.

What corepress does not have, as private classes, stays the peer's, so that test modules can be imported.
"""

from __future__ import annotations

import importlib
import sys
import types
from typing import Any

import coremltools as ct
import torch

from conformance.stand_ins import stand_in
from corepress.torch import metadata

PEER = "coremltools.optimize.torch"
MODULES = (
    "",
    "base_model_optimizer",
    "optimization_config",
    "layerwise_compression",
    "layerwise_compression.algorithms",
    "layerwise_compression.input_cacher",
    "layerwise_compression.layerwise_compressor",
    "palettization",
    "palettization.fake_palettize",
    "palettization.palettization_config",
    "palettization.palettizer",
    "palettization.post_training_palettization",
    "palettization.sensitive_k_means",
    "pruning",
    "pruning.magnitude_pruner",
    "pruning.pruning_scheduler",
    "quantization",
    "quantization.post_training_quantization",
    "quantization.quantization_config",
    "quantization.quantizer",
)


def replace_the_peer() -> None:
    """What is imported from now on finds our names, and `dir` shows only those."""
    # The tests of conversion run only where Core ML is; they compare no answers elsewhere.
    ct.utils._macos_version = lambda: (15, 0)
    for name in MODULES:
        ours = importlib.import_module(f"corepress.torch.{name}".rstrip("."))
        public = {key: value for key, value in vars(ours).items() if not key.startswith("_")}
        install(name, public | ({"__dir__": ours.__dir__} if "__dir__" in vars(ours) else {}))
    names = ("CompressionMetadata", "CompressionType")
    private: dict[str, Any] = {name: getattr(metadata, name) for name in names}
    private |= {
        "METADATA_VERSION": torch.tensor(1),
        "METADATA_VERSION_BUFFER": metadata.VERSION_BUFFER,
        "register_metadata_version": metadata.register_version,
    }
    install("_utils.metadata_utils", private)
    replace_pt2e()


def replace_pt2e() -> None:
    """Export quantization, which PyTorch has moved to torchao, where the tests look for it; and our quantizer."""
    from torchao.quantization.pt2e import quantize_pt2e

    from corepress.torch.quantization import _coreml_quantizer as ours

    torch.export.export_for_training = torch.export.export  # type: ignore[attr-defined]
    sys.modules["torch.ao.quantization.quantize_pt2e"] = quantize_pt2e
    sys.modules[f"{PEER}.quantization._coreml_quantizer"] = ours


def install(name: str, names: dict[str, Any]) -> None:
    """A module of the peer with these names instead of its own, reached by import and as an attribute alike."""
    full = f"{PEER}.{name}".rstrip(".")
    original = importlib.import_module(full)
    module: types.ModuleType = stand_in(original, **names)
    sys.modules[full] = module
    parent, _, leaf = full.rpartition(".")
    setattr(sys.modules[parent], leaf, module)
