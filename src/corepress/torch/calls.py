"""Calls of a module with the batches of a caller, and what is said of batches that it can't take."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from corepress.errors import ConfigError, CorepressError

Device = str | torch.device | None
# What PyTorch raises for arguments of a wrong shape, type, number or name.
_MISFITS = (TypeError, ValueError, RuntimeError, LookupError, AttributeError, AssertionError)


@dataclass
class Call:
    """The arguments of one call of a module."""

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, batch: Any, kwargs: Mapping[str, Any] | None = None) -> Call:
        """From a batch: a tensor, a tuple or list of arguments, a dictionary of keyword arguments, or a Call."""
        if isinstance(batch, Call):
            return batch
        if isinstance(batch, Mapping):
            return cls((), {**batch, **(kwargs or {})})
        return cls(tuple(batch) if isinstance(batch, (tuple, list)) else (batch,), dict(kwargs or {}))

    def to(self, device: Device) -> Call:
        return Call(moved(self.args, device), moved(self.kwargs, device))

    def answer(self, module: nn.Module) -> Any:
        """What a module answers. ConfigError where it can't take the arguments; it names them, with their shapes."""
        given = Call(copied(self.args), copied(self.kwargs))  # a module may work in place
        with said_of_batch("the model can't be run on a batch of", self.by_name(module)):
            return module(*given.args, **given.kwargs)

    def by_name(self, module: nn.Module | None = None) -> dict[str, Any]:
        """The arguments by the names that the module has for them; by their numbers where it has none."""
        names: list[str] = []
        if module is not None:
            with contextlib.suppress(TypeError, ValueError):
                names = list(inspect.signature(module.forward).bind_partial(*self.args).arguments)
        if len(names) < len(self.args):
            names = [str(number) for number in range(len(self.args))]
        return {**dict(zip(names, self.args, strict=False)), **self.kwargs}


@contextlib.contextmanager
def said_of_batch(what: str, arguments: Mapping[str, Any], advice: str = "") -> Iterator[None]:
    """An error from inside becomes a ConfigError with the shapes of the arguments, between `what` and `advice`."""
    try:
        yield
    except (CorepressError, torch.OutOfMemoryError):
        raise
    except _MISFITS as error:
        if "allocate memory" in str(error) or "not enough memory" in str(error):
            raise
        given = ", ".join(f"{name!r} {_described(value)}" for name, value in arguments.items())
        raise ConfigError(f"{what} {given or 'no arguments'}: {error}{advice}") from error


def _described(value: Any) -> str:
    """Type and shape of a tensor, such as "float32 4x32"; of anything else what it is."""
    if not isinstance(value, torch.Tensor):
        return f"({type(value).__name__})"
    return f"{str(value.dtype).removeprefix('torch.')} {'x'.join(map(str, value.shape)) or 'scalar'}"


def moved(value: Any, device: Device) -> Any:
    """The same with all tensors, also those in tuples, lists and dictionaries, on a device; None: where they are."""
    return value if device is None else _each(value, lambda tensor: tensor.to(device))


def copied(value: Any) -> Any:
    """The same with copies of all tensors, also of those in tuples, lists and dictionaries."""
    return _each(value, torch.Tensor.clone)


def _each(value: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        return change(value)
    if type(value) in (tuple, list):
        return type(value)(_each(item, change) for item in value)
    if type(value) is dict:
        return {key: _each(item, change) for key, item in value.items()}
    return value
