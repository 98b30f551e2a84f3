"""The commands on Core AI models."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.cli.test_cli import corepress, fails
from tests.formats.coreai.made import COLUMNS, layer

pytest.importorskip("coreai")


@pytest.mark.slow
def test_commands_take_and_give_core_ai_models(tmp_path: Path) -> None:
    dense = layer(tmp_path / "dense.aimodel")
    np.savez(tmp_path / "data.npz", x=np.random.default_rng(0).standard_normal((8, COLUMNS, COLUMNS)).astype("f2"))
    (tmp_path / "recipe.yaml").write_text("steps:\n- prune: {target_sparsity: 0.5}\n- palettize: {nbits: 3}\n")
    data, out = ("--data", tmp_path / "data.npz"), ("--json", "--weight-threshold", 0, "-o")
    small = tmp_path / "small.aimodel"
    page = ("--report", tmp_path / "page.html")
    done = json.loads(corepress("palettize", dense, *out, small, "--nbits", 3, *data, *page).stdout)
    assert done["size_after"] < done["size_before"] / 2 and done["weights"][0]["compression"] == "palettized"
    assert done["verification"]["judged_on"]["source"] == "--data"
    assert "palettized" in (tmp_path / "page.html").read_text(encoding="utf-8")
    corepress("quantize", dense, *out, tmp_path / "four.aimodel", "--dtype", "fp4_e2m1fn", "--granularity", "per_block")
    corepress("prune", dense, *out, tmp_path / "sparse.aimodel", "--sparsity", 0.5)
    corepress("decompress", small, "-o", tmp_path / "again.aimodel")
    corepress("compress", dense, "-o", tmp_path / "both.aimodel", "--recipe", tmp_path / "recipe.yaml")
    shown = {
        name: json.loads(corepress("info", tmp_path / f"{name}.aimodel", "--json").stdout)
        for name in ("dense", "small", "four", "sparse", "again", "both")
    }
    assert {name: list(found["forms"]) for name, found in shown.items()} == {
        "dense": ["float16"],
        "small": ["palettized, 3 bits"],
        "four": ["quantized, 4 bits"],
        "sparse": ["sparse, 16 bits"],
        "again": ["float16"],
        "both": ["sparse+palettized, 3 bits"],
    }
    assert shown["small"]["kind"] == "Core AI model" and shown["small"]["target"] == "iOS27"
    assert [one["name"] for one in shown["small"]["inputs"]] == ["x"]
    verified = json.loads(corepress("verify", small, tmp_path / "again.aimodel", *data, "--json").stdout)
    assert verified["ok"] and verified["outputs"][0]["max_abs"] == 0
    assert "no rule speaks of anything in the model" in corepress("lint", small).stdout
    searched = corepress("search", dense, "-o", tmp_path / "found.aimodel", "--bits", 4, "--points", 1, *data).stdout
    assert "--method fitted learns from --data" in searched
    fitted, better = tmp_path / "fitted.aimodel", tmp_path / "better.aimodel"
    corepress("quantize", dense, *out, fitted, "--method", "gptq", *data, "--dtype", "int4")
    refined = json.loads(corepress("refine", dense, fitted, "-o", better, *data, "--steps", 3, "--json").stdout)
    assert refined["after"][0]["name"] == "y" and better.exists()
    assert "iOS27" in corepress("targets").stdout


def test_what_they_refuse(tmp_path: Path) -> None:
    dense = layer(tmp_path / "dense.aimodel")
    np.savez(tmp_path / "wrong.npz", x=np.zeros((2, 4, 4), "f2"))
    before = sorted(path.name for path in tmp_path.iterdir())
    for command, sentence in (
        (["palettize", dense, "-o", tmp_path / "x.mlpackage"], "give it a name with the ending .aimodel"),
        (["palettize", dense, "-o", dense], "it exists already"),
        (["quantize", dense, "-o", tmp_path / "x.aimodel", "--activations"], "--data"),
        (
            ["quantize", dense, "-o", tmp_path / "x.aimodel", "--method", "gptq", "--data", tmp_path / "wrong.npz"],
            "array 'x' is 2x4x4, but the input is 96x96",
        ),
        (["palettize", dense, "-o", tmp_path / "x.aimodel", "--target", "iOS18"], "can't be lowered"),
        (["quantize", dense, "-o", tmp_path / "x.aimodel", "--dtype", "float16"], "float16"),
    ):
        assert sentence in fails(*command)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
