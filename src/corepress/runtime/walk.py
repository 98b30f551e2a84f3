"""Runs a program on several samples at once, operation by operation, so that constants can change on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from corepress.errors import ConfigError
from corepress.runtime.executor import Run
from corepress.runtime.program import Program
from corepress.runtime.samples import finite_tensors

# Called before each operation with the arguments that it has in each sample; may return new values for constants that
# it reads, by the name of the argument.
Visit = Callable[..., Mapping[str, Tensor]]


@torch.no_grad()
def walk(program: Program, samples: Iterable[Mapping[str, Any]], visit: Visit, *, beside: bool = False) -> int:
    """Show `visit` every operation of a program in order, outside of loops and branches.

    `samples`: inputs by name. All values that are still needed are kept for all samples. A stateful model starts each
    sample anew. A constant that `visit` changes is changed from this operation on; the program itself stays as it is.
    `beside`: the unchanged program runs next to it, and `visit` also gets the arguments that the operation has there.
    Returns the number of samples. Raises ConfigError, with the number of the sample, for one that does not fit.
    """
    plan, held = program.module.plan, program.module.constants()

    def new_states() -> dict[str, Tensor]:
        return program.make_state() if program.interface.states else {}

    runs: list[Run] = []
    values: list[dict[str, Any]] = []
    for sample in samples:
        try:
            tensors = finite_tensors(program.interface.inputs, sample)
        except ConfigError as error:
            raise ConfigError(f"sample {len(runs)} of sample_data: {error}") from error
        runs.append(Run(held, new_states(), None))
        values.append({name: program.precision.tensor(tensors[name]).to(program.device) for name in plan.inputs})
    pairs = list(zip(runs, values, strict=True))
    originals = [(Run(dict(held), new_states(), None), dict(own)) for own in values] if beside else []
    for step in plan.steps:
        if runs and step.function is not None:
            streams = (pairs, originals) if beside else (pairs,)
            changed = visit(step, *([run.arguments(step, own) for run, own in stream] for stream in streams))
            held.update({name: changed[key] for key, name in step.held if key in changed})
        for run, own in pairs + originals:
            run.step(step, own)
    return len(runs)
