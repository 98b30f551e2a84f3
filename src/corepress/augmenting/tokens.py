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
# Of the tokens that are drawn, how many come from the samples; the others are any of the vocabulary, alike.
_FROM_SAMPLES = 0.5


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
        free = self.free(tokens)
        places = np.flatnonzero(free & (random.random(len(tokens)) < share))
        drawn = random.integers(0, self.high + 1, len(places))
        if len(self.words):
            known = random.random(len(places)) < _FROM_SAMPLES
            drawn[known] = random.choice(self.words, int(known.sum()))
        tokens[places] = drawn
        return tokens.reshape(value.shape).astype(value.dtype)
