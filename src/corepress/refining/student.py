"""The compressed program as something that learns, and the original beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from corepress.algorithms.learned.stored import Learned, learned
from corepress.errors import ConfigError, CorepressError
from corepress.formats.mlprogram import Model, Weight
from corepress.runtime.executor import Run
from corepress.runtime.plan import Block
from corepress.runtime.program import Program

# Arguments that hold a number for each channel, by the operations that read them.
_CHANNELS = {
    "linear": ("bias",), "conv": ("bias",), "conv_transpose": ("bias",), "layer_norm": ("gamma", "beta"),
    "batch_norm": ("gamma", "beta"), "instance_norm": ("gamma", "beta"),
}  # fmt: skip
_FLOATS = ("fp16", "fp32", "float16", "float32")


@dataclass(frozen=True)
class Part:
    """A constant that learns: the weights that share its data, the buffers of the program, and the module."""

    weights: tuple[Weight, ...]
    buffers: tuple[str, ...]
    module: Learned


class Batched:
    """Runs a program on several samples at once, with some constants replaced."""

    def __init__(self, program: Program, plan: Block, names: Sequence[str]):
        self.program, self.plan, self.names = program, plan, tuple(names)
        self._at_once = True

    def __call__(self, inputs: Sequence[Tensor], constants: Mapping[str, Tensor]) -> list[Tensor]:
        """The outputs and the named values of a batch: each of `inputs` has the samples along its first axis."""
        held = {**self.program.module.constants(), **constants}

        def one(*given: Tensor) -> tuple[Tensor, ...]:
            seen: dict[str, Any] = {}
            wanted = set(self.names)

            def observe(name: str, value: Any) -> None:
                if name in wanted:
                    seen[name] = value

            run = Run(held, self.program.make_state(), observe)
            outputs = run.block(self.plan, dict(zip(self.plan.inputs, given, strict=True)))
            return (*outputs, *(seen[name] for name in self.names))

        if self._at_once and len(inputs[0]) > 1:
            try:
                return list(torch.vmap(one)(*inputs))
            except (CorepressError, RuntimeError):
                self._at_once = False
        answers = [one(*(tensor[i] for tensor in inputs)) for i in range(len(inputs[0]))]
        return [torch.stack(found) for found in zip(*answers, strict=True)]
