"""Options without effect are refused, before any work, in the words of the command line."""

from __future__ import annotations

import re

import click
import pytest
from click.testing import CliRunner

from corepress.cli.app import app
from corepress.cli.usage import TABLE
from corepress.errors import ConfigError
from tests.cli.test_cli import corepress, fails

CONTEXT = click.Context(app)
COMMANDS = {name: app.get_command(CONTEXT, name) for name in app.list_commands(CONTEXT)}
(MODE,) = (parameter for parameter in COMMANDS["palettize"].params if parameter.name == "mode")
MODES = [str(getattr(choice, "value", choice)) for choice in MODE.type.choices]


def refused(*arguments: object) -> str:
    result = CliRunner().invoke(app, [*map(str, arguments)])
    assert isinstance(result.exception, ConfigError), (result.output, result.exception)
    return str(result.exception)


@pytest.fixture
def config(tmp_path):
    """A configuration file for each command."""

    def of(command: str):
        kinds = {
            "palettize": "OpPalettizerConfig",
            "quantize": "OpLinearQuantizerConfig",
            "prune": "OpThresholdPrunerConfig",
        }
        path = tmp_path / "config.yaml"
        inner = "{nbits: 4}" if command == "palettize" else "{}"
        path.write_text(f"config_type: {kinds[command]}\nglobal_config: {inner}\n")
        return path

    return of


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("palettize", ["--nbits", 4]), ("palettize", ["--mode", "uniform"]), ("palettize", ["--group-size", 16]),
        ("palettize", ["--granularity", "per_tensor"]), ("palettize", ["--cluster-dim", 2]),
        ("palettize", ["--channel-axis", 0]), ("palettize", ["--per-channel-scale"]),
        ("palettize", ["--lut-dtype", "int8"]), ("palettize", ["--smaller-group"]),
        ("palettize", ["--weight-threshold", 2048]),
        ("quantize", ["--dtype", "int8"]), ("quantize", ["--mode", "linear"]), ("quantize", ["--block-size", 8]),
        ("quantize", ["--granularity", "per_block"]), ("quantize", ["--scale-search"]),
        ("quantize", ["--smaller-block"]), ("quantize", ["--weight-threshold", 1]),
        ("quantize", ["--float-zero-point"]),
        ("prune", ["--sparsity", 0.5]), ("prune", ["--threshold", 0.1]), ("prune", ["--minimum-sparsity", 0.5]),
        ("prune", ["--n-m", "2:4"]), ("prune", ["--block-size", 4]), ("prune", ["--dim", 0]),
        ("prune", ["--weight-threshold", 1]),
    ],
)  # fmt: skip
def test_settings_beside_a_file_of_settings(package, tmp_path, config, command, options) -> None:
    message = refused(command, package(), "-o", tmp_path / "out.mlpackage", "--config", config(command), *options)
    assert message.startswith(f"{options[0]} has no effect here: the file of --config holds all such settings")
    assert not (tmp_path / "out.mlpackage").exists()


@pytest.mark.parametrize(
    ("command", "options", "needed"),
    [
        ("palettize", ["--group-size", 16], "--granularity per_grouped_channel"),
        ("palettize", ["--channel-axis", 1], "--granularity per_grouped_channel"),
        ("palettize", ["--smaller-group"], "--granularity per_grouped_channel"),
        ("palettize", ["--nbits", 4, "--mode", "unique"], "--mode unique takes as many as it needs"),
        ("palettize", ["--cluster-dim", 2, "--mode", "uniform"], "--mode uniform has no tables of vectors"),
        ("palettize", ["--method", "skm", "--mode", "uniform"], "only --mode kmeans"),
        ("palettize", ["--method", "lut-gptq", "--per-channel-scale"], "--method skm can"),
        ("quantize", ["--block-size", 8], "--granularity per_block"),
        ("quantize", ["--smaller-block"], "--granularity per_block"),
        ("quantize", ["--activation-aware-scale"], "--method gptq"),
        ("quantize", ["--augment", 8], "--method and --data"),
        ("quantize", ["--float-zero-point"], "--mode linear"),
        ("quantize", ["--observer", "mse"], "--activations"),
        ("prune", ["--minimum-sparsity", 0.1, "--sparsity", 0.5], "--threshold"),
        ("prune", ["--block-size", 4, "--n-m", "2:4"], "--sparsity"),
        ("prune", ["--dim", 1, "--sparsity", 0.5], "--n-m or --block-size"),
        ("prune", ["--method", "sparsegpt", "--threshold", 0.1], "--method works with --sparsity"),
    ],
)
def test_options_that_need_others(package, tmp_path, command, options, needed) -> None:
    message = refused(command, package(), "-o", tmp_path / "out.mlpackage", *options)
    assert message.startswith(f"{options[0]} has no effect here: ") and needed in message


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["prune", "--threshold", "inf"], "--threshold inf: it must be a finite number"),
        (["prune", "--n-m", "0:0"], "--n-m 0:0: of every M values N become zero, with N from 1 to M"),
        (["prune", "--n-m", "0:4"], "N from 1 to M"),
        (["prune", "--n-m", "5:4"], "N from 1 to M"),
        (["palettize", "--granularity", "per_grouped_channel", "--channel-axis", "99"], "channel_axis"),
        (["quantize", "--joint"], "--joint has no effect here: no weight of the model is compressed"),
        (["quantize", "--target", "iOS16"], "target iOS16 has no effect: the model is for iOS18 already"),
    ],
)
def test_values_and_options_without_a_meaning_for_this_model(package, tmp_path, arguments, words) -> None:
    message = refused(arguments[0], package(), "-o", tmp_path / "out.mlpackage", *arguments[1:])
    assert words in message and not (tmp_path / "out.mlpackage").exists()


@pytest.mark.parametrize("option", ["--nbits", "--cluster-dim"])
@pytest.mark.parametrize("mode", MODES)
def test_a_refusal_names_the_mode_that_was_given(package, tmp_path, mode, option) -> None:
    result = CliRunner().invoke(app, [
        "palettize", str(package()), "-o", str(tmp_path / "out.mlpackage"), "--mode", mode, option, "2",
    ])  # fmt: skip
    if isinstance(result.exception, ConfigError) and "has no effect here" in str(result.exception):
        assert f"--mode {mode} " in str(result.exception)
    else:
        assert mode in {"--nbits": ("kmeans", "uniform"), "--cluster-dim": ("kmeans", "unique")}[option]


def test_options_of_other_commands(package, tmp_path) -> None:
    assert "--seed has no effect here: it needs --random" in refused("run", package(), "--seed", 1)
    assert "--overwrite has no effect here" in refused("run", package(), "--random", "--overwrite")
    assert "--min-snr nan: it must be a finite number" in refused("verify", package(), package(), "--min-snr", "nan")
    given = ["verify", package(), package(), "--data", package()]
    assert "--samples has no effect here: it is for random inputs" in refused(*given, "--samples", 2)
    assert "--seed has no effect here" in refused(*given, "--seed", 2)


def test_the_table_names_options_that_there_are() -> None:
    for command, rules in TABLE.items():
        parameters = {parameter.name for parameter in COMMANDS[command].params}
        for rule in rules:
            assert set(rule.options) <= parameters, command


def test_every_setting_is_refused_beside_a_file() -> None:
    """Whoever adds an option to a command that takes --config decides what it means beside it."""
    beside = {
        *(
            "model",
            "output",
            "config",
            "joint",
            "strict",
            "all_constants",
            "target",
            "overwrite",
            "workers",
            "as_json",
            "report",
        ),
        *(
            "method",
            "augment",
            "activation_aware_scale",
            "activations",
            "activation_mode",
            "observer",
            "bias_correction",
            "equalize",
            "refine",
        ),
        *("verify", "data", "test_data", "metric", "verify_threshold", "min_snr", "min_cosine"),
    }
    for command in ("palettize", "quantize", "prune"):
        parameters = {parameter.name for parameter in COMMANDS[command].params}
        assert parameters - beside == set(TABLE[command][0].options), command


def test_a_refusal_is_wrong_usage(package, tmp_path) -> None:
    out = tmp_path / "out.mlpackage"
    assert "corepress: --group-size has no effect" in fails("palettize", package(), "-o", out, "--group-size", 16)
    done = corepress("palettize", package(), "-o", out, "--group-size", 16, check=False)
    assert done.returncode == 2 and re.fullmatch(r"corepress: .*\n", done.stderr)
