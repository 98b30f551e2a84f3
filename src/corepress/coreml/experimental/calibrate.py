"""Runs a model on samples and lets observers see its activations."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sized
from typing import Any

from corepress.coreml.engine import Progress
from corepress.coreml.experimental.observers import Observer
from corepress.errors import ConfigError
from corepress.mlprogram import Model


def calibrate(
    model: Model,
    function: str,
    samples: Iterable[Mapping[Any, Any]],
    observers: Mapping[str, Observer],
    *,
    device: str = "cpu",
    workers: int | None = None,
    progress: Progress | None = None,
) -> dict[str, str]:
    """Show the values that a function computes to their `observers`, which are given by name.

    Returns, by name, why a value has no range. Samples are taken one at a time; a stateful model starts each one anew.
    Raises ConfigError, with the number of the sample, for one that does not fit the model or is not finite.
    """
    try:
        import torch

        from corepress.runtime import load
        from corepress.runtime.samples import by_name, finite_tensors
    except ImportError as error:
        raise ConfigError("calibration runs the model with PyTorch: install 'corepress[torch]'") from error
    program = load(model, device, function=function)
    inputs = program.interface.inputs
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

    def run(sample: Mapping[Any, Any]) -> None:
        tensors = finite_tensors(inputs, sample)
        for name, tensor in tensors.items():
            observe(name, tensor)
        program.predict(tensors, program.make_state() if program.interface.states else None, observe)

    total = len(samples) if isinstance(samples, Sized) else 0
    done, threads = 0, torch.get_num_threads()
    torch.set_num_threads(workers or threads)
    try:
        for sample in by_name(samples, program.interface):
            try:
                run(sample)
            except ConfigError as error:
                raise ConfigError(f"sample {done} of sample_data: {error}") from error
            done += 1
            if progress is not None:
                progress(done, total, f"sample {done}")
    finally:
        torch.set_num_threads(threads)
    if not done:
        raise ConfigError("sample_data is empty: at least one {input name: array} is needed")
    reasons = dict.fromkeys(unreached, "calibration never saw it")
    return reasons | dict.fromkeys(broken, "a sample made it NaN or infinite")
