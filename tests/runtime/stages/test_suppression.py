"""The last stage of detectors, beside the rules of Apple's proto written down once more, box by box."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import corepress
import corepress.coreml as cto
from corepress.coreml import calibrated
from corepress.errors import ConfigError, FormatError
from corepress.formats.mlprogram import load as load_model
from corepress.formats.schema import Model
from corepress.runtime import load
from corepress.runtime.load import interface
from corepress.runtime.precision import Precision
from corepress.runtime.random_inputs import random_inputs
from corepress.runtime.stages.suppression import load_suppression
from tests.runtime.stages.detectors import BOXES, CLASSES, detector, suppression

IMAGE = np.random.default_rng(0).integers(0, 256, (1, 3, 32, 32)).astype(np.float32)


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    """By counting the corners of each box, in float64."""
    (x, y, w, h), (u, v, m, n) = one, other
    wide = min(x + w / 2, u + m / 2) - max(x - w / 2, u - m / 2)
    high = min(y + h / 2, v + n / 2) - max(y - h / 2, v - n / 2)
    common = max(wide, 0) * max(high, 0)
    return common / (w * h + m * n - common)


def by_hand(
    confidence: np.ndarray, coordinates: np.ndarray, iou: float, least: float, per_class: bool
) -> tuple[np.ndarray, np.ndarray]:
    """The steps of the proto: sort, take the top one, discard what it covers, repeat."""
    left = [row for row in range(len(confidence)) if confidence[row].max() >= least]
    left.sort(key=lambda row: -confidence[row].max())
    kept: list[int] = []
    while left:
        top = left.pop(0)
        kept.append(top)
        left = [
            row
            for row in left
            if overlap(coordinates[top], coordinates[row]) <= iou
            or (per_class and confidence[row].argmax() != confidence[top].argmax())
        ]
    return confidence[kept], coordinates[kept]


def boxes(seed: int, count: int = BOXES) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    coordinates = np.concatenate([rng.random((count, 2)), rng.uniform(0.05, 0.5, (count, 2))], 1)
    return rng.random((count, CLASSES)), coordinates


def stage(**options: Any) -> Any:
    """The model alone, as a pipeline holds it."""
    return load_suppression(
        Model.FromString(suppression(**options).SerializeToString()), "m.mlpackage", "last", Precision()
    )


@pytest.mark.parametrize("per_class", [False, True])
@pytest.mark.parametrize("iou,least", [(0.45, 0.25), (0.1, 0.7), (0.0, 0.0), (0.9, 0.5), (0.45, 1.1)])
def test_it_is_the_rule_of_the_proto(per_class, iou, least) -> None:
    program = stage(per_class=per_class)
    for seed in range(5):
        confidence, coordinates = boxes(seed)
        given = {"raw_confidence": confidence, "raw_coordinates": coordinates}
        found = program.predict(given | {"iouThreshold": iou, "confidenceThreshold": least})
        expected = by_hand(confidence, coordinates, iou, least, per_class)
        for name, array in zip(("confidence", "coordinates"), expected, strict=True):
            assert found[name].dtype == np.float64
            np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize("thresholds", [False, True])
def test_thresholds_have_the_models_defaults(thresholds) -> None:
    confidence, coordinates = boxes(1)
    found = stage(thresholds=thresholds).predict({"raw_confidence": confidence, "raw_coordinates": coordinates})
    for one, other in zip(found.values(), by_hand(confidence, coordinates, 0.45, 0.6, True), strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_iou_of_one_suppresses_nothing() -> None:
    confidence, coordinates = boxes(2)
    coordinates[:] = coordinates[0]  # all the same
    given = {"raw_confidence": confidence, "raw_coordinates": coordinates, "confidenceThreshold": 0}
    program = stage(per_class=False)
    assert len(program.predict(given | {"iouThreshold": 1})["confidence"]) == BOXES
    assert len(program.predict(given | {"iouThreshold": 0.99})["confidence"]) == 1


@pytest.mark.parametrize(
    "options,least,most",
    [
        ({"rows": (0, -1)}, 0, None),
        ({"rows": None}, 0, None),
        ({"rows": None, "shape": (20,)}, 20, 20),
        ({"rows": None, "shape": (2,)}, 2, 2),
        ({"rows": (0, 3)}, 0, 3),
        ({"rows": (50, 60)}, 50, 60),
    ],
)
def test_outputs_hold_as_many_boxes_as_they_are_described_to(options, least, most) -> None:
    confidence, coordinates = boxes(3)
    expected = by_hand(confidence, coordinates, 0.45, 0.6, True)
    found = stage(**options).predict({"raw_confidence": confidence, "raw_coordinates": coordinates})
    kept = len(expected[0]) if most is None else min(most, len(expected[0]))
    for one, other in zip(found.values(), expected, strict=True):
        assert len(one) == max(least, kept)
        np.testing.assert_array_equal(one[:kept], other[:kept])
        assert not one[kept:].any()


def test_faults_are_named(tmp_path) -> None:
    confidence, coordinates = boxes(0)
    unfit = [(confidence[:, :0], coordinates), (confidence, coordinates[:, :3]), (confidence[1:], coordinates)]
    program = stage()
    for one, other in unfit:
        with pytest.raises(ConfigError, match="raw_co"):
            program.predict({"raw_confidence": one, "raw_coordinates": other})
    spec = suppression()
    spec.description.ClearField("input")  # then any shape may be given, and is looked at
    free = load_suppression(Model.FromString(spec.SerializeToString()), "m.mlpackage", "last", Precision())
    for one, other in unfit:
        with pytest.raises(FormatError, match=r"nonMaximumSuppression 'last' .*confidences and coordinates are"):
            free.predict({"raw_confidence": one, "raw_coordinates": other})
    with pytest.raises(FormatError, match="matrices"):
        free.predict({"raw_confidence": confidence[0], "raw_coordinates": coordinates})
    kept = free.predict({"raw_confidence": confidence[None], "raw_coordinates": coordinates[None]})
    np.testing.assert_array_equal(kept["confidence"], by_hand(confidence, coordinates, 0.45, 0.6, True)[0])
    for one, other in (("confidenceInput", "raw_coordinates"), ("iouThresholdInput", "confidenceThreshold")):
        twice = suppression()
        setattr(twice.nonMaximumSuppression, f"{one}FeatureName", other)
        with pytest.raises(FormatError, match=r"m.mlpackage: stage 'last': .*different names"):
            load_suppression(Model.FromString(twice.SerializeToString()), "m.mlpackage", "last", Precision())
    path = tmp_path / "m.mlmodel"
    path.write_bytes(b"\x08\x04\x92\x26\x01\xff")  # field 610, which holds half a number
    with pytest.raises(FormatError, match=r"m\.mlmodel: .*damaged"):
        corepress.describe(path)


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    return detector(tmp_path_factory.mktemp("detector"))


def test_a_detector_runs_as_its_stages_do(package) -> None:
    import coremltools as ct

    assert ct.utils.load_spec(str(package)).specificationVersion == 5
    program = load(package)
    inner = program.stages["detector"].predict({"image": IMAGE})  # type: ignore[attr-defined]
    raw = inner["raw_confidence"], inner["raw_coordinates"]
    for given, (iou, least) in (
        ({}, (0.45, 0.6)),
        ({"iouThreshold": 0.2}, (0.2, 0.6)),
        ({"iouThreshold": 0.3, "confidenceThreshold": 0.8}, (0.3, 0.8)),
    ):
        found = program.predict({"image": IMAGE} | given)
        expected = by_hand(*raw, iou, least, True)
        assert 2 < len(expected[0]) < BOXES
        for name, array in zip(("confidence", "coordinates"), expected, strict=True):
            np.testing.assert_array_equal(found[name], array)


def test_random_inputs_leave_the_thresholds_alone(package) -> None:
    for known in (load(package).interface, interface(package)):
        (sample,) = random_inputs(known)
        assert set(sample) == {"image"}
        defaults = {feature.name: feature.default for feature in known.inputs}
        assert defaults == {"image": None, "iouThreshold": 0.45, "confidenceThreshold": 0.6}


def test_a_detector_is_calibrated_without_thresholds_in_the_samples(package) -> None:
    rng = np.random.default_rng(1)
    data = [{"image": rng.integers(0, 256, (1, 3, 32, 32)).astype(np.float32)} for _ in range(6)]
    config = cto.OptimizationConfig(cto.OpPalettizerConfig(nbits=4, weight_threshold=10))
    for held_back in (0.2, data[:2]):
        fitted = calibrated.palettize_weights(load_model(package), config, data, held_back=held_back)
        assert fitted.changed
        assert corepress.verify(package, fitted, data, stage=-1).worst.snr > 10


def test_what_enters_a_stage_can_be_shown(package) -> None:
    program = load(package)
    inner = program.stages["detector"].predict({"image": IMAGE})  # type: ignore[attr-defined]
    for stage in ("suppression", 1, -1):
        shown = program.showing(stage, alone=True).predict({"image": IMAGE})  # type: ignore[attr-defined]
        assert list(shown) == ["suppression/raw_confidence", "suppression/raw_coordinates"]
        for name, array in shown.items():
            np.testing.assert_array_equal(array, inner[name.removeprefix("suppression/")])
    both = program.showing(-1).predict({"image": IMAGE})  # type: ignore[attr-defined]
    assert set(both) == set(shown) | {"confidence", "coordinates"}
    for stage, words in (("nowhere", "detector, suppression"), (5, "detector, suppression"), (0, "no earlier stage")):
        with pytest.raises(ConfigError, match=words):
            program.showing(stage)  # type: ignore[attr-defined]


def test_a_compressed_detector_is_judged(package, tmp_path) -> None:
    config = cto.OptimizationConfig(cto.OpLinearQuantizerConfig(weight_threshold=10))
    small = cto.linear_quantize_weights(load_model(package), config)
    data = [{"image": np.random.default_rng(seed).integers(0, 256, (1, 3, 32, 32))} for seed in range(8)]
    result = corepress.verify(package, small, data)
    rows = {row.name: row for row in result.rows}
    assert list(rows) == ["suppression/raw_confidence", "suppression/raw_coordinates", "confidence", "coordinates"]
    # The largest of four coordinates is no choice.
    assert rows["suppression/raw_coordinates"].top1 is None and rows["coordinates"].top1 is None
    assert rows["suppression/raw_confidence"].snr > 30 and 0.5 < rows["confidence"].top1 <= 1
    # At most as far apart as what went in, but for boxes that only one of the two has.
    assert all(np.isfinite(row.snr) for row in result.rows)
    before = corepress.verify(package, small, data, stage="suppression")
    assert [row.name for row in before.rows] == list(rows)[:2]
    assert before.rows == result.rows[:2]
    same = corepress.verify(package, package, data)
    assert all(row.snr == np.inf and row.top1 in (1, None) for row in same.rows)
    every = corepress.verify(package, small, data[:1], per_op=True)
    assert {row.name for row in every.operations} >= {"detector/backbone"}
    with pytest.raises(ConfigError, match="no stages"):
        corepress.verify("examples/digits.mlpackage", "examples/digits.mlpackage", stage=-1)


def test_the_command_line_compares_before_a_stage(package) -> None:
    from click.testing import CliRunner

    from corepress.cli.app import app
    from corepress.cli.words import translate

    def run(*arguments: Any) -> Any:
        return CliRunner(env={"COLUMNS": "200"}).invoke(app, ["verify", *map(str, arguments)])

    for stage in ("suppression", "-1", "1"):
        shown = run(package, package, "--stage", stage)
        rows = [line.split()[1] for line in shown.stdout.splitlines() if line.startswith("│")]
        assert shown.exit_code == 0 and rows == ["suppression/raw_confidence", "suppression/raw_coordinates"]
    digits = "examples/digits.mlpackage"
    for file, stage, words in (
        (package, "5", "the stages are detector, suppression"),
        (digits, "0", "--stage is for"),
    ):
        error = run(file, file, "--stage", stage).exception
        assert isinstance(error, ConfigError) and words in translate(str(error))
