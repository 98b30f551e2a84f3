"""`corepress refine`: what it writes and says, and what it refuses."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from tests.cli.test_cli import corepress, fails
from tests.formats.mlprogram.test_model import tree
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
    assert "nothing of it is compressed" in said
    said = fails("refine", DIGITS, folder / "small.mlpackage", "-o", out, "--data", data, "--time", "soon")
    assert 'such as "90s", "10m" or "1h"' in said
    assert not out.exists()
    said = fails("refine", DIGITS, folder / "small.mlpackage", "-o", folder / "small.mlpackage", "--data", data)
    assert "--overwrite" in said


SMALL = {
    "palettize": ["--nbits", 2],
    "quantize": ["--activations", "--dtype", "int4", "--target", "iOS18"],
    "prune": ["--sparsity", 0.7, "--method", "sparsegpt"],
}


@pytest.mark.slow
@pytest.mark.parametrize("command", SMALL)
def test_a_command_that_refines_at_last_has_a_recipe_that_makes_the_same(command, folder, tmp_path):
    out, page, data = tmp_path / "small.mlpackage", tmp_path / "page.html", ["--data", folder / "samples.npz"]
    options = [*SMALL[command], "--refine", 6, *data, "--report", page, "--json"]
    told = json.loads(corepress(command, DIGITS, "-o", out, *options).stdout)
    before, after = (told["refinement"][when][0]["snr"] for when in ("before", "after"))
    assert after > before and told["refinement"]["steps"] == 6
    # A fifth of the samples is judged by, and neither learnt from nor chosen by.
    assert told["verification"]["judged_on"]["part"] == "held back"
    recipe = re.search(r"steps:.*?refine: \{steps: 6\}", page.read_text(), flags=re.DOTALL)
    assert recipe
    (tmp_path / "recipe.yaml").write_text(recipe[0])
    corepress("compress", DIGITS, "-o", tmp_path / "again.mlpackage", "--recipe", tmp_path / "recipe.yaml", *data)
    assert tree(tmp_path / "again.mlpackage") == tree(out)


@pytest.mark.slow
def test_a_recipe_may_be_refined_at_last(folder, tmp_path):
    recipe, data = tmp_path / "recipe.yaml", ["--data", folder / "samples.npz"]
    recipe.write_text("steps: [{palettize: {nbits: 2}}]")
    command = ["compress", DIGITS, "--recipe", recipe, *data]
    done = corepress(*command, "-o", tmp_path / "a.mlpackage", "--refine", 2)
    assert re.search(
        r"refined +output 'logits': SNR .* \(2 steps, all steps were done\); 9 samples held back", done.stdout
    )
    recipe.write_text("steps: [{palettize: {nbits: 2}}, {refine: {steps: 2}}]")
    again = corepress(*command, "-o", tmp_path / "b.mlpackage")
    assert "(2 steps, all steps were done); 9 samples" in again.stdout
    assert tree(tmp_path / "a.mlpackage") == tree(tmp_path / "b.mlpackage")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--refine", "400"], "--refine needs --data: inputs that are like those of the app"),
        (["--refine", "soon"], "--refine soon: it must be a number of steps, such as 400, or a time, such as"),
        (["--refine", "0"], "--refine 0: it must be a number of steps"),
        (["--refine", "--data", "samples.npz"], "'--refine': its value is missing: --data follows"),
    ],
)
def test_a_refinement_that_cannot_be_is_refused_before_the_work(options, said, tmp_path):
    assert said in fails("palettize", DIGITS, "-o", tmp_path / "small.mlpackage", *options)
    assert not (tmp_path / "small.mlpackage").exists()
