"""Sequences of tokens that no text holds: drawn from the samples' tokens and from the whole vocabulary.

What a layer meets is above all which tokens there are, not their order: random ones show it directions that few samples
lack.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corepress.runtime.domains import Domain

Ids = NDArray[np.int64]

# What is in so many of the samples marks where a text begins or ends.
_IN_MOST = 0.9
# Of the tokens that are drawn, how many come from the samples; the others are any of the vocabulary.
_FROM_SAMPLES = 0.5
# How many times as often the first token of a vocabulary is drawn as the last one, less one: vocabularies list
# frequent ones first, and frequency falls as 1 / (place + offset) (Mandelbrot 1953).
_FEW_MORE = 30


def token_inputs(domains: Mapping[str, Domain], samples: Sequence[Mapping[str, NDArray[Any]]]) -> dict[str, int]:
    """The inputs that hold tokens, with the greatest one: rows of the largest table that inputs are looked up in.

    Smaller tables are of positions and kinds, which must stay; so must what merely counts up.
    """
    rows = {name: int(domain.high) for name, domain in domains.items() if domain.kind == "index"}
    return {
        name: high
        for name, high in rows.items()
        if high == max(rows.values()) and not all(_counts_up(sample[name]) for sample in samples)
    }


def _counts_up(value: NDArray[Any]) -> bool:
    return value.ndim > 0 and value.shape[-1] > 1 and bool((np.diff(value, axis=-1) == 1).all())


def flat(value: NDArray[Any]) -> Ids:
    """A copy of the tokens of an input, one after the other."""
    return np.array(value, np.int64).ravel()


class Vocabulary:
    """The tokens of an input in some samples, and those that it may hold: 0 to `high`."""

    def __init__(self, values: Iterable[NDArray[Any]], high: int):
        sequences = [flat(value) for value in values]
        found = [np.unique(sequence) for sequence in sequences]
        tokens, counts = np.unique(np.concatenate(found), return_counts=True)
        self.high = high
        # Of few samples all may share a word, which stays, too: no harm.
        self.marks = tokens[counts >= max(2, _IN_MOST * len(sequences))]
        self.words = np.concatenate([sequence[self.free(sequence)] for sequence in sequences])

    def free(self, tokens: Ids) -> NDArray[np.bool_]:
        """Which tokens are words: no marks, and no padding, which repeats up to an end."""
        free: NDArray[np.bool_] = ~np.isin(tokens, self.marks)
        for sequence, own in ((tokens, free), (tokens[::-1], free[::-1])):
            others = np.flatnonzero(sequence != sequence[:1])
            run = int(others[0]) if len(others) else len(sequence)
            if 1 < run < len(sequence):
                own[:run] = False
        return free

    def varied(self, value: NDArray[Any], share: float, random: np.random.Generator) -> NDArray[Any]:
        """A sequence with this share of its words replaced by others."""
        tokens = flat(value)
        places = np.flatnonzero(self.free(tokens) & (random.random(len(tokens)) < share))
        tokens[places] = self._repeated(len(places), random)
        return tokens.reshape(value.shape).astype(value.dtype)

    def _repeated(self, count: int, random: np.random.Generator) -> Ids:
        """So many words, of which some are the same: anything between all and none, as likely on a scale of logarithms.
        Every other time those that are the same follow each other, as in lines of dashes."""
        words = self._drawn(int((count + 1) ** random.random()), random)
        chosen = random.integers(0, len(words), count)
        return words[np.sort(chosen) if random.random() < 0.5 else chosen]

    def _drawn(self, count: int, random: np.random.Generator) -> Ids:
        """So many words, each by itself."""
        offset = (self.high + 1) / _FEW_MORE
        found = (offset * ((1 + _FEW_MORE) ** random.random(count) - 1)).astype(np.int64)
        if len(self.words):
            known = random.random(count) < _FROM_SAMPLES
            found[known] = random.choice(self.words, int(known.sum()))
        return np.minimum(found, self.high)
