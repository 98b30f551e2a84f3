"""Comparing two models, which corepress.runtime runs."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from corepress.errors import ConfigError, CorepressError
from corepress.neural_network import load
from corepress.neural_network.quantization_utils import (
    activate_int8_int8_matrix_multiplications,
    compare_models,
    quantize_weights,
)
from tests.formats.neural_network.networks import inner_product
from tests.lazy import lazy

ct = lazy("coremltools")
datatypes = lazy("coremltools.models.datatypes")
NeuralNetworkBuilder = lazy("coremltools.models.neural_network", "NeuralNetworkBuilder")


@cache
def identity() -> Any:
    return inner_product(np.eye(6))


class Runs:
    """A model that runs."""

    def __init__(self, **outputs: Any):
        self.outputs, self.seen = outputs, []

    def predict(self, sample: Any) -> Any:
        self.seen.append(sample)
        return self.outputs


def test_metrics(capsys: Any) -> None:
    first = Runs(out=np.array([3.0, 4.0]), label="a", probabilities={"a": 0.9, "b": 0.1})
    second = Runs(out=np.array([3.0, 4.5]), label="b", probabilities={"a": 0.4, "b": 0.6})
    result = compare_models(first, second, [{"data": 1}, {"data": 2}])
    assert result["out"] == pytest.approx({"snr": 20.0, "psnr": 10 * np.log10(128)})
    assert result["label"] == {"top1": 0} and result["probabilities"] == {"top1": 0, "top5": 1}
    assert first.seen == second.seen == [{"data": 1}, {"data": 2}]
    assert "snr 20" in capsys.readouterr().out
    assert compare_models(first, first, [{}])["out"]["snr"] == np.inf


def network() -> Any:
    """A classifier of images, by weighted sums of their pixels."""
    b = NeuralNetworkBuilder(
        [("image", datatypes.Array(3, 4, 4))], [("p", datatypes.Dictionary(str))], mode="classifier"
    )
    weight = np.random.default_rng(0).normal(size=(7, 48)).astype(np.float32)
    b.add_flatten("flat", 0, "image", "vector")
    b.add_inner_product("ip", weight, None, 48, 7, False, "vector", "scores")
    b.add_softmax("softmax", "scores", "p")
    b.set_class_labels([f"c{i}" for i in range(7)], "label", "p")
    b.set_pre_processing_parameters(image_input_names=["image"], image_scale=1 / 255)
    return b.spec


@pytest.fixture
def images(tmp_path: Path) -> Path:
    image = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(1)
    for number, (mode, size) in enumerate([("RGB", (4, 4)), ("RGB", (9, 7)), ("L", (4, 4)), ("RGBA", (4, 4))]):
        channels = image.getmodebands(mode)
        pixels = rng.integers(0, 256, (size[1], size[0], channels) if channels > 1 else size[::-1]).astype(np.uint8)
        image.fromarray(pixels).save(tmp_path / f"{number}.png")
    (tmp_path / "notes.txt").write_text("not an image")
    return tmp_path


def test_noise_is_that_of_the_weights() -> None:
    """Of y = Wx and the decompressed weights, computed here."""
    rng = np.random.default_rng(0)
    weight, x = rng.normal(size=(5, 6)).astype(np.float32), rng.normal(size=(3, 6)).astype(np.float32)
    spec = inner_product(weight)
    rounded = quantize_weights(spec, 4)
    dense = np.array(
        quantize_weights(rounded, 8, "dequantization").neuralNetwork.layers[0].innerProduct.weights.floatValue
    )
    y, z = x @ weight.T, x @ dense.reshape(5, 6).T
    snr = 10 * np.log10((y**2).mean(axis=1) / ((y - z) ** 2).mean(axis=1))
    psnr = 10 * np.log10((y**2).max(axis=1) / ((y - z) ** 2).mean(axis=1))
    result = compare_models(spec, rounded, [{"data": each} for each in x])
    assert result["out"] == pytest.approx({"snr": snr.mean(), "psnr": psnr.mean()}, abs=1e-2)


def test_any_kind_of_model_is_run(tmp_path: Path) -> None:
    rounded = quantize_weights(identity(), 8)
    path = tmp_path / "old.mlmodel"
    path.write_bytes(identity().SerializeToString())
    sample = {"data": np.arange(6.0)}
    expected = compare_models(identity(), rounded, [sample])
    assert np.isinf(expected["out"]["snr"]) or expected["out"]["snr"] > 30
    for full in (path, str(path), load(path), ct.models.MLModel(identity(), skip_model_load=True)):
        assert compare_models(full, rounded, sample) == expected


def test_a_folder_of_images(images: Path, capsys: Any) -> None:
    spec = network()
    result = compare_models(spec, quantize_weights(spec, 16), images)
    assert result["label"] == {"top1": 1} and result["p"] == {"top1": 1, "top5": 1}
    worse = compare_models(spec, quantize_weights(spec, 1), str(images))
    assert worse["p"]["top5"] < 1
    assert "label: top1 1" in capsys.readouterr().out


def test_images_for_a_model_that_takes_none(images: Path) -> None:
    with pytest.raises(CorepressError, match="input 'data' is 6, which is not a picture"):
        compare_models(identity(), identity(), images)


def test_products_of_int8_answer_nearly_the_same() -> None:
    """Weights and activations of 8 bits each leave an error of about a hundredth."""
    rng = np.random.default_rng(0)
    spec = inner_product(rng.uniform(-10, 10, (16, 6)), rng.uniform(-10, 10, 16))
    samples = [{"data": rng.uniform(0, 1, 6)} for _ in range(4)]
    result = compare_models(spec, activate_int8_int8_matrix_multiplications(spec), samples)
    assert 30 < result["out"]["snr"] < 60


def test_images_that_a_model_makes() -> None:
    image = pytest.importorskip("PIL.Image")
    first, second = (Runs(out=image.fromarray(np.full((2, 2, 3), level, np.uint8))) for level in (100, 99))
    assert compare_models(first, second, {})["out"] == pytest.approx({"snr": 40, "psnr": 40})


def test_samples_are_checked(tmp_path: Path) -> None:
    for samples, message in ((3, "a list or an iterable"), ([1], "must be a dictionary"), ([], "is empty"),
                             (tmp_path, "give a list of dictionaries")):  # fmt: skip
        with pytest.raises(ConfigError, match=message):
            compare_models(Runs(), Runs(), samples)
    with pytest.raises(ConfigError, match="the second model has no output 'out'; it has other"):
        compare_models(Runs(out=1), Runs(other=1), [{}])
    with pytest.raises(CorepressError, match=r"no \.npz files or images"):
        compare_models(identity(), identity(), tmp_path)


def test_sample_data_while_quantizing(caplog: Any, capsys: Any) -> None:
    pytest.importorskip("torch")
    assert quantize_weights(identity(), 8, sample_data=[{"data": np.ones(6)}]) == quantize_weights(identity(), 8)
    assert "out: snr" in capsys.readouterr().out and not caplog.text
    assert quantize_weights(identity(), 8, sample_data=[{"wrong": np.ones(6)}]) == quantize_weights(identity(), 8)
    assert "the models are not compared: sample 0 of sample_data: there is no input 'wrong'" in caplog.text
