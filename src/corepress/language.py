"""How well a copy of a language model predicts: its divergence, its perplexity and its first choices, token by token.

The logits after a token judge the token that follows it in the samples (teacher forcing), whatever the models would
have chosen themselves; within a step, and from a step of a sequence to the next.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from corepress.errors import ConfigError
from corepress.metrics import Row, numbers

Array = NDArray[Any]
# Rows of logits whose probabilities are in memory at a time.
_ROWS = 64


class Words(NamedTuple):
    """What makes a model one of language.

    `tokens`: the input that holds them. `vocabulary`: how many different ones there are. `logits`: the output with a
    number for each of them; None for the first one that has so many. `masks`: inputs that may tell which tokens are
    none, but fill the shape.
    """

    tokens: str
    vocabulary: int
    logits: str | None = None
    masks: tuple[str, ...] = ()


@dataclass
class Tally:
    """Sums over predictions. `judged`: those whose next token is known."""

    predictions: int = 0
    divergence: float = 0.0
    agreed: int = 0
    judged: int = 0
    before: float = 0.0
    now: float = 0.0

    @property
    def kl(self) -> float | None:
        """The mean divergence of the copy's probabilities from the original's, in nats."""
        return self.divergence / self.predictions if self.predictions else None

    @property
    def top1(self) -> float | None:
        """The part of the predictions with the same most likely token."""
        return self.agreed / self.predictions if self.predictions else None

    @property
    def perplexity(self) -> float | None:
        """That of the copy over that of the original."""
        return _exponential((self.now - self.before) / self.judged) if self.judged else None

    @property
    def original_perplexity(self) -> float | None:
        """The exponential of the original's mean surprise, in nats, at the tokens that follow."""
        return _exponential(self.before / self.judged) if self.judged else None


def _exponential(value: float) -> float:
    return math.inf if value > 700 else math.exp(value)


@dataclass(frozen=True)
class Position:
    """What a model and its copy predict after one place of the texts, over all of them.

    Args:
        position: The place, from 0.
        predictions: How many there are.
        top1: The part with the same most likely token.
        kl: The mean divergence, in nats.
        perplexity: That of the copy over that of the original; None where no token follows.
        original_perplexity: That of the original.
    """

    position: int
    predictions: int
    top1: float | None
    kl: float | None
    perplexity: float | None
    original_perplexity: float | None


class _Waiting(NamedTuple):
    """Log-probabilities after the last token of a text, until the next is known; `place`: its own."""

    place: int
    before: Array
    now: Array
    step: int | None


@dataclass
class Predictions:
    """Counts the predictions of two models on the same samples. `logits`: the output that was found to hold them."""

    words: Words
    logits: str | None = None
    whole: Tally = field(default_factory=Tally)
    steps: dict[int, Tally] = field(default_factory=dict)
    positions: dict[int, Tally] = field(default_factory=dict)
    _waiting: dict[int, _Waiting] = field(default_factory=dict)
    _lengths: dict[int, int] = field(default_factory=dict)

    def add(
        self, step: int | None, inputs: Mapping[str, Any], expected: Mapping[str, Any], found: Mapping[str, Any]
    ) -> None:
        """Count one step: its number in the sequence, or None of a sample that is none."""
        if not step:
            self._waiting, self._lengths = {}, {}
        tokens = numbers(inputs.get(self.words.tokens))
        self.logits = self.logits or self._found(expected)
        if tokens is None or self.logits is None:
            return
        before, now = numbers(expected[self.logits]), numbers(found[self.logits])
        if before is None or now is None or before.shape != now.shape or before.ndim < 2:
            return
        texts = tokens.reshape(-1, tokens.shape[-1]).astype(np.int64) if tokens.ndim else tokens.reshape(1, 1)
        count = before.shape[-1]
        if before.size % (len(texts) * count):
            return
        shape = (len(texts), -1, count)
        kept = self._kept(inputs, tokens).reshape(texts.shape)
        for text, words in enumerate(texts):
            self._text(text, step, words[kept[text]], kept[text], before.reshape(shape)[text], now.reshape(shape)[text])

    def _found(self, answers: Mapping[str, Any]) -> str | None:
        """The output that holds logits."""
        if self.words.logits is not None:
            if self.words.logits not in answers:
                raise ConfigError(f"there is no output {self.words.logits!r}, but {', '.join(answers)}")
            return self.words.logits
        shapes: dict[str, tuple[int, ...]] = {name: getattr(value, "shape", ()) for name, value in answers.items()}
        return next((n for n, shape in shapes.items() if len(shape) > 1 and shape[-1] == self.words.vocabulary), None)

    def _kept(self, inputs: Mapping[str, Any], tokens: Array) -> NDArray[np.bool_]:
        """Which tokens are some, and do not just fill the shape."""
        for name in self.words.masks:
            mask = numbers(inputs.get(name))
            if mask is not None and mask.shape == tokens.shape and np.isin(mask, (0, 1)).all():
                return mask > 0
        return np.ones(tokens.shape, bool)

    def _text(
        self, text: int, step: int | None, words: Array, kept: NDArray[np.bool_], before: Array, now: Array
    ) -> None:
        """Count a step of one text: its tokens, and the logits after each of them, or after the last one only."""
        if not len(words):
            return
        if len(before) == len(kept):
            before, now = before[kept], now[kept]
        elif len(before) != 1:
            return
        first = self._lengths.get(text, 0)
        self._lengths[text] = first + len(words)
        waiting = self._waiting.pop(text, None)
        if waiting is not None:
            for tally in self._tallies(waiting.step, waiting.place):
                _judge(tally, waiting.before, waiting.now, int(words[0]))
        skipped = len(words) - len(before)
        for start in range(0, len(before), _ROWS):
            one, other = _log_softmax(before[start : start + _ROWS]), _log_softmax(now[start : start + _ROWS])
            for row, (sure, guessed) in enumerate(zip(one, other, strict=True)):
                place = skipped + start + row
                for tally in self._tallies(step, first + place):
                    _count(tally, sure, guessed)
                    if place + 1 < len(words):
                        _judge(tally, sure, guessed, int(words[place + 1]))
        self._waiting[text] = _Waiting(first + len(words) - 1, one[-1], other[-1], step)

    def _tallies(self, step: int | None, position: int) -> list[Tally]:
        found = [self.whole, self.positions.setdefault(position, Tally())]
        return found if step is None else [*found, self.steps.setdefault(step, Tally())]

    def by_position(self) -> tuple[Position, ...]:
        """The places of the texts, in order."""
        return tuple(
            Position(place, own.predictions, own.top1, own.kl, own.perplexity, own.original_perplexity)
            for place, own in sorted(self.positions.items())
        )


def with_predictions(row: Row, tally: Tally) -> Row:
    """The row of the output that holds logits, with what they say of tokens."""
    return replace(row, kl=tally.kl, perplexity=tally.perplexity, original_perplexity=tally.original_perplexity)


def _log_softmax(logits: Array) -> Array:
    with np.errstate(invalid="ignore", over="ignore"):
        shifted = logits - logits.max(-1, keepdims=True)
        found: Array = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return found


def _count(tally: Tally, before: Array, now: Array) -> None:
    likely = before > -np.inf  # others have no part in the divergence
    with np.errstate(invalid="ignore"):
        tally.divergence += float((np.exp(before[likely]) * (before[likely] - now[likely])).sum())
    tally.agreed += bool(before.argmax() == now.argmax() and not np.isnan(now).any())
    tally.predictions += 1


def _judge(tally: Tally, before: Array, now: Array, token: int) -> None:
    if 0 <= token < len(before) and math.isfinite(before[token]):
        tally.judged += 1
        tally.before -= float(before[token])
        tally.now -= float(now[token])
