"""A program of the runtime as something that can be differentiated."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from corepress.runtime.program import Program
from corepress.runtime.samples import finite_tensors
from corepress.searching.subject import Sample


def outputs_of(stage: Program) -> Callable[[Sample], Sequence[Tensor]]:
    """The function that computes the outputs of a program for a sample, as tensors."""

    def outputs(sample: Sample) -> list[Tensor]:
        given = stage.tensors(finite_tensors(stage.interface.inputs, sample))
        states = stage.make_state() if stage.interface.states else None
        return [result for result in stage.module(*given, states=states) if isinstance(result, Tensor)]

    return outputs
