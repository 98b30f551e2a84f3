"""`tokenize`: samples for a model of language, made of texts."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from corepress.errors import ConfigError, DataError
from corepress.formats.mlprogram import Model
from corepress.runtime import load
from corepress.sequences import Sample
from corepress.tokenizing.builtin import texts as builtin
from corepress.tokenizing.encoding import Encoding, encoding_of
from corepress.tokenizing.files import read_texts
from corepress.tokenizing.layout import Layout, Piece, layout_of

# Tokens of a sample, where the model takes any number of them; and of a sequence of steps, each of which is run.
LENGTH, OF_SEQUENCE = 128, 64


def tokenize(
    model: str | Path | Model,
    texts: Iterable[str] | str | Path | None,
    tokenizer: Any,
    *,
    length: int | None = None,
    prompt: int | None = None,
    count: int | None = None,
    function: str | None = None,
) -> list[Sample]:
    """Samples for a model of language, made of texts, as its inputs want them.

    Which input holds the tokens is read off the program: it looks up rows of a table by them. Of the other inputs masks
    tell words from padding, and let tokens see what comes before them where they have a row for each; places count up;
    kinds of tokens are zero. All samples have the same length.

    - Where an input is a mask, each text is a sample, padded at its end. A text that is longer goes on in further ones.
    - Without a mask, texts are put one behind the other, and cut into samples without padding; the rest is left out.
    - A model with a state gets sequences of steps: texts are cut in the same way, the first half of a sample is the
      prompt, and tokens follow one by one, as far as the model takes these numbers of tokens.

    The marks that the tokenizer puts around a text, if any, are around each sample.

    Args:
        model: A path or a `corepress.Model`.
        texts: Texts, or the path of a file: .txt (one a line), .md (paragraphs) or .jsonl (under "text"). None for
            those that come with corepress: `corepress.texts()`.
        tokenizer: The model's own: the path of a `tokenizer.json` or of a folder that holds one, a
            `tokenizers.Tokenizer`, or a function that gives the tokens of a text, such as a tokenizer of transformers.
        length: Tokens of a sample; by default as many as the model takes, up to 128, or 64 of a sequence.
        prompt: Of a model with a state, tokens of the first step; by default half of them.
        count: At most so many samples.
        function: Of a model with several, the one that the samples are for.

    Returns:
        The samples, {input name: array}, or sequences of such steps.

    Raises:
        ConfigError: If no input holds tokens, or one holds something unknown, if the tokenizer has tokens that the
            model has not, and for lengths that the model does not take.
        DataError: Where there are no texts, or too few to fill a sample.
        MissingDependencyError: For a `tokenizer.json` without the package tokenizers.

    Examples:
        >>> try:
        ...     samples = cto.tokenize("model.mlpackage", cto.texts(), lambda text: [*text.encode()])
        ... except cto.ConfigError as error:
        ...     print(error)
        no input of the model holds tokens, rows of a table of words: its inputs are image
    """
    if count is not None and count < 1:
        raise ConfigError(f"count, of samples, must be above 0: {count}")
    given = _given(texts)
    # Nothing is computed: our runtime knows what a Core AI model does with its inputs, too.
    program = load(model, precision="float32", weights="streamed", function=function)
    layout, encoding = layout_of(program), encoding_of(tokenizer)
    states = bool(program.interface.states)
    if prompt is not None and not states:
        raise ConfigError(f"prompt={prompt}: the model keeps no state, so that a sample is read in one step")
    length = _length(layout, length, states)
    room = length - len(encoding.before) - len(encoding.after)
    if room < 1:
        raise ConfigError(f"length={length}: a sample has no room for words beside the marks of the tokenizer")
    pieces = _apart(given, encoding, room) if layout.masked and not states else _joined(given, encoding, room)
    found: list[Sample] = []
    for words in itertools.islice(pieces, count):
        tokens = [*encoding.before, *words, *encoding.after]
        if max(tokens) >= layout.vocabulary:
            raise ConfigError(
                f"the tokenizer gives the token {max(tokens)}, but the model has {layout.vocabulary} in its table: "
                "it is the tokenizer of another model"
            )
        found.append(_steps(layout, tokens, prompt) if states else _padded(layout, tokens, length, encoding.padding))
    if not found:
        raise DataError(f"the texts are too short: together they don't fill a sample, of {length} tokens")
    return found


def _given(texts: Iterable[str] | str | Path | None) -> list[str]:
    """All texts; DataError where there are none."""
    if texts is None:
        return builtin()
    if isinstance(texts, str | Path):
        return read_texts([texts])
    found = [*texts]
    if not all(isinstance(text, str) for text in found):
        raise ConfigError("texts must be a list of texts, or the path of a file that holds them")
    if not any(text.strip() for text in found):
        raise DataError("there are no texts")
    return found


def _length(layout: Layout, length: int | None, states: bool) -> int:
    """Tokens of a sample; ConfigError for a number that the model does not take."""
    most = layout.longest
    if length is None:
        length = min(n for n in (most, OF_SEQUENCE if states else LENGTH) if n is not None)
        return length if states else layout.size(length) or length
    if length < 1 or (most is not None and length > most) or (not states and layout.size(length) != length):
        raise ConfigError(
            f"length={length}: the input {layout.tokens.name!r} is {layout.tokens.describe()}"
            + ("" if most is None else f", and the model has places for {most} tokens")
        )
    return length


def _apart(texts: Iterable[str], encoding: Encoding, room: int) -> Iterator[Sequence[int]]:
    """The words of each text, of a long one in several parts."""
    for text in texts:
        words = encoding.words(text)
        yield from (words[start : start + room] for start in range(0, len(words), room))


def _joined(texts: Iterable[str], encoding: Encoding, room: int) -> Iterator[Sequence[int]]:
    """The words of all texts, one behind the other, in parts of this length."""
    words = itertools.chain.from_iterable(map(encoding.words, texts))
    while len(part := list(itertools.islice(words, room))) == room:
        yield part


def _padded(layout: Layout, tokens: list[int], length: int, padding: int) -> Sample:
    """One step."""
    return layout.step(Piece(0, [*tokens, *[padding] * (length - len(tokens))], len(tokens)))


def _steps(layout: Layout, tokens: Sequence[int], prompt: int | None) -> Sample:
    """The steps in which a model with a state reads so many tokens: the prompt, then as few at a time as it takes."""
    fewest = layout.size(1) or 1
    first = prompt if prompt is not None else _taken(layout, max(fewest, len(tokens) // 2))
    if first < 1 or first > len(tokens) or layout.size(first) != first:
        raise ConfigError(
            f"prompt={first}: a step of the model takes {layout.tokens.describe()} tokens, a sample has {len(tokens)}"
        )
    starts = [0, *range(first, len(tokens) - fewest + 1, fewest)]
    parts = [(start, list(tokens[start : start + (fewest if start else first)])) for start in starts]
    return tuple(layout.step(Piece(start, part, len(part))) for start, part in parts)


def _taken(layout: Layout, count: int) -> int:
    """The greatest number of tokens, up to `count`, that the model takes at once."""
    return next((n for n in range(count, 0, -1) if layout.size(n) == n), count)
