"""In which floating-point type a program runs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from corepress.errors import ConfigError

_TYPES = {"float32": torch.float32, "float16": torch.float16}
_UNSIGNED = (torch.uint16, torch.uint32, torch.uint64)
_MIL = {"float32": "fp32", "float16": "fp16"}


@dataclass(frozen=True)
class Precision:
    """ "as_is": the types of the program. "float32" or "float16": that one, wherever the program says fp16 or fp32.

    `signed`: unsigned integers of more than 8 bits, with which PyTorch computes little, take part as int64.
    """

    name: str = "as_is"
    signed: bool = False

    def __post_init__(self) -> None:
        if self.name != "as_is" and self.name not in _TYPES:
            raise ConfigError(f'precision must be "as_is", "float32" or "float16", not {self.name!r}')

    def tensor(self, tensor: Tensor) -> Tensor:
        """A tensor in the type in which it takes part."""
        if self.signed and tensor.dtype in _UNSIGNED:
            return tensor.long()
        if self.name == "as_is" or tensor.dtype not in _TYPES.values():
            return tensor
        return tensor.to(_TYPES[self.name])

    def dtype(self, mil: str) -> str:
        """The MIL name of a type, as it takes part."""
        return mil if self.name == "as_is" or mil not in _MIL.values() else _MIL[self.name]
