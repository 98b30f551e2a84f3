"""What a verdict says about its own worth: numbers left out, samples that are alike, answers that never change."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

import corepress
from corepress import runtime, verify
from corepress.errors import ConfigError, CorepressError
from corepress.formats.features import Feature, Interface
from corepress.sequences import ALONE
from corepress.verification import evidence
from tests import structures

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
DIGITS, IMAGES = EXAMPLES / "digits.mlpackage", EXAMPLES / "digits_test.npz"


def images(count: int) -> list[dict[str, np.ndarray]]:
    return [{"image": image[None]} for image in np.load(IMAGES)["images"][:count]]


@pytest.fixture(scope="module")
def logarithms(tmp_path_factory) -> Path:
    """y = log(x), z = x + 1."""
    import coremltools as ct
    from coremltools.converters.mil.mil import Builder as mb

    @mb.program(input_specs=[mb.TensorSpec((1, 1000))], opset_version=ct.target.iOS16)
    def program(x):
        return mb.log(x=x, name="y"), mb.add(x=x, y=1.0, name="z")

    path = tmp_path_factory.mktemp("log") / "log.mlpackage"
    ct.convert(program, minimum_deployment_target=ct.target.iOS16, skip_model_load=True).save(str(path))
    return path


def test_samples_may_be_files_and_lists(tmp_path) -> None:
    np.savez(tmp_path / "one.npz", **images(1)[0])
    assert verify(DIGITS, DIGITS, np.load(tmp_path / "one.npz")).samples == 1
    result = verify(DIGITS, DIGITS, [{"image": sample["image"].tolist()} for sample in images(3)])
    assert (result.samples, result.distinct, result.notes) == (3, 3, ())


def test_what_is_no_sample_is_named() -> None:
    with pytest.raises(ConfigError, match="sample 1 of data must be a dictionary"):
        verify(DIGITS, DIGITS, [images(1)[0], images(1)[0]["image"]])


@pytest.mark.parametrize("wrong", [-1.0, 0.0], ids=["nan", "infinity"])
def test_what_is_not_finite_in_the_original_is_left_out_and_counted(logarithms, wrong) -> None:
    x = np.linspace(1, 2, 1000, dtype=np.float32)[None]
    x[0, [3, 5, 7]] = wrong
    result = verify(logarithms, logarithms, [{"x": x}, {"x": x + 2}])
    row = result.rows[0]
    assert result.ok and row.snr == np.inf and (row.elements, row.left_out) == (2000, 3)
    assert "3 of 2,000 elements of output 'y' are NaN or infinite in the original" in result.summary
    assert json.loads(result.to_json())["outputs"][0]["left_out"] == 3
    # Nothing to compare with in y; z decides.
    result = verify(logarithms, logarithms, [{"x": np.full_like(x, wrong)}])
    assert result.ok and result.rows[0].snr is None and result.worst.name == "z"


def test_an_original_without_a_finite_number_is_no_verdict(tmp_path) -> None:
    import coremltools as ct
    from coremltools.converters.mil.mil import Builder as mb

    @mb.program(input_specs=[mb.TensorSpec((1, 4))], opset_version=ct.target.iOS16)
    def program(x):
        return mb.log(x=x, name="y")

    ct.convert(program, minimum_deployment_target=ct.target.iOS16, skip_model_load=True).save(
        str(tmp_path / "m.mlpackage")
    )
    with pytest.raises(CorepressError, match="the original gives no finite number in the output 'y'"):
        verify(tmp_path / "m.mlpackage", tmp_path / "m.mlpackage", {"x": np.full((1, 4), -1, np.float32)})


def test_samples_that_are_alike_are_counted_once() -> None:
    one, two = images(2)
    result = verify(DIGITS, DIGITS, [one, two, one, two])
    assert (result.samples, result.distinct) == (4, 2) and "on 4 samples, 2 distinct" in result.summary
    result = verify(DIGITS, DIGITS, [one] * 3)
    assert "all samples are the same" in result.notes and result.distinct == 1
    assert json.loads(result.to_json())["distinct_samples"] == 1
    result = verify(DIGITS, DIGITS, one)
    assert "a single sample proves little" in result.notes
    result = verify(DIGITS, DIGITS, images(4))
    assert result.notes == () and "distinct" not in result.summary and not result.weak


@pytest.mark.parametrize("per_op", [False, True])
def test_samples_may_come_from_a_generator_that_uses_its_memory_again(per_op) -> None:
    def reused():
        memory = np.empty((1, *np.load(IMAGES)["images"].shape[1:]), np.float32)
        for sample in images(5):
            memory[:] = sample["image"]
            yield {"image": memory}

    model = corepress.coreml.palettize_weights(
        corepress.load(DIGITS),
        corepress.coreml.OptimizationConfig(corepress.coreml.OpPalettizerConfig(nbits=2)),
    )
    result, listed = verify(DIGITS, model, reused(), per_op=per_op), verify(DIGITS, model, images(5), per_op=per_op)
    assert result.samples == 5 == result.distinct
    assert result.rows == listed.rows and result.operations == listed.operations


def test_single_steps_of_a_stateful_model_are_weak_evidence(tmp_path) -> None:
    path = structures.stateful(tmp_path)
    rng = np.random.default_rng(0)
    result = verify(path, path, [{"x": rng.normal(size=(1, 64))} for _ in range(2)])
    assert result.notes == (ALONE,)
    samples = [[{"x": rng.normal(size=(1, 64))} for _ in range(3)] for _ in range(2)]
    result = verify(path, path, samples)
    assert result.notes == () and result.samples == result.distinct == 2 and len(result.by_step) == 3


def test_operations_of_a_pipeline_are_compared(tmp_path) -> None:
    path = structures.pipeline(tmp_path)
    result = verify(path, path, per_op=True)
    assert {row.kind for row in result.operations} == {"relu", "linear"} and result.first_wrong is None
    assert all("/" in row.name for row in result.operations)


@pytest.mark.parametrize("size", [1, 1 << 30])
def test_what_waits_for_the_second_model_may_wait_on_disk(size, monkeypatch) -> None:
    monkeypatch.setattr("corepress.verification.compare._IN_MEMORY", size)
    result = verify(DIGITS, DIGITS, IMAGES, per_op=False)
    assert result.ok and result.samples == 360


def test_one_model_is_in_memory_at_a_time(monkeypatch) -> None:
    import gc
    import weakref

    loaded: list[weakref.ref] = []
    load = runtime.load

    def counted(*args, **kwargs):
        gc.collect()
        assert not any(other() for other in loaded)
        program = load(*args, **kwargs)
        loaded.append(weakref.ref(program))
        return program

    monkeypatch.setattr(runtime, "load", counted)
    verify(DIGITS, DIGITS, images(2))
    assert len(loaded) == 2


def feature(kind: str = "array", shape=(1, 3, 4, 4), dtype=np.float32, **more) -> Feature:
    return Feature("x", kind, shape, dtype, **more)


RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (3, 1, 3, 4, 4))


def notes(described: Feature, values, answers=None) -> list[str]:
    found = evidence.Evidence(Interface((described,), (), ()), {})
    for number, value in enumerate(values):
        found.add({"x": value}, {"y": RNG.normal(size=3) if answers is None else answers[number]})
    return list(found.notes())


@pytest.mark.parametrize(
    ("described", "values", "words"),
    [
        (feature("image", color="rgb"), PIXELS, None),
        (feature("image", color="rgb"), PIXELS / 255, "takes pixels from 0 to 255, but got numbers from 0 to 1"),
        (feature("image", (1, 1, 4, 4), color="grayscale_float16"), PIXELS / 255, None),
        (feature(), PIXELS / 255, None),
        (feature(), [np.full((2, 2), number) for number in range(3)], "one number repeated"),
        (feature(), [np.full((2, 2), 7), *PIXELS], None),
        (feature(shape=(1, 9), dtype=np.int32), [np.full((1, 9), number) for number in (5, 6, 7)], "one number"),
        (feature(shape=(1, 9), dtype=np.int32), [np.ones((1, 9))] * 2, None),  # may be a mask
        (feature(shape=(1,)), [np.ones(1), np.zeros(1)], None),
    ],
)  # fmt: skip
def test_inputs_that_prove_nothing(described, values, words) -> None:
    found = [note for note in notes(described, values) if note.startswith("input")]
    assert len(found) == (words is not None) and all(words in note for note in found)


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        (RNG.normal(size=(3, 5)), None),
        ([np.ones(5) * number for number in (1, 2, 3)], None),
        (np.zeros((3, 5)), "output 'y' of the original is 0 everywhere"),
        ([RNG.normal(size=5)] * 3, "output 'y' of the original is the same for all samples"),
        ([np.arange(5) + 1e-6 * number for number in range(3)], "is the same for all samples"),
        ([np.array([np.nan, 1.0, 2.0])] * 3, "is the same for all samples"),
        (np.eye(3), "holds only 0 and 1: it is saturated"),
        (np.eye(3, dtype=np.int32), None),
        (["cat", "cat", "cat"], "output 'y' of the original, 'cat', is the same"),
        (["cat", "dog", "cat"], None),
        ([{"cat": 0.5, "dog": 0.5}] * 3, "is 0.5 everywhere"),
        ([{"cat": 0.1 * number, "dog": 0.5} for number in range(3)], None),
        ([3.0, 3.0, 3.0], "is the same for all samples"),
    ],
)  # fmt: skip
def test_answers_that_prove_nothing(answers, words) -> None:
    found = notes(feature(), PIXELS, answers)
    assert len(found) == (words is not None) and all(words in note for note in found)


def test_what_is_written_can_be_read_again() -> None:
    from corepress.verification.compare import _read, _spool, _write

    values = [{"x": np.arange(3)}, "label", {"a": 1.5}]
    with _spool() as spool:
        for value in values:
            _write(spool, value)
        assert pickle.dumps(list(_read(spool))) == pickle.dumps(values)
