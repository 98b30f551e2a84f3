"""Outliers apart: the package loads in coremltools, its constants are exact, and the answers are those of the sum."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import corepress
import corepress.coreml as cto
from corepress.errors import ConfigError
from corepress.runtime import load
from tests import packages
from tests.cli.test_cli import corepress as command
from tests.oracle import peer_program, peer_weights

Package = Callable[..., Path]
Palettizer, Quantizer = cto.OpPalettizerConfig, cto.OpLinearQuantizerConfig
READERS = ("dense", "conv", "up", "right", "left", "embed")
PART = 0.02
FOUR_BITS = Palettizer(nbits=4, weight_threshold=0, outlier_fraction=PART)


def everywhere(config: Any) -> cto.OptimizationConfig:
    return cto.OptimizationConfig(config)


def made(source: Path, config: Any) -> corepress.Model:
    function = cto.palettize_weights if isinstance(config, Palettizer) else cto.linear_quantize_weights
    return function(source, everywhere(config), spare_constants=True)


@pytest.mark.parametrize("target", ["iOS16", "iOS18"])
@pytest.mark.parametrize(
    "config",
    [
        Palettizer(nbits=4, weight_threshold=0, outlier_fraction=PART),
        Quantizer(weight_threshold=0, outlier_fraction=PART),
    ],
)
def test_both_parts_are_stored_and_added(package: Package, tmp_path: Path, target: str, config: Any) -> None:
    source, out = package(target), tmp_path / "out.mlpackage"
    made(source, config).save(out)
    original = {weight.output: weight.dense() for weight in corepress.load(source).weights()}
    theirs, dense = peer_weights(out), {}
    for weight in corepress.load(out).weights():
        np.testing.assert_array_equal(theirs[weight.output], weight.dense())
        dense[weight.output] = weight.dense()
    summed = dict(original)
    for name in original:
        if name.startswith(READERS) and f"{name}_outliers" in dense:
            apart = dense[f"{name}_outliers"]
            # The largest values, as they were; the other constant does without.
            kept = apart != 0
            assert abs(kept.mean() - PART) < 1 / 1000 + 1 / kept.size
            np.testing.assert_array_equal(apart[kept], original[name][kept])
            assert np.abs(original[name][kept]).min() >= np.abs(original[name][~kept]).max()
            summed[name] = dense[name].astype(np.float64) + apart
    assert sum(name.endswith("_outliers") for name in dense) == len(READERS)
    given = packages.inputs()
    expected = packages.answers(summed, given)
    found = load(out, precision="float32").predict(given)
    for name, values in expected.items():
        # Outputs are float16, as are the two that are added; what they are made of was float32.
        np.testing.assert_allclose(found[name], values, rtol=0, atol=2.0**-9 * np.abs(values).max())


def test_each_reader_is_a_form_that_coremltools_allows(package: Package, tmp_path: Path) -> None:
    """Two products need no weight that is computed, which linear does not take."""
    out = tmp_path / "out.mlpackage"
    made(package(), FOUR_BITS).save(out)
    (function,) = peer_program(out).functions.values()
    kinds = [op.op_type for op in function.operations]
    for kind in ("linear", "conv", "conv_transpose", "gather"):
        assert kinds.count(kind) == 2
    assert kinds.count("matmul") == 4
    linear = next(op for op in function.operations if op.op_type == "linear")
    assert linear.input_spec.input_types["weight"].const


def test_a_table_gains_where_values_are_far_out(tmp_path: Path, package: Package) -> None:
    source = package()
    errors = {}
    for part in (0.0, PART):
        small = made(source, Palettizer(nbits=3, weight_threshold=0, outlier_fraction=part))
        errors[part] = {row.name: row for row in corepress.report(small).rows if row.changed}
    for name, row in errors[PART].items():
        assert row.snr > errors[0.0][name].snr + 1
        assert row.compression == "palettized+outliers"
        kept = round(PART * np.prod(row.shape))
        # Indices, the table, the mask, and two bytes for each outlier.
        expected = np.prod(row.shape) * (3 + 1) / 8 + 16 + 2 * kept
        assert abs(row.bytes_after - expected) <= 4


def test_what_can_not_be_taken_apart_is_left_alone_with_the_reason(package: Package) -> None:
    named = cto.OptimizationConfig(op_name_configs={"shift": FOUR_BITS})
    left = cto.palettize_weights(package(), named)
    assert any("add reads it" in reason for reason in left.skipped.values())
    with pytest.raises(ConfigError, match="to below"):
        Palettizer(nbits=4, outlier_fraction=0.5)


def test_decompression_gives_both_parts_back(package: Package, tmp_path: Path) -> None:
    small = made(package(), Quantizer(weight_threshold=0, outlier_fraction=PART))
    dense = cto.decompress_weights(small)
    for before, after in zip(small.weights(), dense.weights(), strict=True):
        assert not after.compression
        np.testing.assert_array_equal(before.dense(), after.dense())


def test_the_same_bytes_each_time(package: Package, tmp_path: Path) -> None:
    one, other = (made(package(), FOUR_BITS).save(tmp_path / f"{n}.mlpackage").path for n in range(2))
    for file in ("Data/com.apple.CoreML/model.mlmodel", "Data/com.apple.CoreML/weights/weight.bin"):
        assert (Path(one) / file).read_bytes() == (Path(other) / file).read_bytes()


def test_on_the_command_line_and_in_recipes(package: Package, tmp_path: Path) -> None:
    out, again = tmp_path / "out.mlpackage", tmp_path / "again.mlpackage"
    options = ["--nbits", 3, "--outliers", "2%", "--weight-threshold", 0, "--json"]
    done = json.loads(command("palettize", package(), "-o", out, *options).stdout)
    assert sum("outliers" in weight["compression"] for weight in done["weights"]) == len(READERS)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("steps:\n- palettize: {bits: 3, outliers: 0.02, weight_threshold: 0}\n")
    command("compress", package(), "-o", again, "--recipe", recipe)
    assert [w.stored_bytes for w in corepress.load(out).weights()] == [
        w.stored_bytes for w in corepress.load(again).weights()
    ]
    refused = command("palettize", package(), "-o", tmp_path / "no.mlpackage", "--outliers", "few", check=False)
    assert refused.returncode == 2 and "--outliers: 'few' is no part of a whole" in refused.stderr


@pytest.mark.slow
def test_what_is_fitted_to_samples_has_them_apart_too() -> None:
    from corepress.coreml import calibrated

    images = np.load("examples/digits_test.npz")["images"][:48].astype(np.float32)
    samples = [{"image": image[None]} for image in images]
    config = everywhere(Palettizer(nbits=2, outlier_fraction=PART))
    small = calibrated.palettize_weights("examples/digits.mlpackage", config, samples, held_back=0, target="iOS18")
    assert not small.unfitted
    plain = cto.palettize_weights("examples/digits.mlpackage", config, target="iOS18")
    worst = [corepress.verify("examples/digits.mlpackage", model, samples).worst.snr for model in (plain, small)]
    assert worst[1] > worst[0] + 5
