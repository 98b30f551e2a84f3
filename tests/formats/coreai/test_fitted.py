"""Core AI models fitted to samples, refined and searched. The oracle is the package that each was migrated from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import corepress
from corepress.coreml import (
    OpLinearQuantizerConfig,
    OpMagnitudePrunerConfig,
    OpPalettizerConfig,
    OptimizationConfig,
    calibrated,
    linear_quantize_weights,
    palettize_weights,
)
from corepress.errors import ConfigError
from tests.decoder import summing
from tests.formats.coreai.digits import DIGITS, images

pytest.importorskip("coreai_torch")


def dense(model: Any) -> list[np.ndarray]:
    """The values of all weights and biases, in an order that names have no part in."""
    found = [weight.dense() for weight in model.weights()]
    return sorted(found, key=lambda array: (array.shape, array.tobytes()))


MICROSCALING = {
    "dtype": "fp4_e2m1fn",
    "scale_dtype": "fp8_e8m0fnu",
    "granularity": "per_block",
    "block_size": 32,
    "smaller_block": True,
}
WAYS: dict[str, tuple[Callable[..., Any], Any, dict[str, Any]]] = {
    "lut-gptq": (calibrated.palettize_weights, OpPalettizerConfig(nbits=3), {}),
    "skm": (calibrated.palettize_weights, OpPalettizerConfig(nbits=2), {"method": "skm"}),
    "gptq": (calibrated.linear_quantize_weights, OpLinearQuantizerConfig(dtype="int4"), {}),
    "awq": (
        calibrated.linear_quantize_weights, OpLinearQuantizerConfig(dtype="int4"), {"activation_aware_scale": True}
    ),
    "sparsegpt": (calibrated.prune_weights, OpMagnitudePrunerConfig(target_sparsity=0.6), {}),
    "sparsegpt-global": (
        calibrated.prune_weights, OpMagnitudePrunerConfig(target_sparsity=0.7), {"method": "sparsegpt-global"}
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    "form",
    [{"dtype": "int2"}, {"dtype": "fp8_e4m3fn"}, {"dtype": "fp4_e2m1fn"}, {"scale_dtype": "fp8_e8m0fnu"}],
    ids=str,
)
@pytest.mark.parametrize("aware", [False, True])
def test_forms_that_gptq_has_not_stay_what_was_asked_for(migrated: Path, form: dict[str, Any], aware: bool) -> None:
    """They are made without samples, and that is said; none becomes integers of another width or scale."""
    config = OptimizationConfig(OpLinearQuantizerConfig(**form))
    plain = linear_quantize_weights(corepress.load(migrated), config)
    found = calibrated.linear_quantize_weights(
        migrated, config, images(0, 20), held_back=0, activation_aware_scale=aware
    )
    forms = [[weight.read() for weight in model.weights() if weight.compression] for model in (plain, found)]
    assert len(forms[0]) == len(forms[1]) == len(found.unfitted) > 0
    for one, other in zip(*forms, strict=True):
        assert (one.data.dtype, one.bits, one.exponents) == (other.data.dtype, other.bits, other.exponents)
        if not aware:
            np.testing.assert_array_equal(one.decompress(), other.decompress())


@pytest.mark.slow
@pytest.mark.parametrize("name", WAYS)
def test_what_is_fitted_is_what_its_package_gets(name: str, migrated: Path, tmp_path: Path) -> None:
    """The same operations in the same order: so every weight and every bias is the same, to the number. (Float16 holds
    what is stored, so that sums in another order do not show.)"""
    compress, config, options = WAYS[name]
    config.weight_threshold = 0
    of_package, of_asset = (
        compress(str(path), OptimizationConfig(config), images(0, 120), **options) for path in (DIGITS, migrated)
    )
    saved = of_asset.save(tmp_path / "small.aimodel")
    assert not saved.unfitted and saved.changed
    package, asset = dense(of_package), dense(saved)
    assert len(package) == len(asset)
    assert all(np.array_equal(one, other) for one, other in zip(package, asset, strict=True))
    answers = corepress.verify(DIGITS, saved.path, images(120, 200)).worst.snr
    assert answers == pytest.approx(
        corepress.verify(DIGITS, of_package.save(tmp_path / "small.mlpackage").path, images(120, 200)).worst.snr, abs=1
    )


@pytest.mark.slow
def test_a_refined_model_is_better_on_images_that_nothing_learnt_from(migrated: Path, tmp_path: Path) -> None:
    config = OptimizationConfig(OpPalettizerConfig(nbits=2, weight_threshold=0))
    small = palettize_weights(str(migrated), config).save(tmp_path / "small.aimodel")
    refined = corepress.refine(str(migrated), str(small.path), images(0, 120), steps=40).model
    saved = refined.save(tmp_path / "better.aimodel")
    before, after = (corepress.verify(migrated, model.path, images(200, 360)).worst.snr for model in (small, saved))
    assert after > before + 3
    assert abs(saved.size() - small.size()) < 0.02 * small.size()
    assert [weight.shape for weight in saved.weights()] == [weight.shape for weight in small.weights()]


@pytest.mark.slow
@pytest.mark.parametrize("fields", [{"dtype": "fp4_e2m1fn"}, {"dtype": "fp8_e4m3fn"}, MICROSCALING], ids=str)
def test_floating_point_of_few_bits_is_refined(fields: dict[str, Any], migrated: Path, tmp_path: Path) -> None:
    """Better on images that nothing learnt from, and no larger: scales that are powers of two stay such."""
    config = OptimizationConfig(OpLinearQuantizerConfig(**fields, weight_threshold=0))
    small = linear_quantize_weights(str(migrated), config).save(tmp_path / "small.aimodel")
    saved = corepress.refine(str(migrated), str(small.path), images(0, 120), steps=30).model.save(
        tmp_path / "b.aimodel"
    )
    before, after = (corepress.verify(migrated, model.path, images(200, 360)).worst.snr for model in (small, saved))
    assert after > before + 1
    assert saved.size() <= small.size() + 32  # bytes: what describes constants varies by a few
    forms = [[weight.read() for weight in model.weights() if weight.compression] for model in (small, saved)]
    for one, other in zip(*forms, strict=True):
        assert (one.data.dtype, one.bits, one.exponents) == (other.data.dtype, other.bits, other.exponents)


@pytest.mark.slow
def test_a_search_with_fitted_forms_chooses_what_it_does_for_the_package(migrated: Path) -> None:
    found = [
        corepress.search(str(path), images(0, 60), bits=3, method="fitted", points=2) for path in (DIGITS, migrated)
    ]
    package, asset = (sorted((weight.shape, weight.form) for weight in one.chosen.weights) for one in found)
    assert package == asset


@pytest.mark.slow
def test_a_decoder_is_fitted_to_sequences_as_its_package_is(tmp_path: Path) -> None:
    """It reads its state before everything and writes it after everything, where the package does so between layers:
    the same integers all the same, but for those near half way, since the two round differently in float32. By Apple's
    runtime it is better than without data on sequences that nothing learnt from."""
    package, path = str(summing(tmp_path)), str(tmp_path / "dense.aimodel")
    corepress.migrate(package, path)
    words = np.random.default_rng(0).integers(0, 10, (32, 6, 1, 1)).astype(np.int32)
    given = [[{"ids": word} for word in sequence] for sequence in words]
    config = OptimizationConfig(OpLinearQuantizerConfig(dtype="int4", weight_threshold=0))
    plain = linear_quantize_weights(path, config).save(tmp_path / "plain.aimodel")
    found = [calibrated.linear_quantize_weights(one, config, given[:20], held_back=0) for one in (package, path)]
    forms = [[weight.read() for weight in one.weights() if weight.compression] for one in found]
    forms = [sorted(own, key=lambda form: (form.shape, form.data.tobytes())) for own in forms]
    assert len(forms[0]) == len(forms[1]) == 4
    for one, other in zip(*forms, strict=True):
        np.testing.assert_allclose(one.scale, other.scale, rtol=1e-4)
        # A value of up to 8 steps moves by 8 times what its scale does, and so many lie that near half way by chance.
        # Where one goes the other way, by one step, the rest of its row makes up for that.
        moved = 8 * np.abs(one.scale / other.scale - 1).max() + 8 * np.finfo(np.float32).eps
        near = 2 * moved * one.data.size
        apart = one.data.astype(int) - other.data
        rows = apart[apart.any(1)]
        assert len(rows) <= near + 5 * np.sqrt(near)
        assert (np.abs(rows[np.arange(len(rows)), (rows != 0).argmax(1)]) == 1).all()
    fitted = found[1].save(tmp_path / "fitted.aimodel")
    before, after = (corepress.verify(path, model.path, given[20:]).worst.snr for model in (plain, fitted))
    assert after > before + 10


def test_samples_that_do_not_fit_are_refused(migrated: Path) -> None:
    config = OptimizationConfig(OpPalettizerConfig(nbits=3))
    with pytest.raises(ConfigError, match="sample 1 of sample_data: input 'image' has the shape 8x8"):
        calibrated.palettize_weights(str(migrated), config, [*images(0, 1), {"image": np.zeros((8, 8), "f2")}])
