"""`--report` of each command: checked before the work, written whole, and true to what the command measured."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from corepress.cli.options import Limits
from corepress.cli.reporting import Page
from corepress.coreml import OpPalettizerConfig, OptimizationConfig
from corepress.recipe import parse
from tests.cli.test_cli import corepress, fails

ROOT = Path(__file__).parent.parent.parent
DIGITS = ROOT / "examples/digits.mlpackage"
SAMPLES = ROOT / "examples/digits_test.npz"


def headings(page: Path) -> list[str]:
    return re.findall(r"<h2>(.*?)</h2>", page.read_text(encoding="utf-8").split("</main>")[0])


def test_what_a_command_did_and_measured(tmp_path: Path) -> None:
    out, page = tmp_path / "small.mlpackage", tmp_path / "page.html"
    command = ["palettize", DIGITS, "-o", out, "--nbits", 2, "--data", SAMPLES, "--report", page]
    done = json.loads(corepress(*command, "--json").stdout)
    assert done["report"] == str(page)
    text = page.read_text(encoding="utf-8")
    (output,) = done["verification"]["outputs"]
    assert f"{output['snr']:.1f} dB" in text and f"{output['cosine']:.5f}" in text
    assert "digits.mlpackage</code> (462.55 kB) became <code>small.mlpackage" in text
    assert "4 of 10 weights were compressed" in text and "360 samples of --data" in text
    changed = round((1 - output["top1"]) * 360)
    assert f"{changed} of 360 decisions changed" in text and text.count('alt="sample') == changed + 4
    assert "--nbits 2 --data" in text and "palettize: {nbits: 2}" in text, "it can be repeated, also as a recipe"
    assert "weight_threshold" not in text and "--weight-threshold" in text, "in the words of the command line"
    assert headings(page) == [
        *("What it answers", "Answers that changed", "Pictures", "Weights along the network", "The values of a weight"),
        *("Left alone", "Known hazards", "To repeat it"),
    ]


@pytest.mark.slow
def test_what_exists_is_replaced_only_if_that_is_asked_for(tmp_path: Path) -> None:
    out, page = tmp_path / "small.mlpackage", tmp_path / "page.html"
    page.write_text("mine")
    command = ["prune", DIGITS, "-o", out, "--sparsity", 0.5, "--report", page]
    assert "page.html: it exists already" in (said := fails(*command)) and "--overwrite" in said
    assert not out.exists() and page.read_text() == "mine", "found out before the work"
    assert "ending .html" in fails(*command[:-1], tmp_path / "page.txt") and not out.exists()
    inside = fails(*command[:-1], DIGITS / "page.html")
    assert "inside" in inside and not (DIGITS / "page.html").exists()
    corepress(*command, "--overwrite")
    assert headings(page) and out.exists()


def test_what_is_asked_of_all_steps_stands_above_the_recipe() -> None:
    config = OptimizationConfig(OpPalettizerConfig(nbits=4))
    for limits, first in ((Limits(), "steps:"), (Limits(all_constants=True), "# with --all-constants")):
        text = Page(Path("page.html")).recipe("palettize", config, limits, None, False)
        assert text.splitlines()[0] == first and parse(yaml.safe_load(text)).steps[0].config == config


@pytest.mark.slow
def test_a_miss_is_reported_too(tmp_path: Path) -> None:
    out, page = tmp_path / "small.mlpackage", tmp_path / "page.html"
    corepress("palettize", DIGITS, "-o", out, "--nbits", 2)
    done = corepress("verify", DIGITS, out, "--data", SAMPLES, "--per-op", "--report", page, check=False)
    assert done.returncode == 1 and "below 20 dB" in done.stderr
    text = page.read_text(encoding="utf-8")
    assert "It answers too differently" in text and "breaks here first" in text
    assert {"Where it breaks", "The values of a weight", "Known hazards"} <= set(headings(page))
    assert "--overwrite has no effect here: it needs --report" in fails("verify", DIGITS, out, "--overwrite")


@pytest.mark.slow
@pytest.mark.parametrize("command", ["quantize", "compress", "decompress"])
def test_the_other_commands(tmp_path: Path, command: str) -> None:
    page, recipe, small = tmp_path / "page.html", tmp_path / "recipe.yaml", tmp_path / "small.mlpackage"
    recipe.write_text("steps: [{palettize: {nbits: 4}}]")
    corepress("quantize", DIGITS, "-o", small)
    more = {"compress": ["--recipe", recipe]}.get(command, [])
    source = small if command == "decompress" else DIGITS
    corepress(command, source, "-o", tmp_path / "out.mlpackage", *more, "--report", page)
    words = "made plain numbers again" if command == "decompress" else "weights were compressed"
    assert words in page.read_text(encoding="utf-8")
