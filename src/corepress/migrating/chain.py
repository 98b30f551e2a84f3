"""The programs of a function as one module for `torch.export`: those of a pipeline in turn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from corepress.formats.features import Feature
from corepress.migrating.exportable import Exportable, Without
from corepress.migrating.functions import Function


class Chain(nn.Module):
    """`forward` takes the inputs of a function in order, and returns its outputs in order; states are buffers.

    Args:
        function: The function.
        without: By the name of a stage, what can't be exported of it; without, the first of it is an error.
    """

    def __init__(self, function: Function, without: Mapping[str, Without] | None = None):
        super().__init__()
        self.inputs, self.outputs = function.inputs, function.outputs
        self.programs = {name: stage.program for name, stage in function.stages.items()}
        self.parts = nn.ModuleList(
            Exportable(stage.program.module, stage.forms, stage.program.make_state(), (without or {}).get(name))
            for name, stage in function.stages.items()
        )

    def _prefix(self, stage: str) -> str:
        """What `Pipeline` puts before the names of a stage."""
        return f"{stage}/" if len(self.programs) > 1 else ""

    def forward(self, *inputs: Tensor) -> tuple[Any, ...]:
        """See the class."""
        if len(self.parts) == 1:
            found: tuple[Any, ...] = self.parts[0](*inputs)
            return found
        values: dict[str, Tensor] = dict(zip(self.inputs, inputs, strict=True))
        described: dict[str, Feature] = {}
        for program, part in zip(self.programs.values(), self.parts, strict=True):
            features = {feature.name: feature for feature in program.interface.inputs}
            given = [
                program.precision.tensor(_handed_on(values.get(name), described.get(name), features[name]))
                for name in program.module.plan.inputs
            ]
            values |= zip(program.module.plan.output_names, part(*given), strict=True)
            described |= {feature.name: feature for feature in program.interface.outputs}
        return tuple(values[name] for name in self.outputs)

    def state_buffers(self) -> dict[str, str]:
        """The names of the states, by the name of their buffer; in a pipeline with that of their stage before it."""
        found: dict[str, str] = {}
        for number, (name, part) in enumerate(zip(self.programs, self.parts, strict=True)):
            own = part.state_buffers()  # type: ignore[operator]
            found |= {f"parts.{number}.{buffer}": self._prefix(name) + state for buffer, state in own.items()}
        return found


def _handed_on(value: Tensor | None, given: Feature | None, taken: Feature) -> Tensor:
    """What one stage gives, or the caller, as another takes it: pictures have 256 levels, and an order of colors."""
    wanted = torch.from_numpy(np.empty(0, taken.dtype)).dtype
    if value is None:
        assert taken.default is not None  # or else no pipeline would have been made of the stages
        return torch.full(taken.shape, taken.default, dtype=wanted)
    if given is not None and given.kind == "image":
        value = value.reshape(taken.shape) if value.ndim == 3 else value
        value = value if "float16" in given.color else value.round().clamp(0, 255)
        value = value.flip(-3) if {given.color, taken.color} == {"rgb", "bgr"} else value
    elif given is not None:
        value = value.to(torch.from_numpy(np.empty(0, given.dtype)).dtype)
    return value.to(wanted)
