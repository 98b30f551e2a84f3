"""The hook that holds committed models to a size, also as pre-commit installs and runs it."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from corepress.cli.committed import given_size, main, models

ROOT = Path(__file__).parent.parent.parent
DIGITS = ROOT / "examples" / "digits.mlpackage"
WEIGHTS = "Data/com.apple.CoreML/weights/weight.bin"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where `dense.mlpackage` has 16 bits for each weight, and `small.mlpackage` about 4."""
    from corepress.coreml import OpPalettizerConfig, OptimizationConfig, palettize_weights

    shutil.copytree(DIGITS, tmp_path / "dense.mlpackage")
    config = OptimizationConfig(OpPalettizerConfig(nbits=4))
    palettize_weights(DIGITS, config).save(tmp_path / "small.mlpackage")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_files_of_a_package_stand_for_it() -> None:
    inside = [DIGITS / WEIGHTS, DIGITS / "Manifest.json", DIGITS]
    assert models([*inside, ROOT / "README.md", Path("gone.mlmodel")]) == [DIGITS]


@pytest.mark.parametrize(
    ("options", "model", "said"),
    [
        (["--max-size", "500 kB"], "dense", ""),
        (
            ["--max-size", "200 kB"],
            "dense",
            "dense.mlpackage: it has 462.55 kB, but 200.00 kB are allowed.",
        ),
        (["--max-size", "200 kB"], "small", ""),
        (["--max-bits", "8"], "dense", "dense.mlpackage: its weights have 16.0 bits on average, but 8 are allowed."),
        (["--max-bits", "8"], "small", ""),
        (["--max-bits", "4"], "small", "bits on average, but 4 are allowed"),
    ],
)
def test_what_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], options: list[str], model: str, said: str
) -> None:
    assert main([*options, f"{model}.mlpackage/{WEIGHTS}", f"{model}.mlpackage/Manifest.json"]) == (1 if said else 0)
    printed = capsys.readouterr().out
    assert said in printed and printed.count("\n") == (1 if said else 0)


def test_a_damaged_model_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "broken.mlmodel").write_bytes(b"\xff" * 9)
    assert main(["broken.mlmodel"]) == 1
    assert "broken.mlmodel" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "expected"), [("200000", 200_000), ("10 MB", 10**7), ("1.5GiB", 3 * 2**29), (" 7 kB ", 7000), ("3 B", 3)]
)
def test_sizes_are_read(text: str, expected: int) -> None:
    assert given_size(text) == expected


@pytest.mark.parametrize("text", ["", "MB", "10 potatoes", "-3 MB", "1,5 MB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is not a size"):
        given_size(text)


def test_the_hook_runs_as_it_is_declared(folder: Path) -> None:
    (hook,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text(encoding="utf-8"))
    python, *entry = hook["entry"].split()
    assert python == "python" and hook["language"] == "python"
    command = [sys.executable, *entry, *hook["args"], "--max-size=1kB", f"dense.mlpackage/{WEIGHTS}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
    assert done.returncode == 1 and "1.00 kB are allowed" in done.stdout and not done.stderr
