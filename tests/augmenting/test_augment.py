"""New samples fit the model, are the same for a seed, and vary what may vary."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corepress import augment
from corepress.augmenting.arrays import ends_of, relit
from corepress.augmenting.texts import Texts
from corepress.augmenting.tokens import Vocabulary
from corepress.errors import ConfigError
from corepress.runtime import load
from tests import structures

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ROOT / "examples/digits.mlpackage"
WORDS = 50


def saved(path: Path, specs: list[Any], body: Callable[..., Any]) -> Path:
    import coremltools as ct
    from coremltools.converters.mil.mil import Builder as mb

    program = mb.program(input_specs=specs, opset_version=ct.target.iOS18)(body)
    model = ct.convert(
        program,
        convert_to="mlprogram",
        minimum_deployment_target=ct.target.iOS18,
        compute_precision=ct.precision.FLOAT32,
        pass_pipeline=ct.PassPipeline.EMPTY,
        skip_model_load=True,
    )
    model.save(str(path))
    return path


def encoder(path: Path) -> Path:
    """Tokens of 50 words, kinds of them, positions, and a mask."""
    from coremltools.converters.mil.mil import Builder as mb
    from coremltools.converters.mil.mil import types

    def table(rows: int) -> np.ndarray:
        return np.random.default_rng(rows).normal(size=(rows, 4)).astype(np.float32)

    def body(ids, kinds, places, mask):
        found = mb.add(x=mb.gather(x=table(WORDS), indices=ids, axis=0), y=mb.gather(x=table(2), indices=kinds, axis=0))
        found = mb.add(x=found, y=mb.gather(x=table(16), indices=places, axis=0))
        return mb.mul(x=found, y=mb.expand_dims(x=mask, axes=[2]))

    specs = [mb.TensorSpec((1, 12), types.int32) for _ in range(3)] + [mb.TensorSpec((1, 12))]
    return saved(path, specs, body)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return encoder(tmp_path_factory.mktemp("augment") / "m.mlpackage")


def texts(count: int, seed: int = 0) -> list[dict[str, np.ndarray]]:
    """2, words of 10 to 19, 3, and zeros up to the end."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        words = rng.integers(10, 20, 4 + number % 4)
        ids = np.concatenate([[2], words, [3], np.zeros(10 - len(words), int)])[None]
        kinds, places = np.zeros((1, 12), np.int32), np.arange(12, dtype=np.int32)[None]
        mask = (ids != 0).astype(np.float32)
        found.append({"ids": ids.astype(np.int32), "kinds": kinds, "places": places, "mask": mask})
    return found


@settings(max_examples=20, deadline=None)
@given(count=st.integers(0, 20), samples=st.integers(1, 12), seed=st.integers(0, 2**32 - 1))
def test_new_texts_have_other_words_and_are_longer(count, samples, seed, model) -> None:
    samples_given = texts(samples)
    before = [{name: value.copy() for name, value in sample.items()} for sample in samples_given]
    new = augment(samples_given, model, count, seed=seed)
    assert len(new) == count
    lengths = [int(sample["mask"].sum()) for sample in before]
    for sample in new:
        assert {name: (value.shape, value.dtype) for name, value in sample.items()} == {
            name: (value.shape, value.dtype) for name, value in before[0].items()
        }
        ids, length = sample["ids"][0], int(sample["mask"].sum())
        assert ids.min() >= 0 and ids.max() < WORDS
        if samples > 1:  # of one text nobody can tell what marks its ends, and what is padding
            assert ids[0] == 2 and ids[length - 1] == 3 and not ids[length:].any()
        assert not sample["kinds"].any() and list(sample["places"][0]) == [*range(12)]
        assert list(sample["mask"][0]) == [1] * length + [0] * (12 - length)
        assert length >= min(lengths)
    again = augment(samples_given, model, count, seed=seed)
    assert all(np.array_equal(one[name], two[name]) for one, two in zip(new, again, strict=True) for name in one)
    for sample, unchanged in zip(samples_given, before, strict=True):
        assert all(np.array_equal(sample[name], unchanged[name]) for name in sample)


def test_texts_go_on_with_parts_of_others_where_they_were_padded() -> None:
    samples = [{"ids": sample["ids"], "mask": sample["mask"]} for sample in texts(8)]
    found = Texts(samples, "ids", Vocabulary([sample["ids"] for sample in samples], 49))
    random = np.random.default_rng(0)
    lengths = set()
    for _ in range(100):
        one = samples[int(random.integers(len(samples)))]
        longer = found.longer(one, random)
        before, after = int(one["mask"].sum()), int(longer["mask"].sum())
        lengths.add(after - before)
        ids = longer["ids"][0]
        np.testing.assert_array_equal(ids[: before - 1], one["ids"][0, : before - 1])
        assert ids[after - 1] == 3 and not ids[after:].any() and (ids[1 : after - 1] >= 10).all()
        assert longer["ids"].dtype == np.int32 and longer["mask"].dtype == np.float32
    assert min(lengths) == 0 and max(lengths) >= 4
    full = {"ids": np.array([[2, *range(10, 20), 3]], np.int32), "mask": np.ones((1, 12), np.float32)}
    assert found.longer(full, random) is full


def test_half_of_the_drawn_words_are_those_of_the_samples_as_often_as_there() -> None:
    values = [np.array([[2, 7, 7, 7, word, 3]]) for word in (8, 9, 8, 11)]
    vocabulary = Vocabulary(values, 999)
    # The word that all share stays, as the marks do.
    assert set(vocabulary.marks) == {2, 3, 7} and list(vocabulary.words) == [8, 9, 8, 11]
    random = np.random.default_rng(0)
    drawn = np.array([vocabulary.varied(values[0], 1.0, random)[0, 4] for _ in range(4000)])
    counts = [np.mean(drawn == word) for word in (8, 9, 11)]
    # Five deviations of 4,000 draws, and what the whole vocabulary adds, half of 1 / (place + 2) / log(1 + 500).
    added = 0.5 / (8 + 2) / np.log(501)
    np.testing.assert_allclose(counts, [0.25, 0.125, 0.125], atol=5 * (0.25 * 0.75 / 4000) ** 0.5 + added)
    assert np.array_equal(vocabulary.varied(values[0], 0.0, random), values[0])


def test_words_repeat_and_frequent_ones_come_first_in_a_vocabulary() -> None:
    text = np.arange(100, 164)
    vocabulary = Vocabulary([text], 999)
    random = np.random.default_rng(0)
    drawn = [vocabulary.varied(text, 1.0, random) for _ in range(400)]
    distinct = np.array([len(np.unique(tokens)) for tokens in drawn])
    assert distinct.min() == 1 and (distinct > 20).mean() > 0.1
    runs = np.array([(np.diff(tokens) != 0).sum() + 1 for tokens in drawn])
    some = (distinct > 3) & (distinct < 10)
    assert 0.3 < (runs[some] == distinct[some]).mean() < 0.7  # every other time equal ones follow each other
    words = np.concatenate(drawn)
    words = words[(words < 100) | (words >= 164)]
    assert (words < 100).mean() > 5 * (words >= 900).mean() > 0


def test_pictures_stay_within_what_was_given_and_keep_their_type() -> None:
    with np.load(ROOT / "examples/digits_test.npz") as file:
        images = file["images"][:8]
    samples = [{"image": image[None]} for image in images]
    new = augment(samples, DIGITS, 30, seed=1)
    stacked = np.concatenate([sample["image"] for sample in new])
    assert stacked.shape == (30, *images[0].shape[-3:]) and stacked.dtype == new[0]["image"].dtype
    assert stacked.min() >= images.min() - 1e-3 and stacked.max() <= images.max() + 1e-3
    assert len(np.unique(stacked, axis=0)) > 20  # there are not so many parts of so few pixels
    other = augment(samples, DIGITS, 30, seed=2)
    assert not np.array_equal(stacked, np.concatenate([sample["image"] for sample in other]))


def test_what_cannot_be_varied_is_named(model, tmp_path: Path) -> None:
    from coremltools.converters.mil.mil import Builder as mb
    from coremltools.converters.mil.mil import types

    specs = [mb.TensorSpec((3,), types.int32)]
    path = saved(tmp_path / "m.mlpackage", specs, lambda whole: mb.add(x=whole, y=1))
    with pytest.raises(ConfigError, match=r"no input can be varied \(whole\)"):
        augment([{"whole": np.zeros(3, np.int32)}], path, 2)
    with pytest.raises(ConfigError, match="count"):
        augment(texts(2), model, -1)
    with pytest.raises(ConfigError, match="sample_data is empty"):
        augment([], model, 2)


@given(seed=st.integers(0, 2**32 - 1), last=st.booleans(), levels=st.sampled_from([np.float32, np.uint8]))
def test_another_light_keeps_the_ends_and_what_is_where(seed, last, levels) -> None:
    random = np.random.default_rng(seed)
    pictures = [random.uniform(20, 200, (1, 5, 4, 3) if last else (1, 3, 5, 4)).astype(levels) for _ in range(3)]
    ends = ends_of(pictures, channels_last=last)
    found = relit(pictures[0], ends, random, channels_last=last)
    assert found.shape == pictures[0].shape and found.dtype == levels
    assert not np.array_equal(found, pictures[0])
    # Within a channel brighter stays brighter, up to what is cut off at the ends and rounded.
    for channel in range(3):
        before, after = ((p[0, ..., channel] if last else p[0, channel]).ravel() for p in (pictures[0], found))
        assert ends.low[channel] <= after.min() and after.max() <= ends.high[channel]
        assert (np.diff(after[np.argsort(before, kind="stable")].astype(np.float64)) >= -1e-3).all()


def test_all_steps_of_a_sequence_are_varied_alike(tmp_path):
    path = structures.stateful(tmp_path)
    (feature,) = load(path).interface.inputs
    random = np.random.default_rng(0)
    given = [[{feature.name: random.normal(size=feature.shape).astype("f2")} for _ in range(3)] for _ in range(2)]
    made = augment(given, path, 24)
    found = set()
    for sequence in made:
        assert len(sequence) == 3
        for one, other in (given, given[::-1], (given[0], given[0]), (given[1], given[1])):
            shares = [share_of(step, *pair) for step, *pair in zip(sequence, one, other, strict=True)]
            if None not in shares:
                # Each step rounds to float16, by 2^-11 of values of about 1 that differ by about 1.
                assert max(shares) - min(shares) < 0.01
                found.add(round(min(shares), 1))
                break
        else:
            raise AssertionError("a sequence that is no mean of two")
    assert len(found) > 2


def share_of(step, one, other):
    """How much of a step is one, and the rest another; None if it is no mean of the two."""
    made, first, second = (
        np.concatenate([value.ravel() for value in part.values()]).astype(float) for part in (step, one, other)
    )
    if np.array_equal(made, first):
        return 1.0
    along = first - second
    share = float(along @ (made - second) / max(along @ along, 1e-9))
    return share if np.allclose(made, second + share * along, atol=0.01) else None
