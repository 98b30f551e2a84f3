"""The command as its users meet it: in a process of its own."""

from __future__ import annotations

import functools
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from corepress.formats.mlprogram import load
from tests import process
from tests.formats.mlprogram.test_model import tree
from tests.oracle import peer_weights


def corepress(*arguments: object, check: bool = True, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    done = process.run([*map(str, arguments)], cwd)
    assert not check or done.returncode == 0, done.stderr
    return done


def fails(*arguments: object) -> str:
    """Run a command that must fail with one sentence and no traceback."""
    done = corepress(*arguments, check=False)
    assert done.returncode not in (0, None)
    assert "Traceback" not in done.stderr and done.stdout == ""
    return done.stderr


@pytest.mark.parametrize(
    "command,compressed",
    [
        (["palettize", "--nbits", 4], 7),
        (["palettize", "--mode", "uniform", "--nbits", 6], 7),
        (["palettize", "--granularity", "per_grouped_channel", "--group-size", 16, "--nbits", 3], 6),
        (["palettize", "--cluster-dim", 2, "--nbits", 4], 7),
        (["palettize", "--per-channel-scale", "--lut-dtype", "int8"], 7),
        (["quantize"], 7),
        (["quantize", "--dtype", "uint4", "--granularity", "per_block", "--block-size", 16, "--mode", "linear"], 7),
        (["quantize", "--scale-search", "--dtype", "int4"], 7),
        (["quantize", "--float-zero-point", "--mode", "linear", "--dtype", "uint4"], 7),
        (["prune", "--sparsity", 0.5], 7),
        (["prune", "--threshold", 0.1], 7),
        (["prune", "--n-m", "2:4"], 2),
    ],
)
def test_compressing_commands(package, tmp_path, command, compressed) -> None:
    out = tmp_path / "out.mlpackage"
    before = tree(package())
    done = corepress(command[0], package(), "-o", out, *command[1:], "--json")
    result = json.loads(done.stdout)
    assert result["compressed"] >= compressed - 3 and result["size_after"] < result["size_before"]
    assert result["size_after"] == sum(map(len, tree(out).values()))
    assert tree(package()) == before
    values = peer_weights(out)
    for weight in load(out).weights():
        assert (weight.dense() == values[weight.name]).all()


def test_the_closing_table(package, tmp_path) -> None:
    done = corepress("quantize", package(), "-o", tmp_path / "out.mlpackage")
    for words in ("ratio", "bits per weight", "worst SNR", "dB", "left alone"):
        assert words in done.stdout
    assert done.stderr == ""  # no progress bar where there is no terminal


def test_info(package) -> None:
    assert "linear" in corepress("info", package()).stdout
    listed = json.loads(corepress("info", package(), "--json").stdout)
    assert listed["target"] == "iOS18" and len(listed["weights"]) == 8


def test_targets() -> None:
    assert "iOS18" in corepress("targets").stdout
    assert [row["Target"] for row in json.loads(corepress("targets", "--json").stdout)["targets"]][:2] == [
        "iOS15",
        "iOS16",
    ]


def test_decompress_gives_the_values_back(package, tmp_path) -> None:
    corepress("quantize", package(), "-o", tmp_path / "q.mlpackage")
    corepress("decompress", tmp_path / "q.mlpackage", "-o", tmp_path / "d.mlpackage")
    packed = {w.name: w.dense() for w in load(tmp_path / "q.mlpackage").weights()}
    for weight in load(tmp_path / "d.mlpackage").weights():
        assert not weight.compression and (weight.dense() == packed[weight.name]).all()


def test_a_recipe(package, tmp_path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "target: iOS18\nsteps:\n"
        "  - prune: {target_sparsity: 0.5}\n    ops: {gather: skip}\n"
        "  - quantize: {dtype: int8}\n    names: {'embed*': {dtype: int4}}\n"
    )
    corepress("compress", package("iOS16"), "-o", tmp_path / "out.mlpackage", "--recipe", recipe)
    forms = {w.name: (w.compression, w.bits) for w in load(tmp_path / "out.mlpackage").weights()}
    assert forms["dense_weight_0"] == ("sparse+quantized", 8)
    assert next(form for name, form in forms.items() if name.startswith("embed")) == ("quantized", 4)


def test_a_configuration_file_of_the_peer(package, tmp_path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(
        "config_type: OpLinearQuantizerConfig\nglobal_config: {mode: linear}\nop_type_configs: {conv: null}\n"
    )
    corepress("quantize", package(), "-o", tmp_path / "out.mlpackage", "--config", config)
    forms = {w.name: w.compression for w in load(tmp_path / "out.mlpackage").weights()}
    assert forms["conv_weight_0"] == "" and forms["dense_weight_0"] == "quantized"


def test_bad_input_is_one_sentence(package, tmp_path) -> None:
    out = tmp_path / "out.mlpackage"
    assert "no such file" in fails("info", tmp_path / "nothing.mlpackage")
    assert "iOS18" in fails("quantize", package("iOS16"), "-o", out, "--dtype", "int4")
    assert "exists already" in fails("quantize", package(), "-o", package())
    assert "no such folder" in fails("quantize", package(), "-o", tmp_path / "a/b.mlpackage")
    assert "exactly one" in fails("prune", package(), "-o", out)
    assert "2:4" in fails("prune", package(), "-o", out, "--n-m", "24")
    assert "nbits" in fails("palettize", package(), "-o", out, "--nbits", "5")
    bad = tmp_path / "bad.yaml"
    bad.write_text("config_type: OpPalettizerConfig\nglobal_config: {nbit: 4}\n")
    assert "nbits" in fails("palettize", package(), "-o", out, "--config", bad)
    bad.write_text("steps:\n  - palettise: {nbits: 4}\n")
    assert "palettize" in fails("compress", package(), "-o", out, "--recipe", bad)
    assert not out.exists()


def test_the_input_may_be_overwritten_when_asked(package, tmp_path) -> None:
    copy = shutil.copytree(package(), tmp_path / "copy.mlpackage")
    corepress("quantize", copy, "-o", copy, "--overwrite")
    assert any(w.compression for w in load(copy).weights())


def test_nothing_but_models_is_overwritten(package, tmp_path) -> None:
    models = tmp_path / "models"
    copy = shutil.copytree(package(), models / "net.mlpackage")
    (models / "notes.txt").write_text("mine")
    before = tree(models)
    assert ".mlpackage" in fails("palettize", copy, "-o", models, "--overwrite")
    assert ".mlpackage" in fails("quantize", copy, "-o", tmp_path / "small")
    assert "lies inside" in fails("prune", copy, "-o", copy / "small.mlpackage", "--sparsity", 0.5)
    assert "notes.npz" in fails("run", copy, "--random", "-o", models / "notes.txt", "--overwrite")
    assert tree(models) == before and [path.name for path in tmp_path.iterdir()] == ["models"]


INTERRUPTED = """
import time
from corepress.formats.mlprogram import Model
slowly = Model.store
def store(*args):
    print("working", flush=True)
    time.sleep(0.5)
    return slowly(*args)
Model.store = store
from corepress.cli import main
main()
"""


def test_ctrl_c_leaves_nothing_behind(package, tmp_path) -> None:
    out = tmp_path / "out.mlpackage"
    command = [sys.executable, "-c", INTERRUPTED, "quantize", str(package()), "-o", str(out)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    # A shell's background jobs, which the tests may be one of, ignore the signal, and so would theirs.
    heeding = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(command, text=True, preexec_fn=heeding, **pipes)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130 and "Traceback" not in errors
    assert list(tmp_path.iterdir()) == []


def imported(*arguments: object) -> set[str]:
    """All modules that a command has imported by its end."""
    code = (
        "import sys\n"
        "from corepress.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print(*sys.modules, sep='\\n', file=sys.__stderr__)"
    )
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True)
    assert "corepress.cli.guard" in done.stderr.split(), done.stderr
    return set(done.stderr.split())


# What a command that compresses without samples has no use for. Each takes as long to import as the work itself.
UNUSED = {
    *("typer", "pydantic", "rich", "cattrs", "yaml", "ml_dtypes", "scipy", "torch", "coremltools"),
    *("asyncio", "ssl", "unittest", "email", "zipfile", "http"),
    *("corepress.runtime", "corepress.verification", "corepress.neural_network", "corepress.description"),
    *("corepress.recipe", "corepress.coreml.experimental", "corepress.coreml.calibrated", "corepress.coreml.metadata"),
}


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["palettize", "--help"], ["palettize"]], ids=" ".join)
def test_what_needs_no_model_imports_no_library(arguments: list[str]) -> None:
    assert not imported(*arguments) & (
        (UNUSED | {"numpy", "google.protobuf", "attr"}) - {"zipfile"}
    )  # which failures look into


@pytest.mark.parametrize("command", [["palettize"], ["quantize"], ["prune", "--sparsity", "0.5"]], ids=lambda c: c[0])
def test_compressing_imports_nothing_that_it_does_not_use(command: list[str], package, tmp_path) -> None:
    used = imported(*command, package(), "-o", tmp_path / "out.mlpackage")
    assert "corepress.coreml.method" in used and (tmp_path / "out.mlpackage").exists()
    assert not used & UNUSED


def test_info_computes_nothing(package) -> None:
    assert not imported("info", package()) & {"corepress.algorithms", "torch", "coremltools", "scipy"}
