"""Configurations: what they accept, what they say about the rest, and which module gets which."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import nn

from corepress.errors import ConfigError
from corepress.torch import optimization_config as base
from corepress.torch.palettization import (
    ModulePostTrainingPalettizerConfig,
    ModuleSKMPalettizerConfig,
    PostTrainingPalettizerConfig,
    SKMPalettizerConfig,
)
from corepress.torch.quantization import (
    LinearQuantizerConfig,
    ModulePostTrainingQuantizerConfig,
    PostTrainingQuantizer,
    PostTrainingQuantizerConfig,
    QuantizationScheme,
)

CONFIGS = [PostTrainingPalettizerConfig, SKMPalettizerConfig, PostTrainingQuantizerConfig]
MODULE_CONFIGS = [ModulePostTrainingPalettizerConfig, ModuleSKMPalettizerConfig, ModulePostTrainingQuantizerConfig]


@pytest.mark.parametrize("cls", CONFIGS)
def test_a_configuration_that_names_nothing_means_the_defaults_for_everything(cls) -> None:
    for config in (cls(), cls.from_dict({}), cls.from_yaml(io.StringIO(""))):
        assert config.global_config == cls._module_config()
        assert config.get_module_config("any", nn.Linear(2, 2)) is config.global_config


def test_defaults_are_those_of_coremltools() -> None:
    peer = pytest.importorskip("coremltools.optimize.torch")
    pairs = [(peer.palettization, name) for name in ("ModulePostTrainingPalettizerConfig", "ModuleSKMPalettizerConfig")]
    pairs.append((peer.quantization, "ModulePostTrainingQuantizerConfig"))
    for (package, name), ours in zip(pairs, MODULE_CONFIGS, strict=True):
        for key, value in getattr(package, name)().as_dict().items():
            own = getattr(ours(), key)
            assert getattr(own, "name", own) == getattr(value, "name", value), (name, key)
    assert SKMPalettizerConfig().calibration_nsamples == peer.palettization.SKMPalettizerConfig().calibration_nsamples


@pytest.mark.parametrize("cls", CONFIGS)
def test_a_misspelt_key_is_answered_with_the_right_one(cls) -> None:
    with pytest.raises(ConfigError, match='Did you mean "global_config"'):
        cls.from_dict({"globl_config": {}})
    with pytest.raises(ConfigError, match='Did you mean "granularity"'):
        cls.from_dict({"global_config": {"granularty": "per_tensor"}})
    with pytest.raises(ConfigError, match=r"module_name_configs 'a'.*granularity"):
        cls.from_dict({"module_name_configs": {"a": {"granularty": "per_tensor"}}})
    with pytest.raises(TypeError, match="granularity"):
        cls._module_config(granularty="per_tensor")


@pytest.mark.parametrize("cls", CONFIGS)
def test_from_dict_leaves_its_argument_unchanged(cls) -> None:
    given = {
        "global_config": {"granularity": "per_tensor"},
        "module_type_configs": {"Linear": None, nn.Conv2d: {"granularity": "per_tensor"}},
        "module_name_configs": {"a.*": {}, "b": None},
    }
    before = copy.deepcopy(given)
    config = cls.from_dict(given)
    config.set_module_name("c", None)
    assert given == before
    assert set(config.module_type_configs) == {nn.Linear, nn.Conv2d}


@pytest.mark.parametrize("cls", CONFIGS)
def test_from_yaml_takes_a_path_or_an_open_file(cls, tmp_path) -> None:
    text = "global_config:\n  granularity: per_tensor\nmodule_name_configs:\n  head: null\n"
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with path.open() as file:
        configs = [cls.from_yaml(path), cls.from_yaml(str(path)), cls.from_yaml(file)]
    assert (
        configs[0]
        == configs[1]
        == configs[2]
        == cls.from_dict({"global_config": {"granularity": "per_tensor"}, "module_name_configs": {"head": None}})
    )
    path.write_text("global_config: [")
    with pytest.raises(ConfigError, match=r"config.yaml, line"):
        cls.from_yaml(path)


def test_names_go_before_types_before_the_rest() -> None:
    configs = [ModulePostTrainingPalettizerConfig(n_bits=bits) for bits in (1, 2, 3)]
    config = PostTrainingPalettizerConfig(
        global_config=configs[0],
        module_type_configs={"Linear": configs[1]},
        module_name_configs={r"layers\.\d+\.up": configs[2], "head": None},
    )
    linear, conv = nn.Linear(2, 2), nn.Conv1d(2, 2, 1)
    assert config.get_module_config("layers.12.up", linear) is configs[2]
    assert config.get_module_config("layers.12.upper", linear) is configs[1]  # the whole name must match
    assert config.get_module_config("head", linear) is None
    assert config.get_module_config("other", conv) is configs[0]
    with pytest.raises(ConfigError, match="not a regular expression"):
        config.set_module_name("a[", None).get_module_config("b", conv)


@pytest.mark.parametrize(
    ("cls", "options"),
    [
        (ModulePostTrainingPalettizerConfig, {"n_bits": 5}),
        (ModulePostTrainingPalettizerConfig, {"n_bits": True}),
        (ModulePostTrainingPalettizerConfig, {"lut_dtype": "int4"}),
        (ModulePostTrainingPalettizerConfig, {"granularity": "per_channel"}),
        (ModulePostTrainingPalettizerConfig, {"granularity": "per_grouped_channel"}),
        (ModulePostTrainingPalettizerConfig, {"group_size": 4}),
        (ModulePostTrainingPalettizerConfig, {"channel_axis": 2}),
        (ModulePostTrainingPalettizerConfig, {"cluster_dim": 2, "enable_per_channel_scale": True}),
        (ModuleSKMPalettizerConfig, {"n_bits": 7}),
        (ModuleSKMPalettizerConfig, {"group_size": 0, "granularity": "per_grouped_channel"}),
        (ModulePostTrainingQuantizerConfig, {"weight_dtype": "int3"}),
        (ModulePostTrainingQuantizerConfig, {"weight_dtype": torch.float64}),
        (ModulePostTrainingQuantizerConfig, {"granularity": "per_block"}),
        (ModulePostTrainingQuantizerConfig, {"block_size": 4}),
        (ModulePostTrainingQuantizerConfig, {"granularity": "per_block", "block_size": (-1,)}),
        (SKMPalettizerConfig, {"calibration_nsamples": 0}),
        (SKMPalettizerConfig, {"module_name_configs": {"a": ModulePostTrainingPalettizerConfig()}}),
        (PostTrainingPalettizerConfig, {"global_config": 4}),
        (PostTrainingPalettizerConfig, {"module_type_configs": ["Linear"]}),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused(cls, options) -> None:
    with pytest.raises(ConfigError):
        cls(**options)
    with pytest.raises(ConfigError):
        cls.from_dict(options)


def test_one_scheme_for_all_modules() -> None:
    with pytest.raises(ConfigError, match="quantization_scheme"):
        PostTrainingQuantizerConfig.from_dict(
            {
                "global_config": {"quantization_scheme": "affine"},
                "module_name_configs": {"a": {"quantization_scheme": "symmetric"}},
            }
        )


def test_enumerations_of_coremltools_will_do() -> None:
    peer = pytest.importorskip("coremltools.optimize.torch")
    granularity = peer.optimization_config.PalettizationGranularity.per_grouped_channel
    config = ModulePostTrainingPalettizerConfig(granularity=granularity, group_size=2)
    assert config.granularity is base.PalettizationGranularity.per_grouped_channel
    scheme = ModulePostTrainingQuantizerConfig(quantization_scheme=peer.quantization.QuantizationScheme.affine)
    assert scheme.quantization_scheme is QuantizationScheme.affine


def test_presets_are_those_of_coreai_opt() -> None:
    quantized = PostTrainingQuantizerConfig.from_preset("w4_per_block", block_size=16).global_config
    assert (quantized.dtype_name, quantized.block_size, quantized.quantization_scheme.value) == (
        "int4",
        (16,),
        "symmetric",
    )
    assert [PostTrainingQuantizerConfig.from_preset(name).global_config.dtype_name for name in ("w8", "w4")] == [
        "int8",
        "int4",
    ]
    for config in (PostTrainingPalettizerConfig, SKMPalettizerConfig):
        tables = [config.from_preset(name).global_config for name in ("w8", "w6", "w4")]
        assert [(table.n_bits, table.group_size) for table in tables] == [(8, None), (6, 16), (4, 16)]
    trained = LinearQuantizerConfig.from_preset("w4", algorithm="learnable").global_config
    assert (trained.weight_n_bits, trained.quantizes_activations, trained.algorithm) == (4, False, "learnable")
    with pytest.raises(ConfigError, match="LinearQuantizerConfig has no preset 'w2'; those that it has: w8, w4"):
        LinearQuantizerConfig.from_preset("w2")
    with pytest.raises(ConfigError, match="has no preset 'w8'; those that it has: none"):
        base.OptimizationConfig.from_preset("w8")
    with pytest.raises(ConfigError, match="group_sise"):
        PostTrainingPalettizerConfig.from_preset("w4", group_sise=8)


@pytest.mark.parametrize("name", ["w8", "w4", "w4_per_block"])
@pytest.mark.parametrize("shape", [(64, 64), (16, 32, 3, 3)])
def test_presets_lose_no_more_than_those_of_coreai_opt(name, shape) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64) if len(shape) == 2 else nn.Conv2d(32, 16, 3))
    weight = model[0].weight.detach()
    small = PostTrainingQuantizer(model, PostTrainingQuantizerConfig.from_preset(name)).compress()
    # coreai-opt 0.4: the integers from least to most stand for -max|w| to max|w| of a channel, or of 32 of its inputs.
    blocks = (
        weight.reshape(shape[0], shape[1] // 32, 32, -1)
        if name == "w4_per_block"
        else weight.reshape(shape[0], 1, -1, 1)
    )
    least = -128 if name == "w8" else -8
    scale = blocks.abs().amax((2, 3), keepdim=True) / (-least - 0.5)
    theirs = (torch.round(blocks / scale).clamp(least, -least - 1) * scale - blocks).square().sum()
    assert (small[0].weight - weight).square().sum() <= theirs
