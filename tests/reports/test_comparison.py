"""Several packages of one model: each number is that of the command that gives it for one of them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tools.browser import PHONE, opened

import corepress
import corepress.coreml as cto
from corepress.errors import ConfigError
from corepress.reports.comparison import compare
from corepress.reports.comparison_page import comparison_page, letter

ROOT = Path(__file__).parent.parent.parent
DIGITS = ROOT / "examples/digits.mlpackage"
SAMPLES = ROOT / "examples/digits_test.npz"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The original, a small copy of it and a near one."""
    folder = tmp_path_factory.mktemp("models")
    small = cto.palettize_weights(DIGITS, cto.OptimizationConfig(cto.OpPalettizerConfig(nbits=2)))
    near = cto.linear_quantize_weights(DIGITS, cto.OptimizationConfig(cto.OpLinearQuantizerConfig()))
    small.save(folder / "small.mlpackage")
    near.save(folder / "near.mlpackage")
    return [DIGITS, folder / "small.mlpackage", folder / "near.mlpackage"]


def test_each_is_compared_as_alone(models: list[Path]) -> None:
    images = np.load(SAMPLES)["images"][:20, None]
    samples = ({"image": image} for image in images)
    told: list[Any] = []
    result = compare(models, samples, metric="cosine", progress=lambda *state: told.append(state))
    assert [one.name for one in result.models] == ["digits.mlpackage", "small.mlpackage", "near.mlpackage"]
    assert told == [(1, 2, "small.mlpackage"), (2, 2, "near.mlpackage")]
    for one, path in zip(result.models[1:], models[1:], strict=True):
        alone = corepress.verify(DIGITS, path, [{"image": image} for image in images])
        assert one.outputs == alone.rows and one.worst("cosine") == alone.rows[0].cosine
        described = corepress.describe(path)
        assert (one.size, one.target) == (described.size, described.target)
        elements = sum(np.prod(weight.shape) for weight in described.weights)
        assert np.isclose(one.bits_per_weight, 8 * described.stored_bytes / elements)
        assert set(one.hazards) == {item.rule.id for item in corepress.lint(path).items}
    assert result.models[0].outputs == () and result.models[0].worst("snr") is None
    assert json.loads(result.to_json())["models"][1]["outputs"][0]["snr"] == result.models[1].outputs[0].snr
    assert (result.samples, result.random_inputs) == (20, False) and result.table().row_count == 3


def test_random_inputs_are_the_same_for_all_and_said(models: list[Path]) -> None:
    result = compare([DIGITS, models[1], corepress.load(models[1])])
    assert result.models[1].outputs == result.models[2].outputs
    assert result.random_inputs and any("weak evidence" in note for note in result.notes)
    # Files of one name are told apart, and models in memory have numbers.
    assert result.models[2].name == "model 3"
    assert [one.name for one in compare([DIGITS, DIGITS]).models] == [str(DIGITS)] * 2


def test_what_is_refused(models: list[Path]) -> None:
    for given in (DIGITS, [DIGITS], []):
        with pytest.raises(ConfigError, match="two or more"):
            compare(given)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="metric must be one of"):
        compare(models, metric="beauty")


def test_the_page(models: list[Path], tmp_path: Path, browser: Any) -> None:
    result = compare([*models, DIGITS])
    printed = str(result).splitlines()
    assert len(printed) == 4 and printed[0].endswith("digits.mlpackage: 462.55 kB") and " dB" in printed[1]
    text = comparison_page(result, command="corepress compare")
    path = tmp_path / "page.html"
    path.write_text(text, encoding="utf-8")
    assert "3 packages made of" in text and "random inputs" in text and "nothing lost" in text
    assert text.count("<td>D</td>") == 1
    # What answers exactly the same has no place on a scale of decibels.
    (chart,) = re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', text)
    assert [point["letter"] for point in json.loads(chart)["datasets"]["rows"]] == ["B", "C"]
    with opened(browser, path, PHONE, "dark") as found:
        assert found.said == [] and found.requests == [path.as_uri()]
        assert found.page.evaluate("document.documentElement.scrollWidth") <= PHONE
        assert found.cut_off == []
        assert found.page.evaluate("document.querySelectorAll('.chart svg .mark-symbol path').length") == 2


def test_letters() -> None:
    assert [letter(number) for number in (0, 25, 26)] == ["A", "Z", "27"]
