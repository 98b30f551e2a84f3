"""Constants of a package that may get other values, and the package with these."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from corepress.coreml.choose import FLOATS
from corepress.coreml.rewrite import rewrite
from corepress.engine import Skip
from corepress.formats.mlprogram import Model, Weight
from corepress.runtime.program import Program


def plain_constants(model: Model, program: Program, function: str) -> dict[str, Weight]:
    """The plain weights of the function whose numbers nothing else shares, by the name of their buffer."""
    everything = model.weights()
    holders = Counter(weight.key for weight in everything)
    return {
        program.constants[weight.output]: weight
        for weight in everything
        if weight.function == function
        and weight.output in program.constants
        and holders[weight.key] == 1
        and not (weight.compression or weight.is_output or weight.argument)
        and weight.dtype in FLOATS
    }


def with_constants(model: Model, values: Mapping[tuple[str, str], Tensor]) -> Model:
    """The model with other values for some constants, by their functions and the names of their outputs."""

    def choose(weight: Weight) -> Callable[[Weight], Any]:
        if (weight.function, weight.output) not in values:
            raise Skip("its value stays", quiet=True)
        value = values[weight.function, weight.output].cpu().numpy().astype(weight.dtype)
        return lambda _: value

    result = rewrite(model, choose)
    result.skipped = dict(model.skipped)
    return result
