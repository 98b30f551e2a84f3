"""Runs a model on samples and lets observers see its activations."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sized
from typing import TYPE_CHECKING, Any

from corepress.coreml.activations.observers import Observer
from corepress.engine import Progress
from corepress.errors import ConfigError, importing
from corepress.formats.mlprogram import Model
from corepress.sequences import Sample, Step, steps_of

if TYPE_CHECKING:
    from corepress.runtime import Runnable


def runnable(model: Model, function: str | None, device: str) -> tuple[Runnable, list[str]]:
    """The model ready to run, and the names of the functions that run: that of each stage of a pipeline, as nodes and
    weights have it."""
    with importing("calibration, which runs the model,"):
        from corepress.runtime.load import observable
        from corepress.runtime.walk import each_program
    program = observable(model, device, function)
    return program, [name for name, _, _ in each_program(program, [])]


def calibrate(
    program: Runnable,
    samples: Iterable[Sample],
    observers: Mapping[str, Observer],
    *,
    workers: int | None = None,
    progress: Progress | None = None,
    warns: bool = False,
) -> dict[str, str]:
    """Show the values that a program computes to their `observers`, which are given by name; names of values in a stage
    of a pipeline begin with that of the stage and "/".

    Returns, by name, why a value has no range. Samples are taken one at a time; a stateful model starts each one anew,
    and carries its state from step to step. `warns`: say so where it is given single steps only. Raises ConfigError,
    with the number of the sample, for one that does not fit the model or is not finite.
    """
    import torch

    from corepress.runtime.samples import checked

    unreached, broken = set(observers), set()

    def observe(name: str, value: Any) -> None:
        if name not in observers or not value.numel():
            return
        values = value.detach().float().cpu()  # float16 is slow in NumPy
        low, high = (float(end) for end in values.aminmax())
        unreached.discard(name)
        if math.isfinite(low) and math.isfinite(high):
            observers[name].update(values.numpy(), low, high)
        else:
            broken.add(name)

    total = len(samples) if isinstance(samples, Sized) else 0
    done, threads = 0, torch.get_num_threads()
    torch.set_num_threads(workers or threads)
    try:
        for sample in checked(samples, program.interface, finite=True, warns=warns):
            try:
                state = _empty(program)
                for step in steps_of(sample):
                    _run(program, step, observe, state)
            except ConfigError as error:
                raise ConfigError(f"sample {done} of sample_data: {error}") from error
            done += 1
            if progress is not None:
                progress(done, total, f"sample {done}")
    finally:
        torch.set_num_threads(threads)
    reasons = dict.fromkeys(unreached, "no sample reached it")
    return reasons | dict.fromkeys(broken, "a sample made it NaN or infinite")


# The states of a program, or by name those of the stages of a pipeline.
_States = dict[str, Any]


def _empty(program: Runnable) -> _States:
    from corepress.runtime.stages.pipeline import Pipeline

    if isinstance(program, Pipeline):
        return {name: _empty(stage) for name, stage in program.stages.items()}
    return program.make_state()


def _run(
    program: Runnable, step: Step, observe: Callable[[str, Any], None], state: _States, prefix: str = ""
) -> Mapping[str, Any]:
    """What a program, or a stage of a pipeline, answers; its inputs are observed, too. `state`, which is changed."""
    from corepress.runtime.samples import finite_tensors
    from corepress.runtime.stages.pipeline import Pipeline

    tensors = finite_tensors(program.interface.inputs, step)
    if isinstance(program, Pipeline):
        values = {**tensors, **step}
        for name, stage in program.stages.items():
            values |= _run(stage, program.inputs_of(stage, values), observe, state[name], f"{prefix}{name}/")
        return values
    for name, tensor in tensors.items():
        observe(prefix + name, tensor)
    return program.predict(tensors, state, lambda name, value: observe(prefix + name, value))
