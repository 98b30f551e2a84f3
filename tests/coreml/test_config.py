"""The configuration classes: beside the peer's, and where they are meant to be better."""

from __future__ import annotations

import copy
import inspect
import io
import itertools
import pickle
from pathlib import Path
from typing import Any

import attrs
import cattrs
import ml_dtypes
import numpy as np
import pytest
import yaml

from corepress.coreml import config as ours
from corepress.coreml.config import (
    CompressionGranularity,
    OpLinearQuantizerConfig,
    OpMagnitudePrunerConfig,
    OpPalettizerConfig,
    OpThresholdPrunerConfig,
    OptimizationConfig,
    check_kinds,
)
from corepress.errors import ConfigError

peer = pytest.importorskip("coremltools.optimize.coreml._config")
types = pytest.importorskip("coremltools.converters.mil.mil.types")

NAMES = [
    "OpLinearQuantizerConfig",
    "OpThresholdPrunerConfig",
    "OpMagnitudePrunerConfig",
    "OpPalettizerConfig",
]


def plain(config: Any, names: list[str]) -> dict[str, Any]:
    """The fields of either side's configuration, comparable."""

    def value(v: Any) -> Any:
        if hasattr(v, "get_bitwidth"):
            return types.builtin_to_string(v)
        return (
            tuple(v)
            if isinstance(v, list)
            else v.name
            if isinstance(v, type(v).__mro__[0]) and hasattr(v, "_name_") and not isinstance(v, str)
            else v
        )

    return {name: value(getattr(config, name)) for name in names}


def outcome(cls: Any, arguments: dict[str, Any], names: list[str]) -> Any:
    """What the class makes of the arguments: its fields, or None where it refuses."""
    try:
        return plain(cls(**arguments), names)
    except (ValueError, TypeError):
        return None


def public_fields(cls: Any) -> list[str]:
    return [f.name for f in attrs.fields(cls) if not f.name.startswith("_")]


@pytest.mark.parametrize("name", [*NAMES, "OptimizationConfig"])
def test_fields_and_defaults_are_the_peers(name: str) -> None:
    theirs, mine = getattr(peer, name), getattr(ours, name)
    names = public_fields(theirs)
    assert public_fields(mine)[: len(names)] == names
    needed = {"OpMagnitudePrunerConfig": {"target_sparsity": 0.5}, "OpPalettizerConfig": {"nbits": 4}}.get(
        name, {}
    )
    assert plain(mine(**needed), names) == plain(theirs(**needed), names)


def test_granularities_are_the_peers() -> None:
    assert {g.name: g.value for g in CompressionGranularity} == {
        g.name: g.value for g in peer.CompressionGranularity
    }


MODES = ["kmeans", "KMEANS", "uniform", "unique", "custom", "linear", "", 3]
COUNTS = [None, -1, 0, 1, 2, 9, 2048, "x", 1.5]
NUMBERS = [None, -0.1, 0.0, 1e-3, 0.5, 1.0, 1.1, "x"]
DTYPES = ["int8", "uint8", "int4", "uint4", "int2", "int16", "i8", "INT8", "float", None]
DTYPES += [np.int8, np.uint8, np.int16, np.float32, np.dtype("int8"), int, float]
DTYPES += [types.int8, types.uint8, types.int4, types.uint4, types.uint3, types.int16, types.fp16, types.bool]
GRANULARITIES = ["per_tensor", "per_channel", "per_grouped_channel", "per_block", "per_row", 2]
BLOCKS = [None, 0, 1, 32, -1, "x", 1.5, [0, 1], (4, 0), [-1, 2], [1.5]]
RATIOS = [(1, 2), [2, 4], (3, 3), (0, 4), (6, 1), (2, 2, 2), 4, "x"]

CASES: list[tuple[str, dict[str, Any]]] = [
    *(("OpPalettizerConfig", {"mode": m, "nbits": n}) for m in MODES for n in (None, *range(10))),
    *(
        ("OpPalettizerConfig", {"mode": m, "lut_function": f})
        for m in ("custom", "unique")
        for f in (len, 3, None)
    ),
    *(("OpPalettizerConfig", {"nbits": 4, "granularity": g}) for g in GRANULARITIES),
    *(("OpPalettizerConfig", {"nbits": 4, "weight_threshold": w}) for w in COUNTS),
    *(("OpPalettizerConfig", {"nbits": 4, "group_size": g}) for g in (0, 1, 16)),
    *(("OpPalettizerConfig", {"nbits": 4, "channel_axis": a}) for a in (None, 0, 1, -1)),
    *(("OpPalettizerConfig", {"nbits": 4, "cluster_dim": d}) for d in (1, 2, 4, "x", 1.5)),
    *(("OpPalettizerConfig", {"nbits": 4, "enable_per_channel_scale": s}) for s in (True, False, 1, "x")),
    *(("OpPalettizerConfig", {"nbits": 4, "num_kmeans_workers": w}) for w in (1, 4, "x", None)),
    *(("OpLinearQuantizerConfig", {"mode": m}) for m in ("linear", "Linear_Symmetric", "kmeans", 3)),
    *(("OpLinearQuantizerConfig", {"dtype": d}) for d in DTYPES),
    *(("OpLinearQuantizerConfig", {"granularity": g}) for g in GRANULARITIES),
    *(("OpLinearQuantizerConfig", {"block_size": b}) for b in BLOCKS),
    *(("OpLinearQuantizerConfig", {"weight_threshold": w}) for w in COUNTS),
    *(("OpThresholdPrunerConfig", {"threshold": t}) for t in (*NUMBERS, 7.0)),
    *(("OpThresholdPrunerConfig", {"minimum_sparsity_percentile": p}) for p in NUMBERS),
    *(("OpThresholdPrunerConfig", {"weight_threshold": w}) for w in COUNTS),
    *(("OpMagnitudePrunerConfig", {"target_sparsity": p}) for p in NUMBERS),
    *(("OpMagnitudePrunerConfig", {"target_sparsity": 0.5, "weight_threshold": w}) for w in COUNTS),
    *(
        ("OpMagnitudePrunerConfig", {"target_sparsity": 0.5, "block_size": b, "dim": d})
        for b, d in itertools.product([None, -9, 1, 2, "x", 2.5], [None, -1, 0, 1, 2])
    ),
    *(("OpMagnitudePrunerConfig", {"n_m_ratio": r, "dim": d}) for r in RATIOS for d in (None, -1, 0, 1, 2)),
    ("OpMagnitudePrunerConfig", {}),
    ("OpMagnitudePrunerConfig", {"target_sparsity": 0.5, "n_m_ratio": (1, 2)}),
    ("OpMagnitudePrunerConfig", {"block_size": 2, "n_m_ratio": (1, 2)}),
    ("OpMagnitudePrunerConfig", {"block_size": 2}),
]


@pytest.mark.parametrize(("name", "arguments"), CASES, ids=str)
def test_accepts_and_refuses_as_the_peer(name: str, arguments: dict[str, Any]) -> None:
    names = public_fields(getattr(peer, name))
    mine, theirs = (outcome(getattr(side, name), arguments, names) for side in (ours, peer))
    assert mine == theirs


@pytest.mark.parametrize(("name", "arguments"), CASES, ids=str)
def test_every_refusal_names_the_field(name: str, arguments: dict[str, Any]) -> None:
    try:
        getattr(ours, name)(**arguments)
    except ConfigError as error:
        assert any(field in str(error) for field in arguments) or not arguments or "n_m_ratio" in str(error)


# The peer takes these and fails later, or does something else than was asked; or refuses without a reason.
@pytest.mark.parametrize(
    ("cls", "arguments"),
    [
        (OpPalettizerConfig, {"nbits": True}),
        (OpPalettizerConfig, {"nbits": 4.0}),
        (OpPalettizerConfig, {"nbits": 4, "group_size": -1}),
        (OpPalettizerConfig, {"nbits": 4, "group_size": "x"}),
        (OpPalettizerConfig, {"nbits": 4, "cluster_dim": 0}),
        (OpPalettizerConfig, {"nbits": 4, "channel_axis": "x"}),
        (OpPalettizerConfig, {"nbits": 4, "weight_threshold": True}),
        (OpPalettizerConfig, {"nbits": 4, "lut_dtype": "int4"}),
        (OpPalettizerConfig, {"nbits": 4, "restarts": 0}),
        (OpLinearQuantizerConfig, {"granularity": "per_block", "block_size": None}),
        (OpLinearQuantizerConfig, {"block_size": True}),
        (OpMagnitudePrunerConfig, {"n_m_ratio": (1.5, 2)}),
        (OpMagnitudePrunerConfig, {"n_m_ratio": (-1, 2)}),
        (OpMagnitudePrunerConfig, {"target_sparsity": float("nan")}),
        (OpThresholdPrunerConfig, {"threshold": float("nan")}),
    ],
)
def test_stricter_than_the_peer(cls: Any, arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        cls(**arguments)


@pytest.mark.parametrize(
    ("given", "name"),
    [
        (ml_dtypes.int4, "int4"),
        (ml_dtypes.uint4, "uint4"),
        (np.dtype(ml_dtypes.int4), "int4"),
        ("uint8", "uint8"),
    ],
)
def test_dtype_is_a_string_with_width_and_sign(given: Any, name: str) -> None:
    config = OpLinearQuantizerConfig(dtype=given)
    assert config.dtype == name and f"{config.dtype}" == name and str(config.dtype) == name
    assert (config.nbits, config.signed) == (int(name[-1]), not name.startswith("u"))


def test_numbers_of_numpy_and_whole_numbers_are_welcome() -> None:
    assert OpMagnitudePrunerConfig(target_sparsity=1).target_sparsity == 1
    config = OpPalettizerConfig(nbits=np.int64(4), weight_threshold=np.int32(7))
    assert type(config.nbits) is int and config == OpPalettizerConfig(nbits=4, weight_threshold=7)


def test_values_are_checked_when_set() -> None:
    config = OpPalettizerConfig(nbits=4)
    config.mode = "uniform"
    assert config.mode == "UNIFORM"
    with pytest.raises(ConfigError, match='"nbits"'):
        config.nbits = 5


def test_granularity_of_the_peers_enum() -> None:
    config = OpLinearQuantizerConfig(granularity=peer.CompressionGranularity.PER_BLOCK)
    assert config.granularity is CompressionGranularity.PER_BLOCK


# --- unknown keys


@pytest.mark.parametrize(
    ("cls", "key", "right"),
    [
        (OpPalettizerConfig, "nbit", "nbits"),
        (OpPalettizerConfig, "groupsize", "group_size"),
        (OpLinearQuantizerConfig, "blocksize", "block_size"),
        (OpMagnitudePrunerConfig, "target_sparcity", "target_sparsity"),
        (OpThresholdPrunerConfig, "treshold", "threshold"),
        (OptimizationConfig, "global", "global_config"),
    ],
)
def test_unknown_argument_suggests_the_right_one(cls: Any, key: str, right: str) -> None:
    for error in (ConfigError, ValueError, TypeError):
        with pytest.raises(error, match=f"got an unexpected keyword argument '{key}'.*\"{right}\""):
            cls(**{key: 1})


def test_constructors_show_their_arguments() -> None:
    assert list(inspect.signature(OpPalettizerConfig).parameters) == public_fields(OpPalettizerConfig)


@pytest.mark.parametrize("name", NAMES)
def test_private_from_dict_raises_the_peers_error(name: str) -> None:
    with pytest.raises(cattrs.ClassValidationError):
        getattr(ours, name)._from_dict({"invalid": 2})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"bobby_joe": 56}, "Invalid key bobby_joe to construct an OptimizationConfig object."),
        ({"config_typ": "OpPalettizerConfig"}, 'Did you mean "config_type"'),
        ({"global_config": None}, "config_type must be provided with type of string."),
        ({"config_type": "OpPalletizerConfig"} | {"global_config": {}}, 'Did you mean "OpPalettizerConfig"'),
        (
            {"config_type": "OpPalettizerConfig", "op_type_configs": 123},
            "op_type_configs must be type of dict. Got",
        ),
        (
            {"config_type": "OpPalettizerConfig", "op_name_configs": "eric"},
            "op_name_configs must be type of dict. Got",
        ),
        (
            {"config_type": "OpPalettizerConfig", "op_name_configs": {"a": 4}},
            'op_name_configs "a" must be type of dict',
        ),
        ({"config_type": "OpPalettizerConfig", "global_config": {"nbit": 4}}, 'global_config: .*"nbits"'),
        (
            {"config_type": "OpPalettizerConfig", "op_type_configs": {"conv": {"nbits": 5}}},
            r'"conv": .*"nbits" \(5\)',
        ),
        ([1], "must be type of dict"),
        (None, "must be type of dict"),
    ],
)
@pytest.mark.parametrize("through_yaml", [False, True])
def test_from_dict_says_what_is_wrong_and_where(content: Any, message: str, through_yaml: bool) -> None:
    with pytest.raises(ConfigError, match=message):
        if through_yaml:
            OptimizationConfig.from_yaml(io.StringIO(yaml.safe_dump(content)))
        else:
            OptimizationConfig.from_dict(content)


# --- from_dict and from_yaml

NESTED = {
    "config_type": "OpThresholdPrunerConfig",
    "global_config": {"config_type": "OpMagnitudePrunerConfig", "target_sparsity": 0.3},
    "op_type_configs": {
        "linear": {"config_type": "OpMagnitudePrunerConfig", "n_m_ratio": [4, 5], "dim": 0},
        "conv": {"threshold": 0.01, "minimum_sparsity_percentile": 0, "weight_threshold": 45},
        "add": None,
    },
    "op_name_configs": {"op_1": {"threshold": "1e-5"}, "op_2": None},
}


def test_from_dict_builds_and_leaves_its_argument_alone() -> None:
    given = copy.deepcopy(NESTED)
    config = OptimizationConfig.from_dict(given)
    assert given == NESTED
    assert config == OptimizationConfig(
        global_config=OpMagnitudePrunerConfig(target_sparsity=0.3),
        op_type_configs={
            "linear": OpMagnitudePrunerConfig(n_m_ratio=(4, 5), dim=0),
            "conv": OpThresholdPrunerConfig(
                threshold=0.01, minimum_sparsity_percentile=0.0, weight_threshold=45
            ),
            "add": None,
        },
        op_name_configs={"op_1": OpThresholdPrunerConfig(threshold=1e-5), "op_2": None},
    )


def test_from_dict_gives_what_the_peer_gives() -> None:
    mine, theirs = (
        OptimizationConfig.from_dict(NESTED),
        peer.OptimizationConfig.from_dict(copy.deepcopy(NESTED)),
    )
    for a, b in zip(mine.op_type_configs.values(), theirs.op_type_configs.values(), strict=True):
        assert (a is None) == (b is None)
        assert a is None or attrs.asdict(a) == attrs.asdict(b)


@pytest.mark.parametrize("kind", ["str", "Path", "text", "bytes"])
def test_from_yaml_takes_a_path_or_a_file(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(NESTED))
    expected = OptimizationConfig.from_dict(NESTED)
    if kind in ("str", "Path"):
        assert OptimizationConfig.from_yaml(str(path) if kind == "str" else path) == expected
        return
    with path.open("rb" if kind == "bytes" else "r") as file:
        assert OptimizationConfig.from_yaml(file) == expected


def test_not_yaml_names_the_file_and_the_line(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("config_type: OpPalettizerConfig\nglobal_config: {nbits: 4\n")
    with pytest.raises(ConfigError, match=r"config\.yaml, line \d: not valid YAML"):
        OptimizationConfig.from_yaml(path)


# --- OptimizationConfig


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
            setting(peer.OpPalettizerConfig(nbits=4))


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


def test_configs_copy_and_pickle() -> None:
    config = OptimizationConfig.from_dict(NESTED)
    assert copy.deepcopy(config) == config == pickle.loads(pickle.dumps(config))


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
    with pytest.raises(ConfigError, match="const ops cannot be set by the `set_op_type` function."):
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
    palettizer = OpPalettizerConfig(
        nbits=3, granularity="per_grouped_channel", cluster_dim=2, lut_dtype="int8"
    )
    assert palettizer.features() == [
        "per_grouped_channel palettization",
        "vector palettization",
        "int8-LUT palettization",
        "3-bit palettization",
    ]
    quantizer = OpLinearQuantizerConfig(dtype="uint4", granularity="per_block")
    assert quantizer.features() == ["per_block quantization", "4-bit quantization"]
