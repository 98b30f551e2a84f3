"""Samples made of texts hold what the model is told of them by its own tokenizer, and run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import corepress
from corepress.errors import ConfigError, DataError
from corepress.runtime import load
from corepress.runtime.domains import domains
from corepress.runtime.samples import read_samples, write_samples
from tests import decoder, minilm
from tests.tokenizing.packages import LENGTH, reader, text, tokenizer

TEXTS = [text(1, 2, 3), text(*range(4, 24)), text(30)]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    inputs = dict.fromkeys(("ids", "attention_mask", "position_ids", "kind"))
    return reader(tmp_path_factory.mktemp("encoder"), inputs)


@pytest.fixture(scope="module")
def unmasked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return reader(tmp_path_factory.mktemp("unmasked"), {"ids": None})


@pytest.fixture(scope="module")
def stateful(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("coremltools")
    return decoder.package(tmp_path_factory.mktemp("stateful"))


def letters(text: str) -> list[int]:
    return [ord(letter) % 50 for letter in text]


def test_padded_samples_are_those_of_the_library(encoder: Path) -> None:
    """The library cuts and pads by itself, too."""
    made = tokenizer()
    found = corepress.tokenize(encoder, TEXTS, made)
    made.enable_truncation(LENGTH)
    made.enable_padding(length=LENGTH, pad_id=0)
    expected = [part for text in TEXTS for whole in [made.encode(text)] for part in (whole, *whole.overflowing)]
    assert len(found) == len(expected) == 1 + 4 + 1
    for sample, one in zip(found, expected, strict=True):
        assert sample["ids"].tolist() == [one.ids] and sample["attention_mask"].tolist() == [one.attention_mask]
        assert sample["position_ids"].tolist() == [list(range(LENGTH))] and not sample["kind"].any()
    program = load(encoder)
    assert all(np.isfinite(program.predict(sample)[program.interface.outputs[0].name]).all() for sample in found)


def test_what_a_tokenizer_may_be(encoder: Path, tmp_path: Path) -> None:
    made = tokenizer()
    expected = corepress.tokenize(encoder, TEXTS, made)
    # Lengths that are asked for in the file are not those of the model.
    made.enable_truncation(4)
    made.enable_padding(length=40, pad_id=0)
    made.save(str(tmp_path / "tokenizer.json"))
    plain = tokenizer()
    for given in (
        made,
        tmp_path / "tokenizer.json",
        str(tmp_path),
        lambda text: plain.encode(text).ids,
        lambda text: {"input_ids": [plain.encode(text).ids]},
        lambda text: np.array(plain.encode(text).ids),
    ):
        found = corepress.tokenize(encoder, TEXTS, given)
        assert all((a[name] == b[name]).all() for a, b in zip(found, expected, strict=True) for name in a)


def test_texts_without_padding_are_joined(unmasked: Path) -> None:
    found = corepress.tokenize(unmasked, TEXTS, tokenizer(marks=False))
    numbers = np.array([1, 2, 3, *range(4, 24), 30]) + 4
    assert np.concatenate([sample["ids"] for sample in found]).tolist() == numbers.reshape(3, LENGTH).tolist()
    # Marks stand around each sample.
    found = corepress.tokenize(unmasked, TEXTS, tokenizer())
    assert [sample["ids"][0, [0, -1]].tolist() for sample in found] == [[1, 2]] * 4
    assert np.concatenate([sample["ids"][0, 1:-1] for sample in found]).tolist() == numbers.tolist()


def test_a_model_with_a_state_gets_steps_as_the_app_runs_it(stateful: Path) -> None:
    """`tests/decoder.py` has them, with masks, by hand."""
    words = np.arange(24) % decoder.WORDS
    found = corepress.tokenize(stateful, [" ".join(["a"] * 24)], Counting(), length=12, prompt=4)
    expected = [decoder.steps(words[start : start + 12]) for start in (0, 12)]
    assert [len(sequence) for sequence in found] == [9, 9]
    for one, two in zip(found, expected, strict=True):
        for step, by_hand in zip(one, two, strict=True):
            assert step.keys() == by_hand.keys()
            assert all(step[name].dtype == by_hand[name].dtype for name in step)
            assert all(np.array_equal(step[name], by_hand[name]) for name in step)
    program = load(stateful)
    assert len(program.run_sequence(found[0])) == 9


class Counting:
    """Gives each word of a text the number of its place, and an empty one nothing."""

    def __call__(self, text: str) -> list[int]:
        return [number % decoder.WORDS for number in range(len(text.split()))]


def test_by_default_a_prompt_is_half_of_a_sample_that_fits_the_cache(stateful: Path) -> None:
    (sequence,) = corepress.tokenize(stateful, [" ".join(["a"] * 30)], Counting())
    # The mask has room for 24 tokens, and a step takes 8 at most.
    assert [step["ids"].shape[1] for step in sequence] == [8, *[1] * 16]
    (sequence,) = corepress.tokenize(stateful, [" ".join(["a"] * 10)], Counting(), length=10)
    assert [step["ids"].shape[1] for step in sequence] == [5, *[1] * 5]


def test_a_model_that_takes_one_token_at_a_time(tmp_path: Path) -> None:
    pytest.importorskip("coremltools")
    (sequence,) = corepress.tokenize(decoder.summing(tmp_path), ["a b c d e"], Counting(), length=5)
    assert [step["ids"].tolist() for step in sequence] == [[[number]] for number in range(5)]


def test_a_length_that_may_vary(tmp_path: Path) -> None:
    ct = pytest.importorskip("coremltools")
    several = ct.RangeDim(1, 200, LENGTH)
    path = reader(tmp_path, {"ids": (1, several), "attention_mask": (1, several)})
    assert {s["ids"].shape for s in corepress.tokenize(path, TEXTS, tokenizer())} == {(1, 128)}
    found = corepress.tokenize(path, TEXTS, tokenizer(), length=12)
    assert {value.shape for sample in found for value in sample.values()} == {(1, 12)} and len(found) == 4
    with pytest.raises(ConfigError, match=r"length=201: the input 'ids' is 1x1\.\.200"):
        corepress.tokenize(path, TEXTS, tokenizer(), length=201)


def test_the_texts_of_corepress_without_others(encoder: Path) -> None:
    found = corepress.tokenize(encoder, None, letters, count=100)
    assert len(found) == 100
    assert found[0]["ids"].tolist() == [letters(corepress.texts(1)[0])[:LENGTH]]
    assert len({sample["ids"].tobytes() for sample in found}) > 80


@pytest.mark.parametrize("kind", ["encoder", "stateful"])
def test_what_is_written_is_read_again(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    path: Path = request.getfixturevalue(kind)
    for count in (1, 3):
        samples: list[Any] = corepress.tokenize(path, None, letters, count=count)
        write_samples(tmp_path / "s.npz", samples, overwrite=True)
        again = list(read_samples(tmp_path / "s.npz", load(path).interface))
        assert len(again) == count
        for one, two in zip(samples, again, strict=True):
            pairs = zip([one], [two], strict=True) if isinstance(one, dict) else zip(one, two, strict=True)
            assert all(np.array_equal(a[name], b[name]) for a, b in pairs for name in a)


def test_what_is_refused(encoder: Path, unmasked: Path, stateful: Path, tmp_path: Path) -> None:
    def refused(error: type[Exception], match: str, model: Path, texts: Any, by: Any = letters, **more: Any) -> None:
        with pytest.raises(error, match=match):
            corepress.tokenize(model, texts, by, **more)

    digits = Path(__file__).parents[2] / "examples/digits.mlpackage"
    refused(ConfigError, "no input of the model holds tokens.*image", digits, TEXTS)
    refused(ConfigError, "token 99, but the model has 64 in its table", encoder, TEXTS, lambda text: [99] * len(text))
    refused(ConfigError, "numbers of the tokens of a text, and gives ''", encoder, [text(1)], str)
    refused(ConfigError, "tokenizer must be the path", encoder, TEXTS, 5)
    refused(ConfigError, "a list of texts", encoder, [b"bytes"])
    refused(ConfigError, "count, of samples", encoder, TEXTS, count=0)
    refused(ConfigError, "keeps no state", encoder, TEXTS, prompt=4)
    refused(ConfigError, "length=9: the input 'ids' is 1x8", encoder, TEXTS, length=9)
    refused(ConfigError, "prompt=9", stateful, TEXTS, prompt=9, length=20)
    refused(ConfigError, "no room for words", encoder, TEXTS, lambda text: [1] * 4 + letters(text)[:9] + [2] * 4)
    refused(DataError, "there are no texts", encoder, [" "])
    refused(DataError, "don't fill a sample, of 8 tokens", unmasked, ["abc"])
    refused(DataError, "no such file", encoder, tmp_path / "none.txt")
    refused(DataError, "no such file", encoder, TEXTS, tmp_path / "tokenizer.json")
    strange = reader(tmp_path, {"ids": None, "noise": (1, LENGTH, 16)})
    refused(ConfigError, "isn't known what input 'noise' .1x8x16. holds", strange, TEXTS)


def test_a_file_that_is_no_tokenizer_is_refused(encoder: Path, tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(corepress.FormatError, match=r"tokenizer\.json: it is no tokenizer"):
        corepress.tokenize(encoder, TEXTS, tmp_path)


@pytest.mark.slow
def test_samples_of_a_real_encoder_are_those_of_transformers(tmp_path: Path) -> None:
    pytest.importorskip("coremltools")
    transformers, source = minilm._libraries()
    theirs = transformers.BertTokenizerFast.from_pretrained(source)
    path = minilm.package(tmp_path)
    texts = corepress.texts(200)
    expected = theirs(
        texts, padding="max_length", truncation=True, max_length=32, return_overflowing_tokens=True, return_tensors="np"
    )
    for given in (source, theirs):
        found = corepress.tokenize(path, texts, given)
        for ours, name in (("ids", "input_ids"), ("mask", "attention_mask")):
            assert np.array_equal(np.concatenate([sample[ours] for sample in found]), expected[name])


def test_a_core_ai_model_gets_the_samples_of_the_package_that_it_was_made_of(stateful: Path, tmp_path: Path) -> None:
    """Its program keeps tokens within their table, by a remainder, before it looks them up."""
    pytest.importorskip("coreai_torch")
    corepress.migrate(stateful, tmp_path / "model.aimodel")
    given = [text(*range(1, 40))], letters
    package, asset = (corepress.tokenize(path, *given, length=12) for path in (stateful, tmp_path / "model.aimodel"))
    assert len(package) == len(asset) > 0
    for one, other in zip(package, asset, strict=True):
        for own, theirs in zip(one, other, strict=True):
            assert own.keys() == theirs.keys()
            assert all(np.array_equal(own[name], theirs[name]) for name in own)
    # Whoever makes random inputs knows of the table, too, also where Apple's runtime runs the model.
    assert domains(load(tmp_path / "model.aimodel"))["ids"] == domains(load(stateful))["ids"]
