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
)
from corepress.errors import ConfigError
from tests.lazy import lazy

peer = lazy("coremltools.optimize.coreml._config")
types = lazy("coremltools.converters.mil.mil.types")

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
        if isinstance(v, CompressionGranularity | peer.CompressionGranularity):
            return v.name
        return tuple(v) if isinstance(v, list) else v

    return {name: value(getattr(config, name)) for name in names}


class PeerType(str):
    """The name of one of coremltools' types, which takes its place when the test runs."""


def resolved(arguments: dict[str, Any]) -> dict[str, Any]:
    return {name: getattr(types, each) if isinstance(each, PeerType) else each for name, each in arguments.items()}


def outcome(cls: Any, arguments: dict[str, Any], names: list[str]) -> Any:
    """What the class makes of the arguments: its fields, or None where it refuses."""
    try:
        return plain(cls(**resolved(arguments)), names)
    except (ValueError, TypeError):
        return None


def public_fields(cls: Any) -> list[str]:
    return [f.name for f in attrs.fields(cls) if not f.name.startswith("_")]


@pytest.mark.parametrize("name", [*NAMES, "OptimizationConfig"])
def test_fields_and_defaults_are_the_peers(name: str) -> None:
    theirs, mine = getattr(peer, name), getattr(ours, name)
    names = public_fields(theirs)
    assert public_fields(mine)[: len(names)] == names
    needed = {"OpMagnitudePrunerConfig": {"target_sparsity": 0.5}, "OpPalettizerConfig": {"nbits": 4}}.get(name, {})
    assert plain(mine(**needed), names) == plain(theirs(**needed), names)


def test_granularities_are_the_peers() -> None:
    assert {g.name: g.value for g in CompressionGranularity} == {g.name: g.value for g in peer.CompressionGranularity}


MODES = ["kmeans", "KMEANS", "uniform", "unique", "custom", "linear", "", 3]
COUNTS = [None, -1, 0, 1, 2, 9, 2048, "x", 1.5]
NUMBERS = [None, -0.1, 0.0, 1e-3, 0.5, 1.0, 1.1, "x"]
DTYPES = ["int8", "uint8", "int4", "uint4", "int3", "int16", "i8", "INT8", "float", None]
DTYPES += [np.int8, np.uint8, np.int16, np.float32, np.dtype("int8"), int, float]
DTYPES += [PeerType(name) for name in ("int8", "uint8", "int4", "uint4", "uint3", "int16", "fp16", "bool")]
GRANULARITIES = ["per_tensor", "per_channel", "per_grouped_channel", "per_block", "per_row", 2]
BLOCKS = [None, 0, 1, 32, -1, "x", 1.5, [0, 1], (4, 0), [-1, 2], [1.5]]
RATIOS = [(1, 2), [2, 4], (3, 3), (0, 4), (6, 1), (2, 2, 2), 4, "x"]

CASES: list[tuple[str, dict[str, Any]]] = [
    *(("OpPalettizerConfig", {"mode": m, "nbits": n}) for m in MODES for n in (None, *range(10))),
    *(("OpPalettizerConfig", {"mode": m, "lut_function": f}) for m in ("custom", "unique") for f in (len, 3, None)),
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


@pytest.mark.parametrize(("name", "arguments"), [case for case in CASES if case[1]], ids=str)
def test_every_refusal_is_a_config_error_that_names_a_field(name: str, arguments: dict[str, Any]) -> None:
    try:
        getattr(ours, name)(**resolved(arguments))
    except ConfigError as error:
        assert any(field in str(error) for field in public_fields(getattr(ours, name)))


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
            "conv": OpThresholdPrunerConfig(threshold=0.01, minimum_sparsity_percentile=0.0, weight_threshold=45),
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


def test_configs_copy_and_pickle() -> None:
    config = OptimizationConfig.from_dict(NESTED)
    assert copy.deepcopy(config) == config == pickle.loads(pickle.dumps(config))
