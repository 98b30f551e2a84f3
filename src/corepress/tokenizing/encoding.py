"""Tokenizers, of whatever library, as one function from a text to numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from corepress.errors import ConfigError, FormatError, first_line, importing
from corepress.tokenizing.files import content_of

# What a place without a word holds, by the names that vocabularies have for it.
_PADDING = ("[PAD]", "<pad>", "<|pad|>", "<|endoftext|>", "</s>")
# To see which marks stand around any text.
_PROBES = ("a", "the second text")


@dataclass(frozen=True)
class Encoding:
    """`ids`: the tokens of a text with the marks around it. `before`, `after`: these marks. `padding`: the token of a
    place without a word."""

    ids: Callable[[str], list[int]]
    before: tuple[int, ...]
    after: tuple[int, ...]
    padding: int

    def words(self, text: str) -> list[int]:
        """The tokens of a text without the marks around it."""
        ids = self.ids(text)
        return ids[len(self.before) : len(ids) - len(self.after)]


def encoding_of(tokenizer: Any) -> Encoding:
    """`tokenizer`: a `tokenizer.json` or a folder that holds one, a `tokenizers.Tokenizer`, or a function of a text,
    such as a tokenizer of transformers, that gives tokens or a mapping that has them as "input_ids".

    Raises ConfigError for anything else, DataError and FormatError for a file that can't be read.
    """
    if isinstance(tokenizer, str | Path):
        tokenizer = _read(Path(tokenizer))
    if type(tokenizer).__module__.partition(".")[0] == "tokenizers":
        ids, padding = _of_library(tokenizer)
    elif callable(tokenizer):
        ids, padding = _of_function(tokenizer), getattr(tokenizer, "pad_token_id", None)
    else:
        raise ConfigError(
            "tokenizer must be the path of a tokenizer.json, a tokenizers.Tokenizer or a function of a text, "
            f"not {type(tokenizer).__name__}"
        )
    before, after = _marks(ids)
    return Encoding(ids, before, after, padding if isinstance(padding, int) else 0)


def _read(path: Path) -> Any:
    with importing("reading a tokenizer.json"):
        from tokenizers import Tokenizer
    file = path / "tokenizer.json" if path.is_dir() else path
    content = content_of(file)
    try:
        return Tokenizer.from_str(content)
    except Exception as error:  # the library raises nothing narrower
        raise FormatError(f"{file}: it is no tokenizer.json: {first_line(error)}") from error


def _of_library(tokenizer: Any) -> tuple[Callable[[str], list[int]], int | None]:
    """Of the library tokenizers; lengths are ours to choose, not those in the file."""
    own = type(tokenizer).from_str(tokenizer.to_str())
    padded = own.padding
    own.no_truncation()
    own.no_padding()
    known = (own.token_to_id(name) for name in _PADDING)
    padding = padded["pad_id"] if padded else next((token for token in known if token is not None), None)
    return lambda text: list(own.encode(text).ids), padding


def _of_function(function: Callable[[str], Any]) -> Callable[[str], list[int]]:
    def ids(text: str) -> list[int]:
        found = function(text)
        if isinstance(found, Mapping) or hasattr(found, "input_ids"):
            found = found["input_ids"]
        if not isinstance(found, Sequence | np.ndarray):
            found = getattr(found, "ids", found)
        array = np.asarray(found)
        if isinstance(found, str) or (array.dtype.kind not in "iu" and array.size) or array.squeeze().ndim > 1:
            raise ConfigError(f"tokenizer must give the numbers of the tokens of a text, and gives {found!r}")
        return [int(token) for token in array.ravel()]

    return ids


def _marks(ids: Callable[[str], list[int]]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The tokens that stand before and after those of any text: what an empty one has, in the parts that fit."""
    marks, found = ids(""), [ids(probe) for probe in _PROBES]
    for count in range(len(marks), -1, -1):
        before, after = marks[:count], marks[count:]
        if all(one[:count] == before and one[len(one) - len(after) :] == after for one in found):
            return tuple(before), tuple(after)
    return (), ()
