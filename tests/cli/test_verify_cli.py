"""`corepress verify`, `corepress run` and `--verify`, as their users meet them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from corepress import runtime
from corepress.formats.mlprogram import load
from tests import decoder
from tests.cli.test_cli import corepress, fails
from tests.process import python

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
DIGITS, IMAGES = EXAMPLES / "digits.mlpackage", EXAMPLES / "digits_test.npz"


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> dict[int, Path]:
    folder = tmp_path_factory.mktemp("small")
    for bits in (1, 4):
        corepress("palettize", DIGITS, "-o", folder / f"{bits}.mlpackage", "--nbits", bits)
    return {bits: folder / f"{bits}.mlpackage" for bits in (1, 4)}


@pytest.mark.slow
def test_exit_codes(small) -> None:
    good = corepress("verify", DIGITS, small[4], "--data", IMAGES)
    assert "360 samples" in good.stdout and good.stderr == ""
    bad = corepress("verify", DIGITS, small[1], "--per-op", "--json", check=False)
    assert bad.returncode == 1 and "Traceback" not in bad.stderr
    assert "output 'logits'" in bad.stderr and "below 20 dB" in bad.stderr and "weak evidence" in bad.stderr
    result = json.loads(bad.stdout)
    assert result["notes"][0] == "random inputs are weak evidence, give real ones (--data)"
    assert not result["ok"] and result["first_wrong"] == result["operations"][2]["name"]
    for flags, code in (
        (["--min-snr", 40], 1),
        (["--metric", "top1"], 0),
        (["--metric", "max_abs", "--threshold", 0.001], 1),
    ):
        assert corepress("verify", DIGITS, small[4], "--data", IMAGES, *flags, check=False).returncode == code, flags


def test_the_closing_table(tmp_path) -> None:
    copy = shutil.copytree(DIGITS, tmp_path / "copy.mlpackage")
    # The original is replaced, but compared with all the same.
    done = corepress("quantize", copy, "-o", copy, "--overwrite", "--verify")
    assert "output SNR" in done.stdout and "inf" not in done.stdout and "random inputs" in done.stdout
    prune = corepress("prune", DIGITS, "-o", tmp_path / "p.mlpackage", "--sparsity", 0.3, "--data", IMAGES, "--json")
    checked = json.loads(prune.stdout)["verification"]
    assert checked["samples"] == 360 and checked["outputs"][0]["cosine"] > 0.9
    (tmp_path / "r.yaml").write_text("steps:\n  - quantize: {dtype: int8}\n")
    recipe = ["--recipe", tmp_path / "r.yaml", "--verify"]
    assert "output cosine" in corepress("compress", DIGITS, "-o", tmp_path / "c.mlpackage", *recipe).stdout


def test_run(tmp_path) -> None:
    out = tmp_path / "out.npz"
    np.save(tmp_path / "x.npy", np.load(IMAGES)["images"][:1])
    done = corepress("run", DIGITS, "--input", f"image={tmp_path / 'x.npy'}", "-o", out, "--json")
    facts = json.loads(done.stdout)["outputs"]["logits"]
    logits = np.load(out)["logits"]
    assert logits.argmax() == np.load(IMAGES)["labels"][0]
    assert facts["shape"] == "1x10" and facts["max"] == logits.max()
    one, same, other = (corepress("run", DIGITS, "--random", "--seed", seed).stdout for seed in (0, 0, 1))
    assert "1x10" in one and one == same != other
    assert "exists already" in fails("run", DIGITS, "--random", "-o", out)
    assert ".npz" in fails("run", DIGITS, "--random", "-o", tmp_path / "out.txt")
    assert "inputs are missing: image" in fails("run", DIGITS)


def alike(found: Any, expected: Any) -> None:
    """Sums of another number of threads differ in their last bits."""
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_run_a_sequence(tmp_path) -> None:
    """Each step finds the state of the step before; the file of answers has the layout of a sequence."""
    package, (steps,) = decoder.package(tmp_path), decoder.sequences(1)
    arrays = {f"{number}/{name}": value for number, step in enumerate(steps) for name, value in step.items()}
    np.savez(tmp_path / "sequence.npz", **arrays)
    out = tmp_path / "out.npz"
    done = corepress("run", package, "--data", tmp_path / "sequence.npz", "-o", out, "--json")
    found, expected = np.load(out), runtime.load(package).run_sequence(steps)
    assert set(found) == {f"{number}/logits" for number in range(len(steps))}
    for number, answer in enumerate(expected):
        alike(found[f"{number}/logits"], answer["logits"])
    document = json.loads(done.stdout)
    assert document["steps"] == len(steps)
    alike(document["outputs"]["logits"]["max"], expected[-1]["logits"].max())
    assert f"last of {len(steps)} steps" in corepress("run", package, "--data", tmp_path / "sequence.npz").stdout
    (tmp_path / "several").mkdir()
    for number in range(2):
        folder = tmp_path / "several" / str(number)
        folder.mkdir()
        for place, step in enumerate(steps[: 1 + number]):
            np.savez(folder / f"{place}.npz", **step)
    one = corepress("run", package, "--data", tmp_path / "several", "-o", tmp_path / "one.npz")
    assert "1 more" in one.stderr
    alike(np.load(tmp_path / "one.npz")["logits"], expected[0]["logits"])
    assert "--random has no effect here" in fails("run", package, "--random", "--data", tmp_path / "sequence.npz")
    assert "does not exist" in fails("run", package, "--data", tmp_path / "no.npz")


def test_bad_input_is_one_sentence(tmp_path) -> None:
    assert "--min-snr" in fails("verify", DIGITS, DIGITS, "--metric", "top1", "--min-snr", 3)
    assert "no such file" in fails("verify", DIGITS, tmp_path / "nothing.mlpackage")
    out = tmp_path / "o.mlpackage"
    assert "does not exist" in fails("quantize", DIGITS, "-o", out, "--data", tmp_path / "nothing")
    assert not out.exists()


@pytest.mark.parametrize(
    "command", [["verify", DIGITS, DIGITS], ["run", DIGITS], ["quantize", DIGITS, "-o", "never.mlpackage", "--verify"]]
)
def test_without_torch(command, tmp_path) -> None:
    code = (
        f"import sys; sys.modules['torch'] = None; sys.argv = {['corepress', *map(str, command)]!r}\n"
        "from corepress.cli import main; main()"
    )
    done = python(code, tmp_path)
    assert done.returncode == 3 and done.stdout == "" and list(tmp_path.iterdir()) == []
    assert done.stderr == "corepress: running models needs PyTorch: pip install 'corepress[torch]'\n"


@pytest.mark.slow
def test_activations_are_quantized_with_calibration_data(tmp_path) -> None:
    out = tmp_path / "w8a8.mlpackage"
    done = corepress("quantize", DIGITS, "-o", out, "--activations", "--data", IMAGES, "--json")
    assert json.loads(done.stdout)["verification"]["ok"]
    types = {op.type for op in load(out).spec.mlProgram.functions[0].value.block_specializations[0].value.operations}
    assert {"quantize", "dequantize", "constexpr_blockwise_shift_scale"} <= types
    refused = corepress("quantize", DIGITS, "-o", tmp_path / "no.mlpackage", "--activations", check=False)
    assert refused.returncode == 2 and "--data" in refused.stderr


# One of them quickly, as a step of a recipe: see test_judging_cli.py.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "flags", "method"),
    [
        ("palettize", ["--nbits", 1, "--weight-threshold", 100], "lut-gptq"),
        ("palettize", ["--nbits", 2, "--weight-threshold", 100], "skm"),
        ("quantize", ["--dtype", "int4", "--target", "iOS18", "--weight-threshold", 100], "gptq"),
        ("prune", ["--sparsity", 0.8, "--weight-threshold", 100], "sparsegpt"),
    ],
)  # fmt: skip
def test_methods_that_learn_from_data(command: str, flags: list, method: str, tmp_path: Path) -> None:
    images = tmp_path / "images.npz"
    np.savez(images, image=np.load(IMAGES)["images"][:100])

    def compress(name: str, *more: object) -> dict:
        out = tmp_path / f"{name}.mlpackage"
        return json.loads(corepress(command, DIGITS, "-o", out, *flags, "--data", images, "--json", *more).stdout)

    plain, fitted = compress("plain"), compress("fitted", "--method", method)
    assert fitted["compressed"] == plain["compressed"] == 5
    better = fitted["verification"]["outputs"][0]["snr"] > plain["verification"]["outputs"][0]["snr"]
    assert better or method == "skm"  # on this small net, sensitivities say too little
    refused = corepress(command, DIGITS, "-o", tmp_path / "no.mlpackage", *flags, "--method", method, check=False)
    assert refused.returncode == 2 and f"--method {method} needs --data" in refused.stderr
