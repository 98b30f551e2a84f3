"""`corepress compare`."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.cli.test_cli import corepress, fails

ROOT = Path(__file__).parent.parent.parent
DIGITS = ROOT / "examples/digits.mlpackage"


def test_a_table_and_a_page(tmp_path: Path) -> None:
    small, page = tmp_path / "small.mlpackage", tmp_path / "page.html"
    shutil.copytree(DIGITS, small)
    done = corepress("compare", DIGITS, small, DIGITS, "--report", page)
    assert "small.mlpackage" in done.stdout and "weak evidence" in done.stdout and done.stderr == ""
    assert "2 packages made of" in page.read_text(encoding="utf-8")
    assert "it exists already" in fails("compare", DIGITS, small, "--report", page)


def test_what_is_refused() -> None:
    assert "Missing argument 'COMPRESSED...'" in fails("compare", DIGITS)
    assert "--overwrite has no effect here" in fails("compare", DIGITS, DIGITS, "--overwrite")
    data = ROOT / "examples/digits_test.npz"
    assert "--seed has no effect here" in fails("compare", DIGITS, DIGITS, "--data", data, "--seed", 3)
