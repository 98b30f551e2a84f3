"""Texts that a language model writes itself: each token is drawn as it is predicted from those before it.

They hold what the model knows of all kinds of texts, not only of those that samples are of (Liu et al. 2023, "LLM-QAT",
arXiv 2305.17888, section 3.1). It takes a model that keeps a state, and reads a token in a step: one that reads a whole
text at once would have to read it again for each token.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corepress.augmenting.tokens import Vocabulary
from corepress.language import Words
from corepress.runtime.runnable import Runnable
from corepress.sequences import Sample, Step, steps_of

# How often a text begins with other words than the sample that it is made of.
_ANEW = 0.5


def logits_of(program: Runnable, words: Words, sample: Sample) -> str | None:
    """The output of a model with a number for each word of its vocabulary after a step; None if there is none."""
    answer = program.predict(steps_of(sample)[0], program.make_state())
    return next((name for name, value in answer.items() if np.shape(value)[-1:] == (words.vocabulary,)), None)


def written(
    program: Runnable, words: Words, vocabulary: Vocabulary, sample: Sample, random: np.random.Generator
) -> tuple[Step, ...]:
    """A sequence of the steps of another, whose tokens are drawn from some step on, if it reads one token there.

    `words`: of the model, with its output of logits. `vocabulary`: which words may begin a text.
    """
    steps = [dict(step) for step in steps_of(sample)]
    if random.random() < _ANEW:
        steps[0][words.tokens] = vocabulary.varied(steps[0][words.tokens], 1.0, random)
        first = 1
    else:
        first = int(random.integers(1, max(2, len(steps))))
    state = program.make_state()
    for place, step in enumerate(steps[:-1]):
        answer = program.predict(step, state)
        tokens = steps[place + 1][words.tokens]
        if place + 1 >= first and tokens.size == 1:
            steps[place + 1][words.tokens] = np.full_like(tokens, _drawn(answer, words, int(tokens.flat[0]), random))
    return tuple(steps)


def _drawn(answer: Mapping[str, Any], words: Words, otherwise: int, random: np.random.Generator) -> int:
    """The token after a step; the one `otherwise` where what the model answers is not a number."""
    assert words.logits is not None
    logits: NDArray[np.float64] = np.asarray(answer[words.logits], np.float64).reshape(-1, words.vocabulary)[-1]
    if np.isnan(logits).any() or logits.max() == np.inf:
        return otherwise
    sums = np.exp(logits - logits.max()).cumsum()
    return int(np.searchsorted(sums, random.random() * sums[-1], side="right"))
