"""Two models on the same inputs: the metrics against NumPy, a broken weight, samples of all kinds."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

import corepress
from corepress import runtime, verify
from corepress.errors import ConfigError, CorepressError, FormatError
from corepress.formats.features import Feature, Interface
from corepress.metrics import Row, Sums
from corepress.runtime.random_inputs import random_inputs
from corepress.runtime.samples import read_inputs, read_samples
from corepress.verification import Verification
from tests import structures

pytestmark = pytest.mark.usefixtures("one_thread")

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
DIGITS, IMAGES = EXAMPLES / "digits.mlpackage", EXAMPLES / "digits_test.npz"


@pytest.fixture(scope="module")
def palettized() -> corepress.Model:
    from corepress.coreml import OpPalettizerConfig, OptimizationConfig, palettize_weights

    return palettize_weights(corepress.load(DIGITS), OptimizationConfig(OpPalettizerConfig(nbits=4)))


def negated(path: Path, name: str) -> corepress.Model:
    model = corepress.load(path).copy()
    weight = next(weight for weight in model.weights() if weight.name == name)
    weight.value.CopyFrom(model.store(-weight.dense()))
    return model


def test_the_metrics_are_what_numpy_says(palettized) -> None:
    images = np.load(IMAGES)["images"][:20]
    one, other = (
        np.concatenate([program.predict({"image": image[None]})["logits"] for image in images]).astype(np.float64)
        for program in (runtime.load(model, precision="float32") for model in (DIGITS, palettized))
    )
    (row,) = verify(DIGITS, palettized, [{"image": image[None]} for image in images]).rows
    noise = ((one - other) ** 2).sum()
    assert row.name == "logits"
    assert row.snr == pytest.approx(10 * np.log10((one**2).sum() / noise))
    assert row.psnr == pytest.approx(10 * np.log10((one**2).max() / (noise / one.size)))
    assert row.cosine == pytest.approx((one * other).sum() / np.linalg.norm(one) / np.linalg.norm(other))
    assert row.top1 == (one.argmax(-1) == other.argmax(-1)).mean()
    assert row.max_abs == np.abs(one - other).max()


def test_four_bits_still_read_digits(palettized) -> None:
    result = verify(DIGITS, palettized, IMAGES, metric="top1")
    assert result.ok and result.samples == 360 and not result.weak
    assert result.rows[0].top1 >= 0.97
    assert "random" not in result.summary


@pytest.mark.parametrize("per_op", [False, True])
def test_who_watches_sees_each_sample_and_both_answers(palettized, per_op: bool) -> None:
    samples = [{"image": image[None]} for image in np.load(IMAGES)["images"][:3]]
    seen: list[tuple] = []
    verify(DIGITS, palettized, samples, per_op=per_op, watch=lambda *shown: seen.append(shown))
    programs = [runtime.load(model, precision="float32") for model in (DIGITS, palettized)]
    assert len(seen) == 3
    for sample, (given, *answers) in zip(samples, seen, strict=True):
        assert np.array_equal(given["image"], sample["image"])
        for program, answer in zip(programs, answers, strict=True):
            assert np.array_equal(answer["logits"], program.predict(sample)["logits"])


def test_a_model_is_like_itself() -> None:
    result = verify(DIGITS, corepress.load(DIGITS), per_op=True)
    assert result.ok and result.weak and "weak evidence" in result.summary and result.samples == 4
    assert {row.snr for row in (*result.rows, *result.operations)} == {math.inf}
    assert f"of the {len(result.operations)} values that both models compute, none is below 20 dB" in result.summary
    assert result.first_wrong is None
    plain = json.loads(result.to_json())
    assert plain["outputs"][0]["snr"] == "inf" and plain["random_inputs"] and len(plain["operations"]) > 5


@pytest.mark.parametrize("number", range(4))
def test_a_broken_weight_is_caught_where_it_is_read(number) -> None:
    weight = [weight for weight in corepress.load(DIGITS).weights() if len(weight.shape) > 1][number]
    result = verify(DIGITS, negated(DIGITS, weight.name), IMAGES, per_op=True)
    assert not result.ok and [row.name for row in result.failed] == ["logits"]
    (reader,) = weight.consumers
    assert result.first_wrong is not None
    assert (result.first_wrong.name, result.first_wrong.kind) == (reader.name, reader.op_type)
    assert repr(reader.name) in result.summary


def test_control_flow_is_compared_inside(tmp_path) -> None:
    path = structures.nested(tmp_path)
    inputs = {"x": np.full((1, 64), 0.1, np.float32), "flag": np.ones(1, np.float32)}
    good = verify(path, path, inputs, per_op=True)
    assert good.ok and {"cond", "while_loop", "linear"} <= {row.kind for row in good.operations}
    name = next(w.name for w in corepress.load(path).weights() if w.name.startswith("yes_weight"))
    bad = verify(path, negated(path, name), inputs, per_op=True)
    assert bad.first_wrong is not None and bad.first_wrong.kind == "linear"


def test_each_sample_starts_with_a_fresh_state(tmp_path) -> None:
    from corepress.coreml import OpLinearQuantizerConfig, OptimizationConfig, linear_quantize_weights

    path = structures.stateful(tmp_path)
    model = corepress.load(path)
    small = linear_quantize_weights(model, OptimizationConfig(OpLinearQuantizerConfig(dtype="int4")))
    x = np.random.default_rng(0).normal(size=(1, 64))
    once, thrice = (verify(model, small, [{"x": x}] * count).rows[0] for count in (1, 3))
    assert 5 < once.snr < 60 and thrice.snr == pytest.approx(once.snr) and thrice.max_abs == once.max_abs


def test_all_kinds_of_readers_and_integer_inputs(package) -> None:
    result = verify(package(), package(), per_op=True, samples=2)
    assert result.ok and len(result.rows) == 5


INF, NAN = math.inf, math.nan


@pytest.mark.parametrize(
    "before,now,snr,cosine,max_abs",
    [
        ([1, 2], [1, 2], INF, 1, 0),
        ([0, 0], [0, 0], INF, 1, 0),
        ([0, 0], [1, 0], -INF, 0, 1),
        ([2, 0], [0, 0], 0, 0, 2),
        ([1, -INF], [1, -INF], INF, 1, 0),  # a mask
        ([1, NAN], [1, NAN], INF, 1, 0),
        ([1, 2], [1, NAN], -INF, NAN, INF),
        ([1, 2], [1, INF], -INF, NAN, INF),
        ([1, NAN], [1, 5], INF, 1, 0),  # nothing to compare with
        ([1, INF], [1, 65504], INF, 1, 0),
        ([NAN, NAN], [NAN, NAN], None, None, None),
        ([NAN, INF], [1, 2], None, None, None),
    ],
)
def test_numbers_that_are_not_finite(before, now, snr, cosine, max_abs) -> None:
    sums = Sums()
    sums.add(np.array(before, float), np.array(now, float))
    row = sums.row("y")
    np.testing.assert_equal([row.snr, row.cosine, row.max_abs], [snr, cosine, max_abs])
    assert (row.elements, row.left_out) == (2, int((~np.isfinite(before)).sum()))
    for metric, least in (("snr", -1e9), ("cosine", -2), ("max_abs", 1e9)):
        value = getattr(row, metric)
        good = value is None or math.isfinite(value) or (value == INF and metric == "snr")
        assert Verification((row,), (), metric, least, 1, False).ok == good


def test_labels_and_probabilities() -> None:
    label, scores = Sums(), Sums()
    for found, cat in (("cat", 0.9), ("dog", 0.4)):
        label.add_output("label", "cat", found)
        scores.add_output("scores", {"cat": 0.9, "dog": 0.1}, {"dog": 1 - cat, "cat": cat})
    assert label.row("label").top1 == 0.5 and label.row("label").snr is None
    assert scores.row("scores").top1 == 0.5
    assert scores.row("scores").max_abs == pytest.approx(0.5)
    # What has no SNR is not judged by it.
    assert Verification((label.row("label"),), (), "snr", 20, 1, False).ok


def test_what_cannot_be_compared(package, palettized) -> None:
    with pytest.raises(ConfigError, match="different outputs"):
        verify(DIGITS, package())
    with pytest.raises(ConfigError, match="snr, cosine"):
        verify(DIGITS, palettized, metric="rmse")
    with pytest.raises(ConfigError, match="data is empty: at least one sample"):
        verify(DIGITS, palettized, [])
    with pytest.raises(ConfigError, match="at least 1"):
        verify(DIGITS, palettized, samples=0)
    with pytest.raises(ConfigError, match="inputs are image"):
        verify(DIGITS, palettized, {"picture": 1})


ARRAYS = Interface(
    (Feature("x", "array", (1, 3), ranges=((1, 1), (1, 4))), Feature("k", "array", (2,), np.int32)), (), ()
)


def test_random_inputs_are_seeded() -> None:
    scalar = Feature("s", "array", (), np.float16)
    given = Interface(
        (*ARRAYS.inputs, scalar, Feature("p", "image", (1, 3, 4, 4)), Feature("d", "array", (1,), default=2)), (), ()
    )
    one, two = random_inputs(given, 3, 2)
    (again,) = random_inputs(given, 3, 1)
    assert list(one) == ["x", "k", "s", "p"]
    for name, value in one.items():
        np.testing.assert_array_equal(value, again[name])
    assert (one["x"] != two["x"]).all() and one["x"].shape == (1, 3) and one["s"].shape == ()
    assert one["k"].dtype == np.int32 and one["k"].min() >= 0 and one["p"].min() >= 0 and 100 < one["p"].max() <= 255
    with pytest.raises(ConfigError, match="dictionary"):
        next(random_inputs(Interface((Feature("m", "dictionary"),), (), ()), 0, 1))


@pytest.mark.parametrize(
    "x,k,count",
    [((1, 3), (2,), 1), ((5, 3), (5, 2), 5), ((5, 1, 3), (5, 2), 5), ((5, 4), (2,), 5), ((0, 3), (0, 2), 0)],
)
def test_samples_from_npz(tmp_path, x, k, count) -> None:
    arrays = {"x": np.random.default_rng(0).normal(size=x), "k": np.arange(np.prod(k)).reshape(k), "label": np.ones(9)}
    np.savez(tmp_path / "a.npz", **arrays)
    samples = list(read_samples(tmp_path / "a.npz", ARRAYS))
    assert len(samples) == count
    for index, sample in enumerate(samples):
        assert sample.keys() == {"x", "k"}
        assert sample["x"].shape == (1, x[-1]) and sample["k"].shape == (2,)
        np.testing.assert_array_equal(sample["x"][0], arrays["x"].reshape(count, -1)[index])
    np.savez(tmp_path / "b.npz", **arrays)
    assert len(list(read_samples(tmp_path, ARRAYS))) == 2 * count


def test_samples_that_do_not_fit(tmp_path) -> None:
    def read(**arrays):
        np.savez(tmp_path / "a.npz", **arrays)
        return list(read_samples(tmp_path / "a.npz", ARRAYS))

    with pytest.raises(ConfigError, match="no array for the input 'k'"):
        read(x=np.ones((1, 3)))
    with pytest.raises(ConfigError, match=r"'x' is 5x9, but the input is 1x1\.\.4"):
        read(x=np.ones((5, 9)), k=np.ones(2))
    with pytest.raises(ConfigError, match="x: 5, k: 4"):
        read(x=np.ones((5, 3)), k=np.ones((4, 2)))
    with pytest.raises(FormatError, match="arrays"):
        read(x=np.array([object()]), k=np.ones(2))
    (tmp_path / "a.npz").write_bytes(b"PK\3\4 no")
    with pytest.raises(FormatError, match="read"):
        list(read_samples(tmp_path / "a.npz", ARRAYS))
    with pytest.raises(CorepressError, match="no such"):
        read_samples(tmp_path / "nothing", ARRAYS)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CorepressError, match=r"no \.npz files or images"):
        read_samples(tmp_path / "empty", ARRAYS)


def test_pictures(tmp_path) -> None:
    Image = pytest.importorskip("PIL.Image")
    for name, level in (("b.png", 255), ("a.png", 0)):
        Image.new("RGB", (9, 7), (level, 0, 0)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("ignored")

    def interface(kind: str, *shape: int) -> Interface:
        return Interface((Feature("p", kind, shape, np.float32, color="rgb"),), (), ())

    first, second = read_samples(tmp_path, interface("image", 1, 3, 4, 8))
    assert first["p"].size == (8, 4) and second["p"].getpixel((0, 0)) == (255, 0, 0)
    first, second = read_samples(tmp_path, interface("array", 1, 3, 4, 8))
    assert first["p"].max() == 0 and (second["p"][0, 0] == 1).all() and second["p"].shape == (1, 3, 4, 8)
    with pytest.raises(ConfigError, match="not a picture"):
        list(read_samples(tmp_path, interface("array", 1, 64)))
    with pytest.raises(ConfigError, match="one input"):
        read_samples(tmp_path, ARRAYS)
    (tmp_path / "c.png").write_bytes(b"none")
    with pytest.raises(FormatError, match="image"):
        list(read_samples(tmp_path / "c.png", interface("image", 1, 3, 4, 8)))


def test_inputs_by_hand(tmp_path) -> None:
    np.save(tmp_path / "x.npy", np.ones((1, 3)))
    np.savez(tmp_path / "k.npz", k=np.ones(2), other=np.ones(1))
    found = read_inputs([f"x={tmp_path / 'x.npy'}", f"k={tmp_path / 'k.npz'}"], ARRAYS)
    assert found["x"].shape == (1, 3) and found["k"].shape == (2,)
    assert (read_inputs(["k=3"], ARRAYS, seed=0)["k"] == 3).all()
    for given, words in (
        (["k=3"], "missing: x"),
        (["k=three"], "'three' is neither"),
        (["y=3"], "the inputs are x, k"),
        (["3"], "NAME=VALUE"),
        (["x=nothing.npy"], "no such file"),
        ([f"x={tmp_path / 'k.npz'}"], "no array 'x', but k, other"),
    ):
        with pytest.raises(CorepressError, match=words):
            read_inputs(given, ARRAYS)


def test_what_a_network_reshapes_for_its_output_is_shown_once() -> None:
    operations = (Row("y", "innerProduct", snr=30.0), Row("y (output)", "output", snr=30.0))
    found = Verification((Row("y", snr=30.0),), operations, "snr", 20.0, 1, False, 1)
    assert [str(cell) for cell in found.table().columns[0].cells] == ["y", "y"]
    assert len(found.to_dict()["operations"]) == 2
    assert str(found) == found.summary
