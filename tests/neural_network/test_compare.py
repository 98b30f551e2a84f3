"""Comparing two models; Core ML itself is stood in for, since it only runs on macOS."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import pytest

from corepress.errors import ConfigError, CorepressError
from corepress.neural_network.quantization_utils import compare_models, quantize_weights
from tests.neural_network.networks import inner_product

SPEC = inner_product(np.eye(6))


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


@pytest.mark.skipif(sys.platform == "darwin", reason="Core ML runs there")
@pytest.mark.parametrize("model", [SPEC, "old.mlmodel", ct.models.MLModel(SPEC, skip_model_load=True)], ids=str)
def test_elsewhere_than_on_macos(model: Any) -> None:
    with pytest.raises(CorepressError, match="only be run by Core ML, on macOS"):
        compare_models(model, model, [{}])


def test_samples_are_checked(tmp_path: Path) -> None:
    for samples, message in ((3, "a list of dictionaries"), ([1], "a list of dictionaries"), ([], "nothing"),
                             (tmp_path, "one input, an image")):  # fmt: skip
        with pytest.raises(ConfigError, match=message):
            compare_models(Runs(), Runs(), samples)


@pytest.mark.skipif(sys.platform == "darwin", reason="Core ML runs there")
def test_sample_data_while_quantizing(caplog: Any) -> None:
    assert quantize_weights(SPEC, 8, sample_data=[{"data": np.zeros(6)}]) == quantize_weights(SPEC, 8)
    assert "the models are not compared: neural networks can only be run by Core ML" in caplog.text
