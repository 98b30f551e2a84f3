"""Activations of 8 bits in a Core AI model. The oracles: the package that it was migrated from, quantized and then
migrated, and Apple's runtime, which runs both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import corepress
from corepress import runtime
from corepress.coreml import OpLinearQuantizerConfig, OptimizationConfig, linear_quantize_weights
from corepress.coreml.experimental import OpActivationLinearQuantizerConfig, linear_quantize_activations
from corepress.formats.coreai import library
from corepress.formats.mlprogram.program import nodes
from corepress.formats.mlprogram.values import read_tensor
from tests import decoder
from tests.formats.coreai.digits import DIGITS, Samples, images

pytest.importorskip("coreai_torch")


def quantized(path: Any, samples: Any, options: Any = None, **fields: Any) -> Any:
    config = OptimizationConfig(OpActivationLinearQuantizerConfig(**fields))
    return linear_quantize_activations(str(path), config, samples, **(options or {}))


def computed(path: Path) -> list[str]:
    """The operations of a program, in order, but for constants and what is made of constants alone."""
    names = [operation.name for operation in library.operations(corepress.load(path)._program)]
    return [name for name in names if name not in ("coreai.constant", "coreai.blockwise_shift_scale")]


def answers(path: Any, samples: Samples) -> list[np.ndarray]:
    program = runtime.load(path)
    return [program.predict(sample)["logits"] for sample in samples]


@pytest.mark.parametrize(
    "fields",
    [{}, pytest.param({"mode": "linear", "dtype": "uint8"}, marks=pytest.mark.slow)],
    ids=["symmetric", "with zero points"],
)
def test_w8a8_is_what_the_package_becomes(fields: dict[str, str], migrated: Path, tmp_path: Path) -> None:
    """The same operations in the same order, and the same answers to the number; pairs stand before the padding."""
    weights = OptimizationConfig(OpLinearQuantizerConfig(weight_threshold=0))
    of_package, of_asset = (
        linear_quantize_weights(quantized(path, images(0, 40), **fields), weights) for path in (DIGITS, migrated)
    )
    corepress.migrate(of_package.save(tmp_path / "small.mlpackage"), tmp_path / "first.aimodel")
    saved = of_asset.save(tmp_path / "then.aimodel")
    assert sorted(computed(tmp_path / "first.aimodel")) == sorted(computed(saved.path))
    assert computed(saved.path).count("coreai.quantize") == 8
    one, other = (answers(path, images(40, 80)) for path in (tmp_path / "first.aimodel", saved.path))
    assert all(np.array_equal(*pair) for pair in zip(one, other, strict=True))
    assert corepress.verify(DIGITS, saved.path, images(40, 80)).worst.snr > 40


def test_weights_are_quantized_after_a_model_with_pairs_was_saved(migrated: Path, tmp_path: Path) -> None:
    weights = OptimizationConfig(OpLinearQuantizerConfig(weight_threshold=0))
    pairs = quantized(migrated, images(0, 40))
    assert not pairs.is_saved
    saved = pairs.save(tmp_path / "pairs.aimodel")
    assert saved.is_saved and saved.save(tmp_path / "again.aimodel").is_saved
    both = [
        linear_quantize_weights(model, weights).save(tmp_path / f"{number}.aimodel")
        for number, model in enumerate((pairs, saved))
    ]
    one, other = (answers(model.path, images(40, 60)) for model in both)
    assert all(np.array_equal(*pair) for pair in zip(one, other, strict=True))


@pytest.mark.slow
def test_an_exception_computes_in_floating_point(migrated: Path, tmp_path: Path) -> None:
    """An operation that is left out has no pair around it, as in the package."""
    counts = []
    for path, name in ((DIGITS, "linear_0_cast_fp16"), (migrated, "matmul")):
        saved = quantized(path, images(0, 40), {"exceptions": [name]}).save(tmp_path / f"small{Path(path).suffix}")
        counts.append(sum(own.type == "quantize" for own in _operations(saved)))
        found = saved.path
    first = corepress.migrate(tmp_path / "small.mlpackage", tmp_path / "first.aimodel").path
    assert counts[0] == counts[1] == 6
    one, other = (answers(path, images(40, 80)) for path in (first, found))
    assert all(np.array_equal(*pair) for pair in zip(one, other, strict=True))


def _operations(model: Any) -> list[Any]:
    return [own for entry in model.spec.mlProgram.functions for held in entry.value.block_specializations
            for own in held.value.operations]  # fmt: skip


@pytest.mark.slow
def test_the_best_exceptions_are_searched_for_by_real_runs(migrated: Path, tmp_path: Path) -> None:
    options = {"exceptions": "auto", "min_snr": 46.0, "observer": "auto", "bias_correction": None, "equalize": "auto"}
    for path in (DIGITS, migrated):
        saved = quantized(path, images(0, 60), options).save(tmp_path / f"small{Path(path).suffix}")
        assert corepress.verify(DIGITS, saved.path, images(100, 200)).worst.snr > 44


@pytest.mark.slow
def test_a_search_with_activations_chooses_what_it_does_for_the_package(migrated: Path) -> None:
    found = [
        corepress.search(str(path), images(0, 60), bits=8, activations=True, points=2) for path in (DIGITS, migrated)
    ]
    package, asset = (one.chosen for one in found)
    assert package.quality["snr"] == pytest.approx(asset.quality["snr"], abs=0.5)
    forms = [sorted((weight.shape, weight.form) for weight in one.weights) for one in (package, asset)]
    assert forms[0] == forms[1]


def scales(model: Any) -> list[float]:
    """Of the activations, in the order of the program."""
    pairs = [node.operand("scale") for node in nodes(model.spec) if node.type == "quantize"]
    held = [pair.value if pair.node is None else pair.node.operand("val").value for pair in pairs]
    return [float(read_tensor(value, model, "scale")) for value in held]


@pytest.mark.slow
@pytest.mark.parametrize("is_saved", [True, False])
def test_weights_and_ranges_are_refined(is_saved: bool, migrated: Path, tmp_path: Path) -> None:
    """By Apple's runtime, from a file and before there is one; what was learnt of ranges is what is saved."""
    weights = OptimizationConfig(OpLinearQuantizerConfig(dtype="int4", weight_threshold=0))
    made = linear_quantize_weights(quantized(migrated, images(0, 60)), weights)
    small = made.save(tmp_path / "small.aimodel")
    found = corepress.refine(str(migrated), str(small.path) if is_saved else made, images(0, 120), steps=40)
    saved = found.model.save(tmp_path / "better.aimodel")
    before, after = (corepress.verify(migrated, model.path, images(200, 360)).worst.snr for model in (small, saved))
    assert after > before + 1
    assert computed(saved.path) == computed(small.path)
    assert not found.frozen
    assert scales(saved) == scales(found.model)
    assert scales(saved) != scales(small)


def test_the_scale_of_an_activation_alone_is_saved(migrated: Path, tmp_path: Path) -> None:
    """A single number, which is no weight."""
    small = quantized(migrated, images(0, 20)).save(tmp_path / "small.aimodel")
    changed = small.copy()
    for node in nodes(changed.spec):
        if node.type == "quantize":  # what undoes it reads the same constant
            holder = node.operand("scale").node.operand("val").value
            holder.CopyFrom(changed.store(read_tensor(holder, changed, "scale") * np.float16(0.5)))
    assert small.is_saved and not changed.is_saved
    saved = changed.save(tmp_path / "half.aimodel")
    assert scales(saved) == [scale / 2 for scale in scales(small)]
    assert saved.is_saved and computed(saved.path) == computed(small.path)


@pytest.mark.slow
def test_a_decoder_of_any_length_is_quantized_over_its_sequences(tmp_path: Path) -> None:
    """Lengths that are not fixed, a state, residual sums, and functions that are called, whose values may have the
    names of others."""
    package, dense = decoder.package(tmp_path), tmp_path / "dense.aimodel"
    corepress.migrate(package, dense)
    sequences = decoder.sequences(8)
    of_package, of_asset = (
        quantized(path, sequences[:6]).save(tmp_path / f"small{path.suffix}") for path in (package, dense)
    )
    corepress.migrate(of_package.path, tmp_path / "first.aimodel")
    found = corepress.verify(tmp_path / "first.aimodel", of_asset.path, sequences[6:]).worst.snr
    assert found > 60 and computed(of_asset.path).count("coreai.quantize") == 21
