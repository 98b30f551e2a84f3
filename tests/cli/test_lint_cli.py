"""`corepress lint`, and what commands that compress say of devices."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from corepress.formats.mlprogram import load
from tests.cli.test_cli import corepress, fails

DIGITS = Path(__file__).parent.parent.parent / "examples/digits.mlpackage"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The example in a form of which a rule speaks, and what the command said that made it."""
    path = tmp_path_factory.mktemp("small") / "small.mlpackage"
    return path, corepress("palettize", DIGITS, "-o", path, "--nbits", 4).stdout


def test_exit_codes(small: tuple[Path, str], tmp_path: Path) -> None:
    done = corepress("lint", DIGITS)
    assert done.returncode == 0 and "no rule speaks" in done.stdout and "measured nothing" in done.stdout
    done = corepress("lint", small[0], check=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr == "corepress: 1 rule found 4 places\n"
    assert "found 4 places" not in done.stdout  # what fails is said once
    for words in ("wrong: lut4-per-tensor", "Neural Engine, CPU", "https://github.com/apple/coremltools/issues/2716"):
        assert words in done.stdout
    assert corepress("lint", small[0], "--device", "gpu").returncode == 0
    for arguments, code, words in (
        ([tmp_path / "missing.mlpackage"], 3, "no such file"),
        ([small[0], "--device", "tpu"], 2, "'ane', 'gpu', 'cpu'"),
        ([small[0], "--target", "iOS16"], 2, "--target iOS16: the model needs iOS18"),
        ([small[0], "--target", "iOS1"], 2, "Unknown target"),
        ([small[0], "--overwrite"], 2, "--overwrite has no effect here: it needs --sarif FILE"),
        ([small[0], "--sarif", tmp_path / "lint.json"], 2, "ending .sarif"),
        ([small[0], "--sarif", tmp_path / "no folder/lint.sarif"], 3, "no such folder"),
    ):
        done = corepress("lint", *arguments, check=False)
        assert (done.returncode, done.stdout) == (code, "") and words in done.stderr, done.stderr


def test_a_damaged_model(tmp_path: Path) -> None:
    (tmp_path / "it.mlmodel").write_bytes(b"\xff" * 100)
    assert "it.mlmodel" in fails("lint", tmp_path / "it.mlmodel")


@pytest.mark.parametrize("command", ["lint", "info", "palettize -o x.mlmodel", "run --random"])
def test_what_is_no_model_is_said_in_words_of_users(command: str, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("steps: [palettize]")
    name, *options = command.split()
    said = fails(name, tmp_path / "notes.txt", *options)
    assert said == f"corepress: {tmp_path / 'notes.txt'}: not a Core ML model, or a damaged one\n"


def test_sarif_to_a_file_and_to_standard_output(small: tuple[Path, str], tmp_path: Path) -> None:
    log = tmp_path / "lint.sarif"
    done = corepress("lint", small[0], "--sarif", log, check=False)
    assert done.returncode == 1 and "lut4-per-tensor" in done.stdout
    written = json.loads(log.read_text())
    assert len(written["runs"][0]["results"]) == 4
    done = corepress("lint", small[0], "--sarif", "-", check=False)
    assert done.returncode == 1 and json.loads(done.stdout) == written
    assert "exists already" in fails("lint", small[0], "--sarif", log)
    assert corepress("lint", DIGITS, "--sarif", log, "--overwrite", "--json").returncode == 0
    assert json.loads(log.read_text())["runs"][0]["results"] == []
    done = corepress("lint", small[0], "--sarif", "-", "--json", check=False)
    assert done.returncode == 2 and json.loads(done.stdout)["error"]["kind"] == "usage"


def test_commands_say_what_applies_to_what_they_changed(small: tuple[Path, str], tmp_path: Path) -> None:
    line = "lut4-per-tensor (wrong on ane/cpu: 4); corepress lint says what was reported"
    assert line in small[1]
    out = tmp_path / "again.mlpackage"
    # The rest of the weights, with what was found before left as it is.
    done = corepress("quantize", small[0], "-o", out, "--weight-threshold", 0, "--json", check=False)
    document = json.loads(done.stdout)
    assert document["hazards"] == []
    assert any(weight.compression == "palettized" for weight in load(out).weights())
    command = ["quantize", DIGITS, "-o", out, "--overwrite", "--dtype", "int4", "--granularity", "per_block"]
    done = corepress(*command, "--block-size", 16, "--json")
    (hazard,) = json.loads(done.stdout)["hazards"]
    assert hazard == {"rule": "blocks-of-integers", "severity": "wrong", "devices": ["ane"], "count": 4}
    assert "devices" not in corepress("quantize", DIGITS, "-o", out, "--overwrite").stdout
