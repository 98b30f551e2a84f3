"""coremltools' own configuration objects do what ours of the same fields do."""

from __future__ import annotations

import logging

import attrs
import pytest
import torch
from torch import nn

from corepress.errors import ConfigError
from corepress.torch import layerwise_compression, palettization, pruning, quantization
from tests.lazy import lazy

peer = lazy("coremltools.optimize.torch")

PACKAGES = (palettization, quantization, pruning, layerwise_compression)
# Fields of each class that are set to something else than the default, in words that both take.
SET = {
    "ModulePostTrainingPalettizerConfig": [{"n_bits": 3, "granularity": "per_grouped_channel", "group_size": 4}],
    "ModuleSKMPalettizerConfig": [{"n_bits": 2, "lut_dtype": torch.int8}],
    "ModuleDKMPalettizerConfig": [{"n_bits": 3, "milestone": 7, "lut_dtype": "f16", "palett_tau": 0.01}],
    "ModulePostTrainingQuantizerConfig": [
        {"weight_dtype": "int4", "granularity": "per_block", "block_size": 8},
        {"weight_dtype": "uint4", "quantization_scheme": "affine"},
        {"weight_dtype": "float32"},
        {"weight_dtype": torch.int8},
    ],
    "ModuleLinearQuantizerConfig": [
        {"weight_dtype": "qint4", "milestones": [1, 2, 3, 4]},
        {"weight_dtype": torch.quint8, "quantization_scheme": "affine", "activation_dtype": torch.float32},
    ],
    "ModuleMagnitudePrunerConfig": [
        {"target_sparsity": 0.75, "n_m_ratio": (3, 4)},
        {"scheduler": {"update_steps": [1, 5, 9], "power": 2}, "initial_sparsity": 0.25},
        {"scheduler": {"begin_step": 3}, "granularity": "per_kernel"},
    ],
    "ModuleGPTQConfig": [
        {"weight_dtype": "uint4", "granularity": "per_block", "block_size": 8},
        {"weight_dtype": "uint3", "enable_normal_float": True},
    ],
    "ModuleSparseGPTConfig": [{"weight_dtype": "uint4", "n_m_ratio": (2, 4)}, {"weight_dtype": "float16"}],
}
OF_MODEL = {
    "ModulePostTrainingPalettizerConfig": "PostTrainingPalettizer",
    "ModuleSKMPalettizerConfig": "SKMPalettizer",
    "ModuleDKMPalettizerConfig": "DKMPalettizer",
    "ModulePostTrainingQuantizerConfig": "PostTrainingQuantizer",
    "ModuleLinearQuantizerConfig": "LinearQuantizer",
    "ModuleMagnitudePrunerConfig": "MagnitudePruner",
    "ModuleGPTQConfig": "LayerwiseCompressor",
    "ModuleSparseGPTConfig": "LayerwiseCompressor",
}


def package_of(name: str):
    ours = next(package for package in PACKAGES if hasattr(package, name))
    return ours, getattr(peer, ours.__name__.rpartition(".")[2])


def test_every_configuration_of_a_module_is_tried() -> None:
    theirs = {
        name
        for package in PACKAGES
        for name in dir(getattr(peer, package.__name__.rpartition(".")[2]))
        if name.startswith("Module") and name.endswith("Config")
    }
    assert theirs == set(SET)


CASES = [(name, fields) for name, several in SET.items() for fields in ({}, *several)]


@pytest.mark.parametrize(("name", "fields"), CASES, ids=str)
def test_a_module_configuration_is_read_field_by_field(name, fields) -> None:
    ours, theirs = package_of(name)
    given = getattr(theirs, name).from_dict(dict(fields))
    wanted = getattr(ours, name).from_dict(fields)
    whole = getattr(ours, f"{OF_MODEL[name]}Config")
    config = whole(global_config=given, module_type_configs={"Linear": given}, module_name_configs={"a": given})
    assert list(config.configs()) == [wanted, wanted, wanted]
    config = (
        whole(module_name_configs={"a": None})
        .set_global(given)
        .set_module_type(nn.Linear, given)
        .set_module_name("a", given)
    )
    assert list(config.configs()) == [wanted, wanted, wanted]


@pytest.mark.parametrize(("name", "fields"), [case for case in CASES if case[1]], ids=str)
def test_a_whole_configuration_is_taken_by_the_optimizer(name, fields) -> None:
    ours, theirs = package_of(name)
    levels = {"module_type_configs": {"Linear": dict(fields)}, "module_name_configs": {"a.*": None, "b": dict(fields)}}
    for level in levels.values() if OF_MODEL[name] == "LayerwiseCompressor" else ():
        for key in [key for key, value in level.items() if value]:
            level[key] = level[key] | {"algorithm": "gptq" if name == "ModuleGPTQConfig" else "sparse_gpt"}
    layers = {"layers": ["0"]} if OF_MODEL[name] == "LayerwiseCompressor" else {}
    cls = f"{OF_MODEL[name]}Config"
    given = getattr(theirs, cls).from_dict({**levels, **layers})
    wanted = getattr(ours, cls).from_dict({**levels, **layers})
    optimizer = getattr(ours, OF_MODEL[name])(nn.Sequential(nn.Linear(8, 8)), given)
    assert optimizer._config == wanted
    assert attrs.asdict(given) is not None and type(given).__module__.startswith("coremltools")


def test_it_compresses_alike() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 32))
    given = peer.palettization.PostTrainingPalettizerConfig.from_dict({"global_config": {"n_bits": 2}})
    wanted = palettization.PostTrainingPalettizerConfig.from_dict({"global_config": {"n_bits": 2}})
    found = [palettization.PostTrainingPalettizer(model, config).compress()[0].weight for config in (given, wanted)]
    assert torch.equal(*found) and len(found[0].unique()) == 4


def test_what_has_no_counterpart_is_refused() -> None:
    class Own(peer.palettization.ModulePostTrainingPalettizerConfig):
        pass

    with pytest.raises(ConfigError, match="Own derives from coremltools' ModulePostTrainingPalettizerConfig"):
        palettization.PostTrainingPalettizerConfig(global_config=Own())
    with pytest.raises(ConfigError, match="must be a ModulePostTrainingPalettizerConfig"):
        palettization.PostTrainingPalettizerConfig(global_config=peer.palettization.ModuleSKMPalettizerConfig())


def test_layers_come_first_as_in_coremltools(caplog) -> None:
    model = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16))
    config = layerwise_compression.LayerwiseCompressorConfig(["0"], layerwise_compression.ModuleGPTQConfig())
    with caplog.at_level(logging.WARNING):
        compressor = layerwise_compression.LayerwiseCompressor(model, config)
        compressor.compress([torch.randn(4, 16)])
    assert list(compressor.report()) == ["0.weight"]


class Ones:
    """As users derive from the base classes: see coremltools' own test_base_optimizer.py."""

    def report(self):
        return None

    def compress(self, *args, inplace=False, **kwargs):
        model = super().compress(*args, inplace=inplace, **kwargs)
        with torch.no_grad():
            model[0].weight.fill_(1)
        return model


@pytest.mark.parametrize("base", ["BasePostTrainingModelOptimizer", "BaseDataCalibratedModelOptimizer"])
@pytest.mark.parametrize("inplace", [True, False])
def test_the_bases_can_be_derived_from(base, inplace) -> None:
    from corepress.torch import base_model_optimizer

    model = nn.Sequential(nn.Linear(4, 4))
    before = model[0].weight.detach().clone()
    optimizer = type("Own", (Ones, getattr(base_model_optimizer, base)), {})(model)
    found = optimizer.compress(dataloader=None, inplace=inplace)
    assert (found is model) == inplace and (found[0].weight == 1).all()
    assert torch.equal(model[0].weight, before) != inplace
