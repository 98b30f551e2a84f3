"""Pictures and decisions of two models, from their answers as `predict` gives them and from models that run."""

from __future__ import annotations

import base64
import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tools.browser import opened

import corepress
from corepress.formats.features import Feature, Interface
from corepress.reports import Report
from corepress.reports.answers import CHANGES, PICTURES, Answers
from corepress.reports.page import page
from tests.lazy import lazy

Image = lazy("PIL.Image")
NONE = Interface((), (), ())
RNG = np.random.default_rng(0)


def decoded(address: str) -> np.ndarray:
    assert address.startswith("data:image/png;base64,")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.split(",")[1]))))


def test_decisions_that_changed() -> None:
    answers = Answers(NONE)
    answers({}, {"y": np.array([[0.0, 2.0, 1.0]])}, {"y": np.array([[0.0, 2.0, 3.0]])})
    answers({}, {"y": np.array([[0.0, 2.0, 1.0]])}, {"y": np.array([[0.0, 2.5, 1.0]])})
    answers({}, {"y": {"cat": 0.7, "dog": 0.3}}, {"y": {"cat": 0.4, "dog": 0.6}})
    answers({}, {"y": "cat"}, {"y": "dog"})
    # Neither several rows, nor one number, nor what is not finite is a decision.
    answers({}, {"y": np.eye(3)}, {"y": -np.eye(3)})
    answers({}, {"y": np.array([1.0])}, {"y": np.array([2.0])})
    answers({}, {"y": np.array([1.0, np.nan])}, {"y": np.array([1.0, 2.0])})
    assert (answers.decisions, answers.changed, answers.samples) == (4, 3, 7)
    first, second, third = answers.changes
    softmax = np.exp([0, 2, 1]) / np.exp([0, 2, 1]).sum()
    assert (first.sample, first.before, first.after) == (1, "1", "2")
    assert first.before_probability == pytest.approx(softmax[1])
    assert (second.sample, second.before_probability, second.after_probability) == (3, 0.7, 0.6)
    assert (third.before, third.after) == ("cat", "dog") and math.isnan(third.before_probability)


def test_an_embedding_decides_nothing() -> None:
    answers = Answers(NONE)
    for _ in range(10):
        before = RNG.normal(size=(1, 384)) / np.sqrt(384)
        answers({}, {"y": before}, {"y": -before})
    assert (answers.decisions, answers.changed, answers.changes) == (0, 0, [])
    # Logits do, also those that hesitate now and then.
    for peak in (0.5, 8.0, 8.0):
        before = np.eye(1, 384) * peak
        answers({}, {"z": before}, {"z": before[:, ::-1]})
    assert (answers.decisions, answers.changed) == (3, 3)


def test_a_label_is_not_counted_beside_its_probabilities() -> None:
    answers = Answers(Interface((), (), (), "label", "scores"))
    answers({}, {"label": "a", "scores": {"a": 0.9, "b": 0.1}}, {"label": "b", "scores": {"a": 0.1, "b": 0.9}})
    assert (answers.decisions, [one.output for one in answers.changes]) == (1, ["scores"])


def test_the_difference_is_amplified_as_it_says() -> None:
    before = np.full((1, 3, 16, 16), 0.5)
    now = before.copy()
    now[0, :, :8] += 0.01
    answers = Answers(NONE)
    answers({}, {"y": before}, {"y": now})
    (one,) = answers.pictures
    # 0.01 times 16 is the largest power of two that is no more than a quarter of the range.
    assert one.factor == 16 and one.snr == pytest.approx(10 * math.log10(0.25 / (0.01**2 / 2)))
    assert decoded(one.before).shape == (16, 16, 3)
    shown = decoded(one.difference).astype(float)
    assert np.abs(shown[8:] - 127.5).max() <= 1, "grey is no difference"
    assert np.abs(shown[:8] - 255 * (0.5 + 0.01 * 16 / 2)).max() <= 1


def test_the_worst_pictures_are_kept_and_large_ones_made_smaller() -> None:
    answers = Answers(NONE)
    for number in range(10):
        before = RNG.random((1, 1, 400, 300))
        answers({}, {"y": before}, {"y": np.clip(before + 0.01 * number * RNG.normal(size=before.shape), 0, 1)})
    assert [one.sample for one in answers.pictures] == [10, 9, 8, 7]
    assert decoded(answers.pictures[0].after).shape == (256, 192)


def test_pictures_that_are_given() -> None:
    answers = Answers(NONE)
    for number in range(CHANGES + 5):
        picture = Image.fromarray(RNG.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        answers({"x": picture}, {"y": np.array([0.0, 1.0])}, {"y": np.array([1.0, number % 2])})
    assert len(answers.pictures) == PICTURES and not answers.pictures[0].after
    assert np.array_equal(decoded(answers.changes[-1].picture).shape, (8, 8, 3))
    assert len(answers.changes) <= CHANGES


@pytest.mark.slow
def test_models_that_give_pictures(tmp_path: Path, browser: Any) -> None:
    """A program that blurs an image, and one that blurs it otherwise."""
    ct = pytest.importorskip("coremltools")
    from coremltools.converters.mil.mil import Builder as mb

    def blurred(factor: float) -> Path:
        @mb.program(input_specs=[mb.TensorSpec((1, 3, 32, 24))], opset_version=ct.target.iOS16)
        def program(picture):
            return mb.mul(x=picture, y=np.float32(factor), name="blurred")

        kind = {"color_layout": ct.colorlayout.RGB}
        model = ct.convert(
            program, convert_to="mlprogram", minimum_deployment_target=ct.target.iOS16, skip_model_load=True,
            inputs=[ct.ImageType("picture", (1, 3, 32, 24), **kind)], outputs=[ct.ImageType("blurred", **kind)],
        )  # fmt: skip
        path = tmp_path / f"{factor}.mlpackage"
        model.save(str(path))
        return path

    one, other = blurred(1.0), blurred(0.9)
    picture = Image.fromarray(RNG.integers(0, 256, (32, 24, 3), dtype=np.uint8))
    feature = Feature("blurred", "image", (1, 3, 32, 24), color="rgb")
    answers = Answers(Interface((), (feature,), ()))
    result = corepress.verify(one, other, [{"picture": picture}], watch=answers)
    (shown,) = answers.pictures
    assert decoded(shown.before).shape == (32, 24, 3)
    assert np.array_equal(decoded(shown.before), np.asarray(picture))
    assert shown.snr == pytest.approx(result.rows[0].snr, abs=0.1)
    path = tmp_path / "page.html"
    report = Report((), 1, 1, "iOS16", "iOS16")
    path.write_text(page("verify", report, names=("a", "b"), verification=result, answers=answers), encoding="utf-8")
    text = path.read_text(encoding="utf-8")
    assert "4 times amplified" in text or "2 times amplified" in text
    with opened(browser, path) as found:
        assert found.said == [] and all(address.startswith(("file:", "data:")) for address in found.requests)
        assert found.page.evaluate("[...document.images].every(one => one.naturalWidth === 24)")
