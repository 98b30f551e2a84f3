"""The options of the commands: both names of a setting, groups, and what their help says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import attrs
import click
import pytest
from click.testing import CliRunner

from corepress import coreml
from corepress.cli.app import app
from corepress.cli.declare import Command, Option
from corepress.formats.mlprogram import load
from corepress.names import SHORT
from tests.cli.test_cli import corepress

CONTEXT = click.Context(app)
COMMANDS = {name: app.get_command(CONTEXT, name) for name in app.list_commands(CONTEXT)}


def test_each_setting_has_the_name_of_the_api_beside_the_short_one() -> None:
    found = set()
    for name, command in COMMANDS.items():
        for option in command.params:
            for api, short in SHORT.items():
                flags = {f"--{word.replace('_', '-')}" for word in (api, short)}
                if flags & set(option.opts):
                    assert flags <= set(option.opts), name
                    found.add(api)
    assert found == set(SHORT)


def test_short_names_stand_for_fields_and_arguments_of_the_api() -> None:
    import inspect

    known = {"joint_compression"} & set(inspect.signature(coreml.palettize_weights).parameters)
    for kind in vars(coreml).values():
        if isinstance(kind, type) and attrs.has(kind):
            known |= {field.name for field in attrs.fields(kind)}
    assert set(SHORT) <= known and not set(SHORT.values()) & known


def test_the_words_that_an_option_takes_are_those_of_the_library() -> None:
    from corepress.coreml.activations.observers import AUTO, OBSERVERS
    from corepress.coreml.methods import METHODS

    def choices(command: str, name: str) -> list[str]:
        return list(next(option for option in COMMANDS[command].params if option.name == name).type.choices)

    assert set(METHODS) <= set(COMMANDS)
    for command, method in METHODS.items():
        assert choices(command, "method") == list(method.fitted), command
    assert choices("quantize", "observer") == [*OBSERVERS, AUTO]


def test_both_names_do_the_same(package, tmp_path) -> None:
    outs = [tmp_path / "a.mlpackage", tmp_path / "b.mlpackage"]
    for out, option in zip(outs, ("--sparsity", "--target-sparsity"), strict=True):
        corepress("prune", package(), "-o", out, option, 0.5)
    one, other = (sorted(file for file in (out / "Data").rglob("*") if file.is_file()) for out in outs)
    assert [file.read_bytes() for file in one] == [file.read_bytes() for file in other]
    assert {weight.compression for weight in load(outs[0]).weights()} == {"sparse", ""}


@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_whole_sentences(name) -> None:
    shown = CliRunner().invoke(app, [name, "--help"])
    assert shown.exit_code == 0
    for parameter in COMMANDS[name].params:
        if isinstance(parameter, click.Option) and parameter.help:
            text = parameter.help.partition("  [")[0].partition(" [default")[0]
            assert text[0].isupper() and text.endswith("."), parameter.name


@dataclass(frozen=True)
class Size:
    width: Annotated[int, Option(min=1, help="How wide.")] = 3
    unit: Annotated[Literal["mm", "cm"], Option(help="In what.")] = "mm"


def test_a_group_is_given_as_one_value() -> None:
    seen = []

    def paint(size: Size, twice: Annotated[bool, Option("--twice", help="Two coats.")] = False) -> None:
        """Paint."""
        seen.append((size, twice))

    command = Command(paint)
    assert [option.name for option in command.params] == ["width", "unit", "twice"]
    assert CliRunner().invoke(command, ["--width", "5", "--twice"]).exit_code == 0
    assert CliRunner().invoke(command, ["--unit", "cm"]).exit_code == 0
    assert seen == [(Size(5, "mm"), True), (Size(3, "cm"), False)]
    assert CliRunner().invoke(command, ["--width", "0"]).exit_code == 2


def test_zeroing_everything_is_said(package, tmp_path) -> None:
    done = corepress("prune", package(), "-o", tmp_path / "a.mlpackage", "--sparsity", 1)
    assert "--sparsity 1 sets all values of the weights to zero" in done.stderr
