"""Texts that go on: behind the words of one come parts of others, up to as many as an input has room for.

Samples are mostly shorter than the input, and what is padding there teaches nothing: neither the places behind, nor
attention over many words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corepress.augmenting.tokens import Ids, Vocabulary, flat

Step = Mapping[str, NDArray[Any]]

# How often a text that is put behind another is there as a whole, not in part; and how often all room is taken.
_WHOLE, _FULL = 0.5, 0.5


class Texts:
    """The texts of some samples. `name`: of the input that holds their tokens; `vocabulary`: of this input."""

    def __init__(self, samples: Sequence[Step], name: str, vocabulary: Vocabulary):
        self.name, self.vocabulary = name, vocabulary
        found = [flat(sample[name]) for sample in samples]
        self.words = [words for tokens in found if len(words := tokens[slice(*self._words(tokens))])]

    def longer(self, sample: Step, random: np.random.Generator) -> Step:
        """A sample with more words in the place of padding at its end; masks follow. As it is where there is no room,
        or where it isn't known what an input holds there."""
        tokens = flat(sample[self.name])
        length, (first, last) = len(tokens) - _padding(tokens), self._words(tokens)
        room = len(tokens) - length
        more = self._more(room if random.random() < _FULL else int(random.integers(0, room + 1)), random)
        if not len(more) or first == last or last > length:
            return sample
        tokens[last : length + len(more)] = np.concatenate([more, tokens[last:length]])
        found = {self.name: tokens}
        for name, value in sample.items():
            if name == self.name or value.size != len(tokens):
                continue
            own = value.ravel().copy()
            if (own[:length] != own[0]).any() or (own[length:] != own[-1]).any():
                continue  # such as positions
            own[length : length + len(more)] = own[0]
            found[name] = own
        return {
            name: found[name].reshape(value.shape).astype(value.dtype) if name in found else value
            for name, value in sample.items()
        }

    def _words(self, tokens: Ids) -> tuple[int, int]:
        """Where the words of a text begin and end, without the marks around them and padding."""
        free = np.flatnonzero(self.vocabulary.free(tokens))
        return (int(free[0]), int(free[-1]) + 1) if len(free) else (0, 0)

    def _more(self, count: int, random: np.random.Generator) -> Ids:
        """So many words, of one text after the other."""
        found: list[Ids] = [np.zeros(0, np.int64)]
        while self.words and sum(map(len, found)) < count:
            words = self.words[int(random.integers(len(self.words)))]
            begin, end = (0, len(words)) if random.random() < _WHOLE else sorted(random.integers(0, len(words) + 1, 2))
            found.append(words[begin:end])
        return np.concatenate(found)[:count]


def _padding(tokens: Ids) -> int:
    """How often the last token stands at the end, if more than once."""
    others = np.flatnonzero(tokens != tokens[-1])
    run = len(tokens) - (int(others[-1]) + 1 if len(others) else 0)
    return run if 1 < run < len(tokens) else 0
