"""The texts that come with corepress: many kinds, mixed, and in what is installed."""

from __future__ import annotations

import re
import unicodedata
import zipfile
from pathlib import Path

import pytest

import corepress
from corepress.errors import ConfigError
from corepress.tokenizing import builtin
from tests.sentences import TEST

FOLDER = Path(builtin.__file__).parent / "texts"


def runs(text: str, length: int) -> set[tuple[str, ...]]:
    """The sequences of so many words in a text."""
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[start : start + length]) for start in range(len(words) - length + 1)}


def kinds() -> dict[str, set[str]]:
    return {file.stem: set(file.read_text("utf-8")[:-1].split("\n%\n")) for file in FOLDER.iterdir()}


def test_there_are_many_all_different_and_the_same_each_time() -> None:
    found = corepress.texts()
    assert len(found) >= 900 and sum(map(len, found)) >= 100_000
    assert len({" ".join(text.lower().split()) for text in found}) == len(found)
    assert found == corepress.texts() and found[:10] == corepress.texts(10)
    assert corepress.texts(0) == []
    assert {text for own in kinds().values() for text in own} == set(found)


@pytest.mark.parametrize("count", [64, 128, 256, 512])
def test_the_first_ones_are_mixed_like_all(count: int) -> None:
    """Of each kind there are as many as its share of all texts is, but for one."""
    first, whole = set(corepress.texts(count)), len(corepress.texts())
    for kind, own in kinds().items():
        assert abs(len(own & first) - count * len(own) / whole) <= 1, kind


def test_lengths_and_scripts_differ() -> None:
    found = corepress.texts()
    words = [len(text.split()) for text in found]
    assert min(words) <= 3 and max(words) >= 100
    scripts = {unicodedata.name(letter).split()[0] for text in found for letter in text if letter.isalpha()}
    assert {"LATIN", "CYRILLIC", "GREEK", "ARABIC", "HEBREW", "DEVANAGARI", "HIRAGANA", "CJK", "HANGUL"} <= scripts


def test_what_quality_is_judged_by_is_not_among_them() -> None:
    judged = set().union(*(runs(sentence, 5) for sentence in TEST))
    assert not judged & set().union(*(runs(text, 5) for text in corepress.texts()))


@pytest.mark.parametrize("count", [-1, 10**6])
def test_a_number_that_there_is_not_is_refused(count: int) -> None:
    with pytest.raises(ConfigError, match=f"count={count}"):
        corepress.texts(count)


def test_files_are_plain_text() -> None:
    for file in FOLDER.iterdir():
        text = file.read_bytes().decode("utf-8")
        assert text.endswith("\n") and "\r" not in text, file.name
        assert all(piece and piece == piece.strip() for piece in text[:-1].split("\n%\n")), file.name


def test_a_wheel_holds_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HATCH_BUILD_NO_HOOKS", "true")  # which would compile the kernels
    hatchling = pytest.importorskip("hatchling.builders.wheel")
    root = Path(__file__).parents[2]
    wheel = next(hatchling.WheelBuilder(str(root)).build(directory=str(tmp_path), versions=["standard"]))
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {f"corepress/tokenizing/texts/{file.name}" for file in FOLDER.iterdir()} <= names
