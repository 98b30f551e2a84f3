"""The commands, given a neural network of iOS 15 or older."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from corepress.neural_network import load
from tests.cli.test_cli import corepress, fails
from tests.cli.test_usage import MODES
from tests.formats.neural_network.networks import every_layer
from tests.formats.neural_network.test_normalization import SHAPE
from tests.formats.neural_network.test_normalization import network as normed


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
    assert result["compressed"] == 3 and result["size_before"] == len(before)
    assert result["skipped"] == len(result["weights"]) - 3
    skipped = {row["skipped"] for row in result["weights"] if not row["changed"]}
    assert skipped == {"it has no more than 500 elements (--weight-threshold)"}
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
    (["palettize", "--cluster-dim", 2], "--cluster-dim can't be used here: the model is a neural network"),
    (["palettize", "--mode", "unique"], "kmeans and uniform only"),
    (["palettize", "--nbits", 9], "nbits must be 1 to 8"), (["quantize", "--target", "iOS18"], "neural network"),
    (["quantize", "--granularity", "per_block"], "is a neural network"),
])  # fmt: skip
def test_what_neural_networks_do_not_have(old: Path, tmp_path: Path, arguments: list[object], sentence: str) -> None:
    assert sentence in fails(arguments[0], old, "-o", tmp_path / "new.mlmodel", *arguments[1:])
    assert not (tmp_path / "new.mlmodel").exists()


@pytest.mark.parametrize("mode", MODES)
def test_networks_know_a_mode_or_refuse_it(old: Path, tmp_path: Path, mode: str) -> None:
    command = ["palettize", old, "-o", tmp_path / "new.mlmodel", "--mode", mode]
    if mode in ("kmeans", "uniform"):
        assert "new.mlmodel" in corepress(*command).stdout
    else:
        assert "--mode can't have this value here: the model is a neural network" in fails(*command)


def test_outputs_are_kept(old: Path) -> None:
    assert "exists already" in fails("quantize", old, "-o", old)
    corepress("quantize", old, "-o", old, "--overwrite", "--weight-threshold", 500)
    assert "linear" in {weight.form for weight in load(old).weights()}


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A network that runs: a depthwise convolution, a batch norm, a convolution."""
    path = tmp_path / "net.mlmodel"
    path.write_bytes(normed(0).SerializeToString())
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    samples = np.random.default_rng(0).normal(size=(40, *SHAPE)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=samples)
    return tmp_path / "data.npz"


def test_results_are_compared(runs: Path, data: Path, tmp_path: Path) -> None:
    small = tmp_path / "small.mlmodel"
    options = ["--weight-threshold", 0, "--data", data]
    shown = corepress("quantize", runs, "-o", small, *options).stdout
    assert "compressed       2 of 6 weights" in shown and "bits per weight" in shown and "worst SNR" in shown
    assert "output SNR" in shown and "40 samples of --data" in shown and "4: it belongs to a batch norm" in shown
    result = json.loads(corepress("quantize", runs, "-o", small, *options, "--overwrite", "--json").stdout)
    assert result["verification"]["ok"] and result["verification"]["judged_on"]["source"] == "--data"
    assert result["compressed"] == 2 and result["skipped"] == 4 and 8 < result["bits_per_weight"] < 32
    rows = {row["name"]: row for row in result["weights"]}
    assert rows["dw.weights"]["compression"] == "quantized" and rows["dw.weights"]["bits"] == 8
    assert 30 < rows["dw.weights"]["snr"] < 60 and rows["bn.mean"]["snr"] is None
    assert rows["bn.mean"]["compression"] == "" and not rows["bn.mean"]["changed"]


def test_a_result_that_misses_what_was_asked_fails(runs: Path, data: Path, tmp_path: Path) -> None:
    small = tmp_path / "small.mlmodel"
    options = ["-o", small, "--weight-threshold", 0, "--nbits", 2]
    for more in (
        ["--data", data, "--verify"],
        ["--test-data", data, "--min-snr", 60],
        ["--verify", "--metric", "cosine"],
    ):
        done = corepress("palettize", runs, *options, *more, "--overwrite", check=False)
        assert done.returncode == 1 and "output 'y'" in done.stderr
    corepress("palettize", runs, *options, "--data", data, "--min-snr", 1, "--overwrite")


def test_float16(runs: Path, data: Path, tmp_path: Path) -> None:
    small = tmp_path / "small.mlmodel"
    done = corepress(
        "quantize", runs, "-o", small, "--dtype", "float16", "--weight-threshold", 0, "--data", data, "--json"
    )
    result = json.loads(done.stdout)
    assert [weight.form for weight in load(small).weights()] == ["float16", *["float32"] * 4, "float16"]
    assert result["compressed"] == 2 and result["verification"]["ok"]
    assert {row["compression"] for row in result["weights"]} == {"float16", ""}
    assert "--mode has no effect" in fails(
        "quantize", runs, "-o", tmp_path / "b.mlmodel", "--dtype", "float16", "--mode", "linear"
    )


def test_counts_are_those_of_the_run(runs: Path, tmp_path: Path) -> None:
    half, small = tmp_path / "half.mlmodel", tmp_path / "small.mlmodel"
    corepress("quantize", runs, "-o", half, "--dtype", "float16", "--weight-threshold", 0)
    done = corepress("palettize", half, "-o", small, "--weight-threshold", 130, "--json")
    result = json.loads(done.stdout)
    assert result["compressed"] == 1 and result["skipped"] == 5
    nothing = corepress("palettize", runs, "-o", tmp_path / "same.mlmodel", "--json")
    result = json.loads(nothing.stdout)
    assert result["compressed"] == 0 and "--weight-threshold" in result["warnings"][0]
    assert "no weight was compressed" in result["warnings"][0]
