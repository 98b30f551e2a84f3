"""What the table of words of a model tells about them: which ones training never met, and which ones are alike.

Samples hold a small part of a vocabulary. Words that a model takes for alike stand in the same places of texts, so that
one put for another makes a text that no sample holds, and that could be one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Rows are alike from this cosine on, less the mean of all rows: of MiniLM a word has 5 such, and an unused one 2,000.
_ALIKE = 0.5
# Of the rows, so many are looked at to find those that many are alike.
_LOOKED_AT = 1024
# Rows that are alike more than this part of all: what training never met stays as it was drawn, or decays to one row.
_MANY = 0.02
# Longer rows are projected to so many numbers, and in parts of so many rows: a table of a large model is larger than
# what else is in memory. Cosines stay but for 1 / sqrt(768), 0.04.
_NUMBERS, _PART = 768, 4096
# Words whose cosines to all others are in memory at once.
_TOGETHER = 64


class Rows:
    """The rows of a table of words, (words, numbers). `marks`: words that are never put for others."""

    def __init__(self, table: NDArray[Any], marks: NDArray[np.int64]):
        self._rows = _directions(table)
        self._near: dict[int, NDArray[np.int64]] = {}  # by word
        some = self._rows[np.linspace(0, len(table) - 1, min(_LOOKED_AT, len(table))).astype(np.int64)]
        met = (self._rows @ some.T > _ALIKE).sum(1) <= max(1, _MANY * len(some))
        # Where most seem to be unmet, they are not: then the table is of another kind.
        met |= met.mean() < 0.5
        met[marks[marks < len(met)]] = False
        self.met = np.flatnonzero(met)

    def near(self, words: Sequence[int], count: int) -> list[NDArray[np.int64]]:
        """To each word so many others that are nearest to it, of those that training met, in no order; the word itself
        where there are none."""
        new = sorted({*words} - self._near.keys())
        for first in range(0, len(new), _TOGETHER):
            some = new[first : first + _TOGETHER]
            self._near |= {
                word: self._nearest(word, likeness, count)
                for word, likeness in zip(some, self._rows[some] @ self._rows.T, strict=True)
            }
        return [self._near[word] for word in words]

    def _nearest(self, word: int, likeness: NDArray[np.float32], count: int) -> NDArray[np.int64]:
        others = self.met[self.met != word]
        count = min(count, len(others))
        if not count:
            return np.array([word], np.int64)
        nearest: NDArray[np.int64] = others[np.argpartition(-likeness[others], count - 1)[:count]]
        return nearest


def _directions(table: NDArray[Any]) -> NDArray[np.float32]:
    """The rows less their mean, of length 1, float32."""
    numbers = table.shape[1]
    mean = table.mean(0, dtype=np.float32)
    mix = np.random.default_rng(0).normal(size=(numbers, _NUMBERS)).astype(np.float32) if numbers > _NUMBERS else None
    found = np.empty((len(table), min(numbers, _NUMBERS)), np.float32)
    for first in range(0, len(table), _PART):
        part = table[first : first + _PART].astype(np.float32) - mean
        part = part if mix is None else part @ mix
        found[first : first + _PART] = part / np.linalg.norm(part, axis=1, keepdims=True).clip(1e-12)
    return found
