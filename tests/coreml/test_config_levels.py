"""Which weight gets which configuration: the levels of `OptimizationConfig`."""

from __future__ import annotations

from typing import Any

import pytest

from corepress.coreml.config import (
    OpLinearQuantizerConfig,
    OpMagnitudePrunerConfig,
    OpPalettizerConfig,
    OpThresholdPrunerConfig,
    OptimizationConfig,
    check_kinds,
)
from corepress.errors import ConfigError


def test_levels_hold_configurations_only() -> None:
    for arguments in ({"global_config": "x"}, {"op_type_configs": {"a": 1}}, {"op_name_configs": {"a": []}}):
        with pytest.raises(ConfigError, match=r"config must be type of OpCompressorConfig\."):
            OptimizationConfig(**arguments)
    config = OptimizationConfig()
    for setting in (
        config.set_global,
        lambda c: config.set_op_type("a", c),
        lambda c: config.set_op_name("a", c),
    ):
        with pytest.raises(ConfigError, match=r"config must be type of OpCompressorConfig\."):
            setting("kmeans")


@pytest.mark.parametrize("arguments", [{"n_m_ratio": (1, 2)}, {"target_sparsity": 0.5, "block_size": 2}])
def test_structured_pruning_is_for_weights_of_conv_and_linear(arguments: dict[str, Any]) -> None:
    pruner = OpMagnitudePrunerConfig(**arguments)
    assert pruner.accepts_input("conv", "weight") and pruner.accepts_input("linear", "weight")
    assert not pruner.accepts_input("conv", "bias") and not pruner.accepts_input("matmul", "y")
    message = "block sparsity or n:m pruning does not support op type add"
    with pytest.raises(ConfigError, match=message):
        OptimizationConfig(op_type_configs={"add": pruner})
    with pytest.raises(ConfigError, match=message):
        OptimizationConfig().set_op_type("add", pruner)
    OptimizationConfig(op_type_configs={"add": OpMagnitudePrunerConfig(target_sparsity=0.5), "conv": pruner})


def test_the_callers_dictionaries_stay_the_callers() -> None:
    by_type: dict[str, Any] = {}
    OptimizationConfig(op_type_configs=by_type).set_op_type("conv", OpPalettizerConfig(nbits=4))
    assert by_type == {}


GLOBAL, BY_TYPE, BY_OP, BY_WEIGHT = (OpPalettizerConfig(nbits=n) for n in (1, 2, 3, 4))


@pytest.mark.parametrize(
    ("names", "consumers", "expected"),
    [
        ({}, [("add", "add_1")], GLOBAL),
        ({}, [("conv", "conv_1")], BY_TYPE),
        ({}, [("linear", "linear_1")], None),
        ({}, [], None),
        ({"conv_1": BY_OP}, [("conv", "conv_1")], BY_OP),
        ({"conv_1": None}, [("conv", "conv_1")], None),
        ({"conv_1": BY_OP, "w": BY_WEIGHT}, [("conv", "conv_1")], BY_WEIGHT),
        ({"w": BY_WEIGHT}, [("conv", "conv_1"), ("add", "add_1")], BY_WEIGHT),
        ({"w": None}, [("conv", "conv_1")], None),
        ({"w": BY_WEIGHT}, [], BY_WEIGHT),
        ({"conv_1": BY_TYPE}, [("conv", "conv_1"), ("conv", "conv_2")], BY_TYPE),
        ({"conv_*": BY_OP}, [("conv", "conv_1")], BY_OP),
        ({"conv_*": BY_OP, "conv_1": None}, [("conv", "conv_1")], None),
        ({"conv_[0-4]": BY_OP, "conv_?": None}, [("conv", "conv_1")], BY_OP),
        ({"CONV_*": BY_OP}, [("conv", "conv_1")], BY_TYPE),
        ({"w*": BY_WEIGHT}, [("conv", "conv_1"), ("add", "add_1")], BY_WEIGHT),
        ({"w*": BY_WEIGHT, "conv_1": BY_OP}, [("conv", "conv_1")], BY_OP),
    ],
)
def test_config_for(names: dict[str, Any], consumers: list[tuple[str, str]], expected: Any) -> None:
    by_type = {"conv": BY_TYPE, "linear": None}
    config = OptimizationConfig(GLOBAL, by_type, names)
    assert config.config_for("w", consumers) == expected


@pytest.mark.parametrize("names", [{}, {"conv_1": None}, {"conv_1": BY_OP, "add_1": BY_WEIGHT}])
def test_consumers_that_disagree_are_named(names: dict[str, Any]) -> None:
    config = OptimizationConfig(GLOBAL, {"conv": BY_TYPE}, names)
    message = 'compression config conflict detected between ops "conv_1" and "add_1"'
    with pytest.raises(ConfigError, match=message):
        config.config_for("w", [("conv", "conv_1"), ("add", "add_1")])


def test_const_is_no_operation_type() -> None:
    config = OptimizationConfig(GLOBAL, {"const": BY_TYPE}, {"named": BY_WEIGHT})
    assert config.config_for("named", [("conv", "conv_1")]) == BY_WEIGHT
    with pytest.raises(ConfigError, match="const ops cannot be set by the `set_op_type` function"):
        config.config_for("w", [("conv", "conv_1")])


def test_check_kinds() -> None:
    config = OptimizationConfig(GLOBAL, {"conv": None})
    assert check_kinds(config, "palettize_weights", OpPalettizerConfig) is config
    with pytest.raises(ConfigError, match="config must be of type OptimizationConfig"):
        check_kinds(1, "palettize_weights", OpPalettizerConfig)
    pruners = (OpMagnitudePrunerConfig, OpThresholdPrunerConfig)
    message = "prune_weights only accept OpMagnitudePrunerConfig, OpThresholdPrunerConfig type config"
    for wrong in (
        config,
        OptimizationConfig(None, {"op": BY_TYPE}),
        OptimizationConfig(None, None, {"op": BY_OP}),
    ):
        with pytest.raises(ConfigError, match=message):
            check_kinds(wrong, "prune_weights", *pruners)


def test_features_name_what_a_target_must_hold() -> None:
    palettizer = OpPalettizerConfig(nbits=3, granularity="per_grouped_channel", cluster_dim=2, lut_dtype="int8")
    assert palettizer.features() == [
        "per_grouped_channel palettization",
        "vector palettization",
        "int8-LUT palettization",
        "3-bit palettization",
    ]
    quantizer = OpLinearQuantizerConfig(dtype="uint4", granularity="per_block")
    assert quantizer.features() == ["per_block quantization", "4-bit quantization"]
