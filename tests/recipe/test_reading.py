"""Recipes: what a file means, and what its errors say."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from corepress.coreml.config import (
    OpLinearQuantizerConfig,
    OpMagnitudePrunerConfig,
    OpPalettizerConfig,
    OpThresholdPrunerConfig,
    OptimizationConfig,
)
from corepress.coreml.op_configs import PaletteMode
from corepress.errors import ConfigError
from corepress.recipe import Step, load, parse

EXAMPLE = """\
target: iOS18
steps:
  - prune: {target_sparsity: 0.5}
    ops: {conv: {n_m_ratio: [2, 4]}}
    names: {"*embed*": skip}
  - palettize: {nbits: 4, granularity: per_grouped_channel, group_size: 16}
    names: {"head*": {nbits: 8, granularity: per_tensor}}
"""


def step(entry: Any) -> Step:
    (made,) = parse({"steps": [entry]}).steps
    return made


def config(entry: Any) -> OptimizationConfig:
    made = step(entry).config
    assert made is not None
    return made


def test_short_names_are_those_of_the_command_line() -> None:
    whole = {"prune": {"target_sparsity": 0.5}, "ops": {"conv": {"n_m_ratio": [2, 4]}}}
    assert config({"prune": {"sparsity": 0.5}, "ops": {"conv": {"n_m": [2, 4]}}}) == config(whole)
    assert config({"prune": {"threshold": 0.1, "minimum_sparsity": 0.2}}).global_config == (
        OpThresholdPrunerConfig(0.1, minimum_sparsity_percentile=0.2)
    )
    assert config({"palettize": {"bits": 3, "per_channel_scale": True}}).global_config == (
        OpPalettizerConfig(nbits=3, enable_per_channel_scale=True)
    )
    with pytest.raises(ConfigError, match="nbits and bits are two names of one setting"):
        step({"palettize": {"bits": 3, "nbits": 4}})
    with pytest.raises(ConfigError, match="unknown key 'sparsity'"):
        step({"palettize": {"sparsity": 0.5}})


def test_the_example(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(EXAMPLE)
    recipe = load(path)
    assert recipe.target == "iOS18"
    assert [(s.kind, s.joint) for s in recipe.steps] == [("prune", False), ("palettize", True)]
    prune, palettize = (s.config for s in recipe.steps)
    assert prune == OptimizationConfig(
        OpMagnitudePrunerConfig(target_sparsity=0.5),
        {"conv": OpMagnitudePrunerConfig(n_m_ratio=(2, 4))},
        {"*embed*": None},
    )
    assert palettize == OptimizationConfig(
        OpPalettizerConfig(nbits=4, granularity="per_grouped_channel", group_size=16),
        {},
        {"head*": OpPalettizerConfig(nbits=8, granularity="per_tensor")},
    )


@pytest.mark.parametrize(
    ("defaults", "override", "expected"),
    [
        (
            {"target_sparsity": 0.5, "weight_threshold": 9},
            {"threshold": 0.1},
            {"threshold": 0.1, "weight_threshold": 9},
        ),
        ({"target_sparsity": 0.5, "block_size": 4, "dim": 1}, {"target_sparsity": 0.7}, None),
        ({"target_sparsity": 0.5, "block_size": 4, "dim": 1}, {"n_m_ratio": [1, 2]}, {"n_m_ratio": (1, 2)}),
        ({"n_m_ratio": [1, 2], "dim": 0}, {"target_sparsity": 0.5}, {"target_sparsity": 0.5}),
        ({"n_m_ratio": [1, 2], "dim": 0}, {"n_m_ratio": [2, 4]}, {"n_m_ratio": (2, 4), "dim": 0}),
        ({"threshold": 0.1}, {"minimum_sparsity_percentile": 0.2}, None),
        ({"threshold": 0.1}, {"target_sparsity": 0.2}, {"target_sparsity": 0.2}),
        ({"threshold": 0.1}, {}, {"threshold": 0.1}),
    ],
)
def test_pruning_overrides_inherit_what_still_fits(defaults: Any, override: Any, expected: Any) -> None:
    merged = {**defaults, **override} if expected is None else expected
    kind = OpThresholdPrunerConfig if "threshold" in merged else OpMagnitudePrunerConfig
    made = config({"prune": defaults, "names": {"w": override}})
    assert made.op_name_configs["w"] == kind(**merged)


@pytest.mark.parametrize("mode", get_args(PaletteMode))
def test_only_modes_that_take_the_bits_inherit_them(mode: Any) -> None:
    override = {"mode": mode} | ({"lut_function": len} if mode.lower() == "custom" else {})
    made = config({"palettize": {"nbits": 4, "weight_threshold": 0}, "names": {"w": override}}).op_name_configs["w"]
    assert isinstance(made, OpPalettizerConfig)
    assert made.mode == mode.upper() and made.nbits == (4 if mode.lower() in ("kmeans", "uniform") else None)


@pytest.mark.parametrize("nothing", [None, "skip"])
def test_skip_leaves_alone(nothing: Any) -> None:
    assert config({"palettize": {"nbits": 4}, "ops": {"conv": nothing}}).op_type_configs == {"conv": None}
    made = config({"quantize": nothing, "names": {"w": {"dtype": "int4"}}})
    assert made == OptimizationConfig(None, {}, {"w": OpLinearQuantizerConfig(dtype="int4")})


def test_quantize_by_its_defaults() -> None:
    assert config({"quantize": {}}).global_config == OpLinearQuantizerConfig()


@pytest.mark.parametrize("entry", ["decompress", {"decompress": None}, {"decompress": {}}])
def test_decompress_has_no_configuration_and_starts_afresh(entry: Any) -> None:
    assert step(entry) == Step("decompress", None, joint=False)
    steps = parse(
        {"steps": [{"prune": {"threshold": 0.1}}, entry, {"quantize": {}}, {"palettize": {"nbits": 2}}]}
    ).steps
    assert [s.joint for s in steps] == [False, False, False, True]


@pytest.mark.parametrize(("given", "name"), [("macOS15", "iOS18"), (9, "iOS18"), ("ios16", "iOS16"), (None, None)])
def test_target_is_normalised(given: Any, name: str | None) -> None:
    assert parse({"target": given, "steps": ["decompress"]}).target == name


def test_what_was_given_stays_as_it_is() -> None:
    content = yaml.safe_load(EXAMPLE)
    before = copy.deepcopy(content)
    parse(content)
    assert content == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "recipe must be a mapping"),
        ({"step": []}, "unknown key 'step'. Did you mean \"steps\"?"),
        ({}, "steps must be a list"),
        ({"steps": {"prune": {}}}, "steps must be a list"),
        ({"steps": [{"palletize": {"nbits": 4}}]}, "step 1: unknown key 'palletize'. Did you mean \"palettize\"?"),
        ({"steps": ["palletize"]}, 'Did you mean "palettize"?'),
        ({"steps": [4]}, "step 1 must be a mapping"),
        (
            {"steps": [{"ops": {}}]},
            "step 1 must have one of prune, palettize, quantize, activations, refine, rotate, decompress. Got",
        ),
        ({"steps": [{"prune": {}, "quantize": {}}]}, "Got prune, quantize."),
        (
            {"steps": ["decompress", {"palettize": {"nbit": 4}}]},
            "step 2 (palettize): unknown key 'nbit'. Did you mean \"nbits\"?",
        ),
        ({"steps": [{"prune": {"treshold": 4}}]}, 'Did you mean "threshold"?'),
        ({"steps": [{"palettize": {"nbits": 5}}]}, 'step 1 (palettize): Invalid value of "nbits" (5)'),
        (
            {"steps": [{"palettize": {"nbits": 4}, "names": {"a": {"nbits": 7}}}]},
            'step 1 (palettize), names "a": Invalid',
        ),
        ({"steps": [{"palettize": {"nbits": 4}, "names": {"a": 7}}]}, 'names "a" must be a mapping'),
        ({"steps": [{"palettize": {"nbits": 4}, "names": ["a"]}]}, "step 1 (palettize), names must be a mapping"),
        ({"steps": [{"palettize": {"nbits": 4}, "name": {}}]}, 'Did you mean "names"?'),
        ({"steps": [{"prune": {"n_m_ratio": [1, 2]}, "ops": {"add": {}}}]}, "step 1 (prune): block sparsity or n:m"),
        ({"steps": [{"decompress": {"nbits": 4}}]}, "step 1 (decompress) takes no arguments"),
        ({"steps": [{"decompress": None, "names": {}}]}, "step 1 (decompress) takes no arguments"),
        ({"target": "iOS81", "steps": ["decompress"]}, "recipe: Unknown target 'iOS81'"),
        (
            {"target": "iOS16", "steps": [{"quantize": {}, "names": {"w": {"dtype": "int4"}}}]},
            "step 1 (quantize): The 4-bit quantization is supported since iOS18",
        ),
    ],
)
def test_errors_name_the_step_the_key_and_the_right_one(content: Any, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse(content)
    assert message in str(error.value)


def test_files_that_are_not_recipes(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    with pytest.raises(ConfigError, match=r"recipe\.yaml: can't read it"):
        load(path)
    path.write_text("steps:\n  - prune: {a: 1\n  - b\n")
    with pytest.raises(ConfigError, match=r"recipe\.yaml, line \d: not valid YAML"):
        load(path)
    path.write_bytes(b"\xff\xfe\x00steps")
    with pytest.raises(ConfigError, match=r"recipe\.yaml"):
        load(path)


def test_steps_that_learn_name_the_function_of_the_samples() -> None:
    assert step({"palettize": {"nbits": 2}, "method": "lut-gptq", "function": "second"}).function == "second"
    assert step({"activations": {}, "function": "second"}).function == "second"
    for entry, message in (
        ({"palettize": {"nbits": 2}, "function": "second"}, "function is for steps that learn from samples"),
        ({"palettize": {"nbits": 2}, "method": "lut-gptq", "function": 2}, "function"),
        ({"palettize": {"nbits": 2}, "method": "lut-gptq", "observer": "mse"}, "observer is for the step activations"),
    ):
        with pytest.raises(ConfigError, match=message):
            step(entry)


@pytest.mark.parametrize(
    ("one", "other", "meet"),
    [
        ("conv*", "*weight_to_fp16", True),
        ("conv*", "conv1_w", True),
        ("conv?_w", "*[12]_w", True),
        ("conv1_w", "conv1_w", True),
        ("[*]_w", "*", True),
        ("a*", "a[*]_w*", True),
        ("conv1_w", "conv2_w", False),
        ("encoder*", "decoder*", False),
        ("*_key", "*_value", False),
        ("conv", "conv1*", False),
        ("[*]_w", "layer[[]0]_w", False),
        ("[*]_w", "x_w", False),
    ],
)
def test_a_step_is_joint_where_its_patterns_may_match_a_name_of_one_before(one: str, other: str, meet: bool) -> None:
    for first, second in ((one, other), (other, one)):
        before = {"prune": "skip", "names": {first: {"target_sparsity": 0.5}}}
        steps = parse({"steps": [before, {"palettize": "skip", "names": {second: {"nbits": 4}}}]}).steps
        assert [step.joint for step in steps] == [False, meet]
