"""Compressed weights on their way through `torch.export`: an operation stands for each, until Core AI's are written.

So they are written as `formats.coreai` writes them in place, in all forms that it knows.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from corepress.formats.coreai.writing import constant, storable

_NUMBERS = itertools.count()
# How coreai-torch calls the operation.
LOWERED = "corepress::stored.default"


@dataclass(frozen=True)
class Stored:
    """A compressed weight: `form` is what is stored, `number` what the operation calls it by."""

    form: Any
    number: int = field(default_factory=lambda: next(_NUMBERS))

    def dense(self) -> Tensor:
        """Its dense value, in a program that is exported."""
        dtype = getattr(torch, str(self.form.dtype))
        found: Tensor = torch.ops.corepress.stored(self.number, list(self.form.shape), dtype)
        return found


@torch.library.custom_op("corepress::stored", mutates_args=())
def _stored(number: int, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    raise AssertionError("a compressed weight is exported, not computed")


@torch.library.register_fake("corepress::stored")  # type: ignore[untyped-decorator]
def _(number: int, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype)


def writer(weights: Mapping[int, Stored]) -> Callable[..., Any]:
    """The rule by which coreai-torch writes the operation; `weights`: by their numbers."""

    def write(values: Any, node: Any, location: Any) -> Any:
        return constant(storable(weights[node.args[0]].form))

    return write
