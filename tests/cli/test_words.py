"""The library's words in those of the command line."""

from __future__ import annotations

import ast
import inspect
import json
import re
from pathlib import Path

import attrs
import click
import pytest

from corepress import coreml, runtime, verify
from corepress.cli import words
from corepress.cli.app import app
from corepress.cli.words import ARGUMENTS, FIELDS, translate
from corepress.coreml import calibrated, experimental
from corepress.formats.mlprogram import Model
from tests.cli.test_cli import corepress, fails
from tests.cli.test_guard import DIGITS, raising

SOURCE = Path(words.__file__).parent.parent
# Parameters and fields that no option stands for. What of them appears in messages is meant for Python, where alone
# one can come to it, or is a key of a configuration file.
PYTHON_ONLY = {"global_config", "lut_function", "op_name_configs", "op_type_configs", "op_selector"}


@pytest.mark.parametrize("said,meant", [
    ("; joint_compression=True compresses some forms further", "; --joint compresses some forms further"),
    ('or pass target="iOS18" to raise it', "or pass --target iOS18 to raise it"),
    ("o: it exists already; choose another output or allow to overwrite it",
     "o: it exists already; choose another output or give --overwrite to replace it"),
    ("set smaller_group=True", "set --smaller-group"), ("it has 5 (weight_threshold)", "it has 5 (--weight-threshold)"),
    ("sample_data is empty", "--data is empty"), ("with strict=True", "with --strict"),
    ('"block_size" and "n_m_ratio" cannot be set', "--block-size and --n-m cannot be set"),
    ("mode='kmeans', nbits=4", "--mode kmeans, --nbits 4"), ("less than minimum_sparsity_percentile 0.5",
     "less than --minimum-sparsity 0.5"),
    ("prune_weights only accept OpX type config", "prune takes only OpX type config"),
    ('use granularity="per_tensor", since', "use --granularity per_tensor, since"),
    ('"nbits" must be given with mode "kmeans"', '--nbits must be given with mode "kmeans"'),
])  # fmt: skip
def test_options_take_the_place_of_arguments(said: str, meant: str) -> None:
    assert translate(said, from_file=False) == meant


@pytest.mark.parametrize("text", [
    "output 'target': SNR 3 dB", "input 'sample_data' is missing", "folder/sample_data/x.npz: no such file",
    "sample_data.npz: it is damaged", "there is no function 'mode'; it has main", "the model has no overwrite_weight",
])  # fmt: skip
def test_names_stay_as_they_are(text: str) -> None:
    assert translate(text, from_file=False) == text


def test_keys_of_a_file_stay_keys() -> None:
    assert translate('"nbits" must be 1, not weight_threshold', from_file=True) == (
        '"nbits" must be 1, not weight_threshold'
    )
    assert translate("joint_compression=True", from_file=True) == "--joint"
    assert translate('smaller_group=True, mode="kmeans"', from_file=True) == "smaller_group: true, mode: kmeans"


def options() -> set[str]:
    """Every option of every command."""
    context = click.Context(app)
    commands = [app.get_command(context, name) for name in app.list_commands(context)]
    return {option for command in commands for parameter in command.params for option in parameter.opts}


def test_every_option_of_the_table_exists() -> None:
    assert {*ARGUMENTS.values(), *FIELDS.values()} - options() == set()


def python_words() -> set[str]:
    """The functions that the commands call, their parameters, and the fields of the configurations."""
    functions = [
        coreml.palettize_weights, coreml.linear_quantize_weights, coreml.prune_weights, coreml.decompress_weights,
        calibrated.palettize_weights, calibrated.linear_quantize_weights, calibrated.prune_weights,
        experimental.linear_quantize_activations, verify, runtime.load, Model.save,
    ]  # fmt: skip
    found = {name for function in functions for name in inspect.signature(function).parameters}
    found |= {function.__name__ for function in functions}
    for name in dir(coreml):
        kind = getattr(coreml, name)
        if isinstance(kind, type) and attrs.has(kind):
            found |= {field.name for field in attrs.fields(kind)}
    return found


def messages() -> list[str]:
    """Every text with a space in the library that is no documentation; values inside of it become "{}"."""
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        # PyTorch modules have no command.
        if path.is_relative_to(SOURCE / "torch") or path.is_relative_to(SOURCE / "cli"):
            continue
        tree = ast.parse(path.read_text())
        silent = [node for node in ast.walk(tree) if getattr(node, "name", "") in ("__repr__", "__str__")]
        skipped = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        skipped |= {id(inner) for node in silent for inner in ast.walk(node)}
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr) and id(node) not in skipped:
                skipped |= {id(part) for part in node.values}
                parts = [part.value if isinstance(part, ast.Constant) else "{}" for part in node.values]
                found.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in skipped:
                found.append(node.value)
    return [text for text in found if " " in text.strip()]


def test_no_message_is_left_in_the_words_of_python() -> None:
    said = [translate(message, from_file=False) for message in messages()]
    assert len(said) > 200
    in_python = re.compile(r"\w+=(True|False|None|\"|'|\{)")
    # Only Python can convert a model, or give a function.
    meant = ("convert_to=", "custom=")
    assert [text for text in said if in_python.search(text) and not any(word in text for word in meant)] == []
    known = "|".join(sorted(word for word in python_words() - PYTHON_ONLY if "_" in word))
    left = re.compile(rf"(?<![\w'-])({known})(?![\w'])")
    assert [text for text in said if left.search(text)] == []


def test_the_commands_speak_their_own_words(package, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    small, out = tmp_path / "small.mlpackage", tmp_path / "out.mlpackage"
    corepress("quantize", package(), "-o", small)
    again = corepress("palettize", small, "-o", out)
    assert "--joint" in again.stdout and "joint_compression" not in again.stdout
    rows = json.loads(corepress("palettize", small, "-o", out, "--overwrite", "--json").stdout)["weights"]
    assert any("--joint" in row["skipped"] for row in rows) and "joint_compression" not in str(rows)
    assert "--overwrite" in fails("quantize", package(), "-o", small)
    assert "--target iOS18" in fails("quantize", package("iOS16"), "-o", tmp_path / "o.mlpackage", "--dtype", "int4")


def test_warnings_are_printed_and_part_of_the_json() -> None:
    warn = "import logging; log = logging.getLogger('corepress.part')"
    statement = f"{warn}; log.warning('with strict=True'); log.warning('with strict=True'); log.info('no'); 1 / 0"
    done = raising(statement, "info", DIGITS, "--json")
    assert done.stderr.startswith("corepress: warning: with --strict\ncorepress: ") and done.stderr.count("\n") == 2
    assert json.loads(done.stdout)["warnings"] == ["with --strict"]
