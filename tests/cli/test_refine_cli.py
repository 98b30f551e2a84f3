"""`corepress refine`: what it writes and says, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

from tests.cli.test_cli import corepress, fails
from tests.test_readme import ROOT

DIGITS = ROOT / "examples/digits.mlpackage"
IMAGES = np.load(ROOT / "examples/digits_test.npz")["images"][:, None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("refine")
    np.savez(found / "samples.npz", image=IMAGES[:60])
    np.savez(found / "others.npz", image=IMAGES[60:90])
    corepress("palettize", DIGITS, "-o", found / "small.mlpackage", "--nbits", 2)
    return found


def test_a_package_is_refined_and_a_page_tells(folder, tmp_path):
    out, page = tmp_path / "better.mlpackage", tmp_path / "page.html"
    command = ["refine", DIGITS, folder / "small.mlpackage", "-o", out, "--data", folder / "samples.npz"]
    done = corepress(*command, "--test-data", folder / "others.npz", "--steps", 15, "--report", page)
    assert "SNR before" in done.stdout and "30 samples of --test-data" in done.stdout
    assert "corepress refine" in page.read_text()
    sizes = [sum(file.stat().st_size for file in path.rglob("*")) for path in (out, folder / "small.mlpackage")]
    assert sizes[0] == sizes[1]


def test_what_is_refused_is_said_in_the_words_of_the_command(folder, tmp_path):
    out, data = tmp_path / "better.mlpackage", folder / "samples.npz"
    said = fails("refine", DIGITS, DIGITS, "-o", out, "--data", data)
    assert "none of its weights is compressed" in said
    said = fails("refine", DIGITS, folder / "small.mlpackage", "-o", out, "--data", data, "--time", "soon")
    assert 'such as "90s", "10m" or "1h"' in said
    assert not out.exists()
    said = fails("refine", DIGITS, folder / "small.mlpackage", "-o", folder / "small.mlpackage", "--data", data)
    assert "--overwrite" in said
