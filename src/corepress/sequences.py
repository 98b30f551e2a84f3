"""Samples: inputs by name, or a sequence of such steps, which a model with a state takes one after the other.

A decoder with a cache is used so: a first step reads several tokens, and each step after it one more, with the state
that the step before left.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

Step = Mapping[str, Any]
Sample = Step | Sequence[Step]
Own = TypeVar("Own")

# What is said where a model with a state gets no sequence.
ALONE = (
    "the model keeps a state, and each sample is a single step from an empty state, which the app meets only once: "
    "give sequences of steps"
)


def steps_of(sample: Sample) -> tuple[Step, ...]:
    """The steps of a sample; inputs by name are the only one."""
    return (sample,) if isinstance(sample, Mapping) else tuple(sample)


def each_step(samples: Iterable[Sample]) -> Iterator[Step]:
    """The steps of all samples, in order."""
    for sample in samples:
        yield from steps_of(sample)


def number_of_each_step(samples: Iterable[Sample]) -> list[int]:
    """For each step of all samples, in order, the number of its sample."""
    return [number for number, sample in enumerate(samples) for _ in steps_of(sample)]


def like(sample: Sample, steps: Sequence[Own]) -> Own | tuple[Own, ...]:
    """Something for each step of a sample, in the sample's form."""
    return steps[0] if isinstance(sample, Mapping) else tuple(steps)


def only_single_steps(samples: Iterable[Sample]) -> bool:
    """Whether none of the samples goes on after its first step."""
    return all(len(steps_of(sample)) == 1 for sample in samples)
