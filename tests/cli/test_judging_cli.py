"""What is fitted to --data is judged by other inputs, and a result that misses what was asked fails the command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import corepress as library
from corepress.formats.mlprogram import program
from corepress.formats.mlprogram.values import read_string
from tests import structures
from tests.cli.test_cli import corepress, fails
from tests.cli.test_verify_cli import DIGITS, IMAGES

ONE_BIT = ["--nbits", 1, "--weight-threshold", 100]
FITTED = [*ONE_BIT, "--method", "lut-gptq"]


def data(folder: Path, *numbers: int) -> Path:
    path = folder / f"{len(numbers)}-{numbers[0] if numbers else 0}.npz"
    np.savez(path, image=np.load(IMAGES)["images"][list(numbers)])
    return path


def samples(*numbers: int) -> list[dict[str, np.ndarray]]:
    return [{"image": image[None]} for image in np.load(IMAGES)["images"][list(numbers)]]


def test_what_was_held_back_judges(tmp_path) -> None:
    out = tmp_path / "out.mlpackage"
    numbers = [*range(30), *range(10)]  # ten of them twice
    done = corepress("palettize", DIGITS, "-o", out, *FITTED, "--data", data(tmp_path, *numbers), "--json")
    checked = json.loads(done.stdout)["verification"]
    learnt, judged = library.hold_back(samples(*numbers))
    assert checked["samples"] == len(judged) and len(learnt) + len(judged) == 40
    assert checked["judged_on"] == {"source": "--data", "part": "held back", "of": 40}
    assert checked["distinct_samples"] == 6
    assert "judged by 6 different inputs" in done.stderr
    expected = library.verify(DIGITS, out, judged).rows[0].snr
    assert checked["outputs"][0]["snr"] == pytest.approx(expected, rel=1e-6)


def test_inputs_of_their_own_judge(tmp_path) -> None:
    out = tmp_path / "out.mlpackage"
    given = ["--data", data(tmp_path, *range(20)), "--test-data", data(tmp_path, *range(100, 140))]
    done = corepress("palettize", DIGITS, "-o", out, *FITTED, *given)
    assert "40 samples of --test-data" in done.stdout and "different inputs" not in done.stderr
    # Where nothing is learnt, one of the two would have no effect.
    assert "--data has no effect" in fails("palettize", DIGITS, "-o", out, *given, "--overwrite")


def test_too_few_to_hold_any_back(tmp_path) -> None:
    out = tmp_path / "out.mlpackage"
    done = corepress("palettize", DIGITS, "-o", out, *FITTED, "--data", data(tmp_path, 0, 1, 2, 0, 1, 2))
    assert "6 samples, 3 distinct, of --data, which it was fitted to" in done.stdout
    assert "measured on the samples that it was fitted to" in done.stderr


def test_a_miss_fails_the_command_and_the_file_stays(tmp_path) -> None:
    out, images = tmp_path / "out.mlpackage", data(tmp_path, *range(40))
    done = corepress("palettize", DIGITS, "-o", out, *ONE_BIT, "--data", images, "--min-snr", 30, "--json", check=False)
    assert done.returncode == 1 and library.load(out).weights()
    assert "below 30 dB" in done.stderr and "is written all the same" in done.stderr
    result = json.loads(done.stdout)
    assert result["error"]["exit_code"] == 1
    checked = result["verification"]
    assert checked["judged_on"] == {"source": "--data", "part": "all", "of": 40}
    assert not checked["ok"] and checked["threshold"] == 30


@pytest.mark.parametrize(
    ("flags", "code"),
    [
        ([], 0),
        (["--verify"], 1),
        (["--metric", "cosine"], 1),
        (["--metric", "top1", "--verify-threshold", 0.5], 0),
        (["--metric", "max_abs", "--verify-threshold", 0.01], 1),
    ],
)
def test_what_decides(flags: list, code: int, tmp_path) -> None:
    command = [
        "prune",
        DIGITS,
        "-o",
        tmp_path / "out.mlpackage",
        "--sparsity",
        0.8,
        "--data",
        data(tmp_path, *range(9)),
    ]
    done = corepress(*command, *flags, check=False)
    assert done.returncode == code, done.stderr
    assert "output SNR" in done.stdout and ("output top-1" in done.stdout) == ("top1" in flags)


def test_wrong_options_and_data_are_named(tmp_path) -> None:
    out = tmp_path / "out.mlpackage"
    assert "--min-snr is the threshold of --metric snr" in fails(
        "quantize", DIGITS, "-o", out, "--metric", "top1", "--min-snr", 3
    )
    broken = np.load(IMAGES)["images"][:8]
    broken[5, 0, 0, 0] = np.nan
    np.savez(tmp_path / "nan.npz", image=broken)
    message = fails("palettize", DIGITS, "-o", out, *FITTED, "--data", tmp_path / "nan.npz")
    assert "sample 5 of " in message and "nan.npz: input 'image' holds NaN" in message
    empty = data(tmp_path)
    assert "is empty: at least one sample" in fails("palettize", DIGITS, "-o", out, *FITTED, "--data", empty)
    np.savez(tmp_path / "other.npz", pixels=broken[:, :, :5], more=broken[:, :, :5])
    assert "no array for the input 'image', but pixels, more" in fails(
        "palettize", DIGITS, "-o", out, *FITTED, "--data", tmp_path / "other.npz"
    )
    assert not out.exists()


def test_activations_obey_the_options_for_weights(tmp_path) -> None:
    out, images = tmp_path / "out.mlpackage", data(tmp_path, *range(10))
    (tmp_path / "config.yaml").write_text(
        "config_type: OpLinearQuantizerConfig\n"
        "global_config: {dtype: uint8, mode: linear, weight_threshold: 100}\n"
        "op_type_configs: {conv: null, max_pool: null, avg_pool: null}\n"
    )

    def pairs(*flags: object) -> tuple[set[str], set[str]]:
        """The types of the integers, and the operations that compute with them."""
        command = ["quantize", DIGITS, "-o", out, "--activations", "--data", images, "--workers", 1, "--overwrite"]
        corepress(*command, *flags)
        nodes = [n for n in program.nodes(library.load(out).spec) if n.type in ("conv", "linear", "quantize")]
        before = {node.type for node in nodes if (x := node.operand("x")) and x.node and x.node.type == "dequantize"}
        kinds = [node.operand("output_dtype") for node in nodes if node.type == "quantize"]
        return {read_string(kind.value) for kind in kinds if kind is not None}, before

    assert pairs("--dtype", "uint4") == ({"uint8"}, {"conv", "linear"})
    assert pairs("--config", tmp_path / "config.yaml") == ({"uint8"}, {"linear"})


def test_activations_are_raised_to_the_target(tmp_path) -> None:
    structures.linear_model("iOS16").save(str(tmp_path / "old.mlpackage"))
    np.savez(tmp_path / "x.npz", np.random.default_rng(0).normal(size=(6, 1, 64)).astype(np.float16))
    command = ["quantize", tmp_path / "old.mlpackage", "-o", tmp_path / "out.mlpackage", "--activations", "--overwrite"]
    for flags, version in (([], 8), (["--target", "iOS18"], 9)):
        corepress(*command, "--data", tmp_path / "x.npz", *flags)
        assert library.load(tmp_path / "out.mlpackage").spec_version == version


@pytest.mark.slow
def test_steps_of_a_recipe_learn_from_data(tmp_path) -> None:
    recipe, out = tmp_path / "recipe.yaml", tmp_path / "out.mlpackage"
    recipe.write_text("steps:\n  - palettize: {nbits: 1, weight_threshold: 100}\n    method: lut-gptq\n")
    command = ["compress", DIGITS, "-o", out, "--recipe", recipe]
    assert "method: lut-gptq of the recipe needs --data" in fails(*command)
    checked = json.loads(corepress(*command, "--data", data(tmp_path, *range(60)), "--json").stdout)["verification"]
    assert checked["judged_on"] == {"source": "--data", "part": "held back", "of": 60} and checked["samples"] == 12
    recipe.write_text("steps:\n  - palettize: {nbits: 1, weight_threshold: 100}\n")
    plain = corepress(*command, "--overwrite", "--data", data(tmp_path, *range(60)), "--json")
    assert checked["outputs"][0]["snr"] > json.loads(plain.stdout)["verification"]["outputs"][0]["snr"] + 5
    recipe.write_text("steps:\n  - prune: {target_sparsity: 0.5}\n    method: gptq\n")
    said = fails(*command)
    assert "step 1 (prune): method must be " in said and "sparsegpt" in said and "Got 'gptq'" in said


@pytest.mark.slow
def test_w8a8_with_a_goal_finds_what_stays_in_floating_point(tmp_path) -> None:
    options = ["--activations", "--data", data(tmp_path, *range(30)), "--json"]
    done = corepress("quantize", DIGITS, "-o", tmp_path / "a.mlpackage", "--min-snr", 30, *options)
    found = json.loads(done.stdout)
    kept = found["exceptions"]
    assert kept["met"] and kept["value"] >= 30 and kept["metric"] == "snr" and kept["left"] == []
    assert found["verification"]["metric"] == "snr" and found["verification"]["threshold"] == 30
    missed = corepress(
        "quantize", DIGITS, "-o", tmp_path / "b.mlpackage", "--min-cosine", 0.9999999, *options, check=False
    )
    assert missed.returncode == 1 and not json.loads(missed.stdout)["exceptions"]["met"]
    assert "can't be reached" in missed.stderr


@pytest.mark.slow
def test_a_recipe_with_activations_learns_from_data(tmp_path) -> None:
    recipe, out = tmp_path / "recipe.yaml", tmp_path / "out.mlpackage"
    recipe.write_text("steps: [{activations: {mode: linear}}, {quantize: {}}]\n")
    assert "the step activations of the recipe needs --data" in fails("compress", DIGITS, "-o", out, "--recipe", recipe)
    given = ["--data", data(tmp_path, *range(30))]
    done = corepress("compress", DIGITS, "-o", out, "--recipe", recipe, *given, "--json")
    assert json.loads(done.stdout)["verification"]["judged_on"]["part"] == "held back"
    same = tmp_path / "same.mlpackage"
    corepress("quantize", DIGITS, "-o", same, "--activations", "--activation-mode", "linear", *given)
    files = ["Data/com.apple.CoreML/model.mlmodel", "Data/com.apple.CoreML/weights/weight.bin"]
    assert all((out / name).read_bytes() == (same / name).read_bytes() for name in files)


def test_goals_that_make_no_sense_are_refused(tmp_path) -> None:
    for options, message in (
        (["--min-snr", 20, "--min-cosine", 0.9], "--min-snr is the threshold of --metric"),
        (["--min-cosine", 0.9, "--metric", "kl"], "--min-cosine is the threshold of --metric cosine"),
        (["--min-cosine", 2], "the threshold of cosine must be from -1 to 1"),
        (["--activations", "--min-cosine", 0.9], "--activations needs --data"),
        (["--bias-correction"], "it needs --activations"),
        (["--equalize"], "it needs --activations"),
    ):
        assert message in fails("quantize", DIGITS, "-o", tmp_path / "c.mlpackage", *options), options
