"""The public names of coremltools 9.0 and ours: parameters and fields with the same names, order and defaults."""

from __future__ import annotations

import importlib
import inspect
from enum import Enum
from typing import Any

import attrs
import numpy as np
import pytest

MODULES = [
    "coreml",
    "coreml.experimental",
    "torch",
    "torch.base_model_optimizer",
    "torch.optimization_config",
    "torch.layerwise_compression",
    "torch.layerwise_compression.algorithms",
    "torch.layerwise_compression.input_cacher",
    "torch.palettization",
    "torch.palettization.fake_palettize",
    "torch.pruning",
    "torch.pruning.pruning_scheduler",
    "torch.quantization",
]
# What the peer has not.
OURS = {
    "torch": {"for_coreai", "refine", "search"},
    "torch.layerwise_compression": {"LUTGPTQ", "ModuleLUTGPTQConfig", "lut_gptq"},
    "torch.quantization": {"CoreMLQuantizer"},  # not in its `__init__`
    "coreml": {"CompressionGranularity", "to_coremltools", "calibrated", "narrow_indices", "rotate"},  # the first is
    # in its `_config`
}
# Defaults that differ on purpose: by default all cores work, and layers stay where they are.
DEFAULTS = {
    ("PostTrainingPalettizer.compress", "num_kmeans_workers"): None,
    ("SKMPalettizer.compress", "num_kmeans_workers"): None,
    ("LayerwiseCompressor.compress", "device"): None,
    ("LinearQuantizer.prepare", "example_inputs"): None,
    ("LayerwiseCompressorConfig", "layers"): None,  # which the peer doesn't do without
    ("LayerwiseCompressor.__init__", "config"): inspect.Parameter.empty,
    ("DKMPalettizerConfig", "module_type_configs"): ...,  # the bits that depend on the kind are filled in later
}
# What is required, or has no sense by itself.
REQUIRED = {
    "layers": [],
    "update_steps": [0, 1],
    "begin_step": 0,
    "op_type": "conv",
    "params_name_mapping": {"weight": "w"},
    "name": "x",
    "val": np.ones((2, 2)),
}
NEEDED = {"OpMagnitudePrunerConfig": {"target_sparsity": 0.5}, "OpPalettizerConfig": {"nbits": 4}}
# Classes that do the same in another way; what makes them is no interface of the peer's documentation.
OTHERWISE = {"FakePalettize"}
VALIDATORS = ("check_", "no_per_channel_scale", "per_grouped_channel_granularity", "per_block_granularity")


def names() -> list[Any]:
    found = []
    for module in MODULES:
        for name in importlib.import_module(f"corepress.{module}").__all__:
            if name not in OURS.get(module, ()) and name not in OTHERWISE:
                found.append(pytest.param(module, name, id=f"{module}.{name}"))
    return found


@pytest.mark.parametrize(("module", "name"), names())
def test_it_is_called_as_the_peers(module: str, name: str) -> None:
    ours = getattr(importlib.import_module(f"corepress.{module}"), name)
    peer = getattr(importlib.import_module(f"coremltools.optimize.{module}"), name, None)
    assert peer is not None, "only what is listed in OURS may be missing in the peer"
    if inspect.isfunction(ours):
        compare(ours.__name__, ours, undecorated(peer))
    elif inspect.isclass(ours) and not issubclass(ours, Enum):
        if attrs.has(ours) and attrs.has(peer):
            compare_fields(ours, peer)
        for name, method in inspect.getmembers(peer, callable):
            own = attrs.has(peer) and name == "__init__"
            public = not name.startswith(("_", *VALIDATORS)) or name == "__init__"
            if public and not own and (inspect.isfunction(method) or inspect.ismethod(method)):
                compare(f"{ours.__name__}.{name}", getattr(ours, name), method)
        abstract = [getattr(cls, "__abstractmethods__", frozenset()) for cls in (ours, peer)]
        assert abstract[0] == abstract[1]
    elif inspect.isclass(ours):
        assert [member.lower() for member in ours.__members__] == [member.lower() for member in peer.__members__]


def compare(label: str, ours: Any, peer: Any) -> None:
    theirs, mine = (list(inspect.signature(function).parameters.values()) for function in (peer, ours))
    assert [(each.name, each.kind) for each in mine[: len(theirs)]] == [(each.name, each.kind) for each in theirs]
    for own, each in zip(mine, theirs, strict=False):
        default = DEFAULTS.get((label, own.name), each.default)
        assert own.default == default, (label, own.name)
    for extra in mine[len(theirs) :]:
        assert extra.kind is inspect.Parameter.KEYWORD_ONLY and extra.default is not inspect.Parameter.empty, extra


def undecorated(function: Any) -> Any:
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    return next((cell for cell in cells if inspect.isfunction(cell)), function)


def compare_fields(ours: Any, peer: Any) -> None:
    """Fields have the peer's order; the defaults are compared in instances, where converters have been at work."""
    mine, theirs = ([field.name for field in attrs.fields(cls) if field.init] for cls in (ours, peer))
    theirs = [name for name in theirs if not name.startswith("_")]
    assert mine[: len(theirs)] == theirs
    required = [field.name for field in attrs.fields(peer) if field.init and field.default is attrs.NOTHING]
    given = {name: REQUIRED.get(name) for name in required} | NEEDED.get(ours.__name__, {})
    if inspect.isabstract(ours):
        return
    one, other = ours(**given), peer(**given)
    for name in theirs:
        if (ours.__name__, name) not in DEFAULTS:
            assert told(getattr(one, name)) == told(getattr(other, name)), name


def told(value: Any) -> Any:
    """What a value stands for, in the words that both have."""
    if isinstance(value, Enum):
        return value.name.lower()
    if isinstance(value, dict):
        return {told(key): told(each) for key, each in value.items()}
    if attrs.has(type(value)):
        return type(value).__name__
    if hasattr(value, "get_bitwidth"):  # a type of coremltools
        return f"{'u' if value.is_unsigned() else ''}int{value.get_bitwidth()}"
    if inspect.isclass(value):
        return value.__name__
    if hasattr(value, "tolist"):
        return value.tolist()
    return value.lower() if isinstance(value, str) else list(value) if isinstance(value, tuple) else value
