"""Splits samples in two: those to learn from, and those to judge by, which must be others."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import TypeVar

import numpy as np

from corepress.errors import ConfigError
from corepress.sequences import Sample, steps_of

Given = TypeVar("Given", bound=Sample)

# Of the distinct samples: enough to see a bad fit by, and the fit hardly misses them.
HELD_BACK = 0.2
# The mean over n samples strays from that over all inputs by 1 / sqrt(n) of their spread: by 18 % at 30.
FEW = 30


def hold_back(samples: Iterable[Given], part: float = HELD_BACK) -> tuple[list[Given], list[Given]]:
    """Split samples into those to learn from and those to judge by.

    Equal samples go to the same list, so that nothing is judged by what was learnt. Which ones are held back depends on
    what they hold, not on their order; both lists keep the order.

    Args:
        samples: Dictionaries of {input name: array}, or sequences, lists of such steps, which stay whole.
        part: How much of the distinct samples is held back, from 0 to below 1, rounded down; by default a fifth, and of
            fewer than five none.

    Returns:
        Two lists: those to learn from, and those held back.

    Raises:
        ConfigError: For another part, and for a sample that is no dictionary.

    Examples:
        >>> samples = [{"image": image} for image in np.load("samples.npz")["image"]]
        >>> learnt, judged = cto.hold_back(samples)
        >>> len(learnt), len(judged)
        (16, 4)
    """
    if not 0 <= part < 1:
        raise ConfigError(f"the part of the samples to hold back must be from 0 to below 1, not {part}")
    given = list(samples)
    digests = [digest(sample, number) for number, sample in enumerate(given)]
    distinct = sorted(set(digests))
    # A little more, for 0.29 * 100 is 28.999999999999996.
    held = set(distinct[: int(part * len(distinct) + 1e-9)])
    pairs = list(zip(given, digests, strict=True))
    return [s for s, known in pairs if known not in held], [s for s, known in pairs if known in held]


def digest(sample: Sample, number: int = 0) -> bytes:
    """Equal for samples that hold the same, whether as arrays, tensors, images or numbers.

    `number`: of the sample, for the ConfigError if it is no dictionary, and no list of them.
    """
    found = hashlib.sha256()
    for place, step in enumerate(steps_of(sample) if isinstance(sample, Mapping | list | tuple) else [sample]):
        if not isinstance(step, Mapping):
            kind = type(step).__name__
            wanted = "a dictionary of {input name: array}"
            raise ConfigError(f"sample {number} of sample_data must be {wanted}, not a {kind}")
        if place:
            found.update(b"step")
        for name in sorted(step, key=str):
            value = step[name]
            array = np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
            found.update(f"{name} {array.dtype} {array.shape} ".encode())
            found.update(repr(value).encode() if array.dtype.hasobject else np.ascontiguousarray(array).tobytes())
    return found.digest()
