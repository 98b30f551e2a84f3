"""Programs of the runtime as what a search differentiates, and lets compute with other values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from corepress.runtime.program import Program
from corepress.runtime.walk import outputs_in_steps
from corepress.searching.subject import Array, Part, Place
from corepress.sequences import Sample

# By the name of its function or stage, where a program holds the tensors of the items.
Leaves = Mapping[str, Mapping[Place, Sequence[Tensor]]]


def part_of(program: Program, leaves: Mapping[Place, Sequence[Tensor]], samples: Sequence[Sample]) -> Part:
    """A program as a `Part`, with its inputs."""

    def outputs(sample: Sample) -> list[Tensor]:
        """Each output; of a sequence those of all steps."""
        steps = [
            [result for result in step if isinstance(result, Tensor)] for step in outputs_in_steps(program, sample)
        ]
        if len(steps) == 1:
            return steps[0]
        return [torch.cat([value.reshape(-1) for value in output]) for output in zip(*steps, strict=True)]

    return Part(outputs, leaves, list(samples))


def put(leaves: Leaves, place: Place, dense: Array) -> None:
    """Let all programs compute with another value of a tensor from now on."""
    for own in leaves.values():
        for leaf in own.get(place, ()):
            leaf.copy_(torch.from_numpy(np.ascontiguousarray(dense, np.float32)))
