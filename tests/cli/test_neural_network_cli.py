"""The commands, given a neural network of iOS 15 or older."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from corepress.neural_network import load
from tests.cli.test_cli import corepress, fails
from tests.neural_network.networks import every_layer


@pytest.fixture
def old(tmp_path: Path) -> Path:
    path = tmp_path / "old.mlmodel"
    path.write_bytes(every_layer().SerializeToString())
    return path


@pytest.mark.parametrize("command,form,bits", [
    (["palettize"], "lut", 4), (["palettize", "--nbits", 5], "lut", 5), (["palettize", "--mode", "uniform"], "lut", 4),
    (["quantize"], "linear", 8), (["quantize", "--dtype", "uint4", "--mode", "linear"], "linear", 4),
])  # fmt: skip
def test_compressing_and_back(old: Path, tmp_path: Path, command: list[object], form: str, bits: int) -> None:
    before, small, big = old.read_bytes(), tmp_path / "small.mlmodel", tmp_path / "big.mlmodel"
    done = corepress(command[0], old, "-o", small, *command[1:], "--weight-threshold", 500, "--json")
    result = json.loads(done.stdout)
    assert result["compressed"] == 3 and result["skipped"] == {} and result["size_before"] == len(before)
    assert result["size_after"] == small.stat().st_size < len(before)
    weights = load(small).weights()
    assert [(weight.form, weight.bits) for weight in weights if weight.form != "float32"] == [(form, bits)] * 3
    done = corepress("decompress", small, "-o", big)
    assert "big.mlmodel" in done.stdout and {weight.form for weight in load(big).weights()} == {"float32"}
    assert old.read_bytes() == before


def test_info(old: Path) -> None:
    result = json.loads(corepress("info", old, "--json").stdout)
    assert len(result["weights"]) == len(load(old).weights()) and result["size"] == old.stat().st_size
    assert result["weights"][0] == {
        "name": "conv.weights", "layer_type": "convolution", "shape": [16, 8, 3, 3], "form": "float32", "bits": 32,
        "stored_bytes": 4608,
    }  # fmt: skip
    shown = corepress("info", old).stdout
    assert "neural network (specification 5), for iOS14" in shown and "The 40 largest of" in shown
    assert "loop/body.bias" in corepress("info", old, "--all").stdout


@pytest.mark.parametrize("arguments,sentence", [
    (["palettize", "--cluster-dim", 2], "--cluster-dim: "),
    (["palettize", "--mode", "unique"], "kmeans and uniform only"),
    (["palettize", "--nbits", 9], "nbits must be 1 to 8"), (["quantize", "--target", "iOS18"], "neural network"),
    (["quantize", "--granularity", "per_block"], "no such option"),
])  # fmt: skip
def test_what_neural_networks_do_not_have(old: Path, tmp_path: Path, arguments: list[object], sentence: str) -> None:
    assert sentence in fails(arguments[0], old, "-o", tmp_path / "new.mlmodel", *arguments[1:])
    assert not (tmp_path / "new.mlmodel").exists()


def test_outputs_are_kept(old: Path) -> None:
    assert "exists already" in fails("quantize", old, "-o", old)
    corepress("quantize", old, "-o", old, "--overwrite", "--weight-threshold", 500)
    assert "linear" in {weight.form for weight in load(old).weights()}
