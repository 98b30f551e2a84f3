"""docs/cli.md lists the fields of every JSON document, and no others."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest

from corepress.cli.app import app
from corepress.coreml.methods import METHODS
from tests.cli.test_cli import corepress
from tests.coreml.test_rotating import package
from tests.tokenizing.packages import reader, tokenizer

ROOT = Path(__file__).parent.parent.parent
DIGITS = ROOT / "examples/digits.mlpackage"
PAGE = (ROOT / "docs/cli.md").read_text()
ALWAYS = {"schema", "warnings"}
CONTEXT = click.Context(app)
COMMANDS = {name: app.get_command(CONTEXT, name) for name in app.list_commands(CONTEXT)}
WITH_JSON = {name for name, found in COMMANDS.items() if any("--json" in option.opts for option in found.params)}
COMPRESSING = {*METHODS, "compress", "decompress"}


def fields(heading: str) -> dict[str, str]:
    """The fields of a section's table, each with what is said of it."""
    _, found, rest = PAGE.partition(f"\n### {heading}\n")
    assert found, f"docs/cli.md has no section {heading}"
    section = rest.split("\n##")[0]
    rows = re.findall(r"^\| (`.*?) \| (.*) \|$", section, flags=re.M)
    return {name: text for names, text in rows for name in re.findall(r"`(\w+)`", names)}


def check(document: dict[str, Any], heading: str, *optional: str) -> None:
    listed = fields(heading)
    assert document.keys() - ALWAYS - set(optional) == listed.keys() - set(optional)
    for name, value in document.items():
        inner = value[0] if isinstance(value, list) and value else value
        if isinstance(inner, dict) and name not in (
            "facts",
            "metadata",
            "forms",
            "abilities",
            "verification",
            "tested",
        ):
            inner = next(iter(inner.values())) if name == "outputs" and heading == "`run`" else inner
            named = set(re.findall(r"`(\w+)`", listed[name]))
            if not (heading == "`info`" and name == "outputs"):  # described together with the inputs
                assert inner.keys() <= named | set(optional), name


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("small") / "small.mlpackage"
    return out, json.loads(corepress("quantize", DIGITS, "-o", out, "--verify", "--json").stdout)


def test_compressing_commands(small: tuple[Path, dict[str, Any]]) -> None:
    check(small[1], "The commands that compress", "report", "exceptions", "refinement", "hint")
    verification = small[1]["verification"]
    assert verification.keys() - {"judged_on"} == fields("`verify`").keys() - {"report"}
    assert all(
        f"`{name}`" in fields("The commands that compress")["verification"] for name in verification["judged_on"]
    )


def test_hazards(tmp_path: Path) -> None:
    command = ["palettize", DIGITS, "-o", tmp_path / "small.mlpackage", "--nbits", 4]
    check(
        json.loads(corepress(*command, "--json").stdout),
        "The commands that compress",
        "verification",
        "report",
        "exceptions",
        "refinement",
    )
    document = json.loads(corepress("lint", tmp_path / "small.mlpackage", "--json", check=False).stdout)
    assert document.pop("error")["kind"] == "missed" and document["findings"] and document["rules"]
    check(document, "`lint`")


def test_verify(small: tuple[Path, dict[str, Any]]) -> None:
    document = json.loads(corepress("verify", DIGITS, small[0], "--per-op", "--json").stdout)
    assert document["operations"][0].keys() == document["outputs"][0].keys()
    document["operations"] = []
    check(document, "`verify`", "report")


@pytest.mark.slow
def test_search(tmp_path: Path) -> None:
    np.savez(tmp_path / "samples.npz", image=np.random.default_rng(0).random((12, 1, 1, 8, 8), np.float32))
    command = ["search", DIGITS, "-o", tmp_path / "small.mlpackage", "--bits", 6, "--points", 1, "--forms", "quantized"]
    done = corepress(*command, "--data", tmp_path / "samples.npz", "--recipe", tmp_path / "of a search.yaml", "--json")
    document = json.loads(done.stdout)
    check(document, "`search`", "report")
    again = shlex.split((tmp_path / "of a search.yaml").read_text().splitlines()[1].removeprefix("# "))
    assert again[:3] == ["corepress", "compress", str(DIGITS)] and again[-1] == str(tmp_path / "of a search.yaml")
    named = fields("`search`")["points"]
    assert all(f"`{name}`" in named for name in [*document["points"][0], *document["points"][0]["weights"][0]])


def test_refine(small: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    np.savez(tmp_path / "samples.npz", image=np.random.default_rng(0).random((12, 1, 1, 8, 8), np.float32))
    command = ["refine", DIGITS, small[0], "-o", tmp_path / "better.mlpackage", "--data", tmp_path / "samples.npz"]
    check(json.loads(corepress(*command, "--steps", 2, "--json").stdout), "`refine`", "report")


@pytest.mark.slow
def test_rotate(tmp_path: Path) -> None:
    command = ["rotate", package(tmp_path), "-o", tmp_path / "rotated.mlpackage"]
    check(json.loads(corepress(*command, "--json").stdout), "`rotate`")


def test_tokenize(tmp_path: Path) -> None:
    model = reader(tmp_path, {"ids": None, "attention_mask": None})
    tokenizer().save(str(tmp_path / "tokenizer.json"))
    command = ["tokenize", model, "--tokenizer", tmp_path / "tokenizer.json", "-o", tmp_path / "samples.npz"]
    document = json.loads(corepress(*command, "--json").stdout)
    check({**document, "inputs": list(document["inputs"])}, "`tokenize`")


@pytest.mark.slow
def test_migrate(tmp_path: Path) -> None:
    pytest.importorskip("coreai_torch")
    command = ["migrate", DIGITS, "-o", tmp_path / "digits.aimodel"]
    check(json.loads(corepress(*command, "--json").stdout), "`migrate`")
    check(json.loads(corepress("info", DIGITS, "--coreai", "--json").stdout), "`info --coreai`")


ALONE = {"verify", "search", "refine", "rotate", "migrate", "tokenize"}


@pytest.mark.parametrize("command", sorted(WITH_JSON - COMPRESSING - ALONE))
def test_other_commands(command: str) -> None:
    arguments = {"run": [DIGITS, "--random"], "targets": [], "compare": [DIGITS, DIGITS]}.get(command, [DIGITS])
    check(json.loads(corepress(command, *arguments, "--json").stdout), f"`{command}`", "report")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_in_the_table_of_the_readme(command: str) -> None:
    assert f"`corepress {command}`" in (ROOT / "README.md").read_text()


def test_what_every_document_has() -> None:
    done = corepress("info", "nothing", "--json", check=False)
    document = json.loads(done.stdout)
    general = PAGE.split("\n## JSON\n")[1].split("\n###")[0]
    assert document.keys() == ALWAYS | {"error"}
    for name in [*document, *document["error"]]:
        assert f"`{name}`" in general
