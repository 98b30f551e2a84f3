"""Calls of a module with the batches of a caller, and what is said of batches that it can't take."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from corepress.errors import ConfigError, CorepressError

Device = str | torch.device | None
# The arguments of a call by their names, or their numbers.
Batch = dict[str, Any]
# Takes, of what a module returns, what counts: a tensor, or several in a tuple, list or dictionary.
Outputs = Callable[[Any], Any]
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


def samples_of(data: Iterable[Any]) -> list[Batch]:
    """Batches of a module's input, as dictionaries: of keyword arguments by name, of others by their number.

    `data`: of each batch a tensor, a tuple or list of arguments, or a dictionary of keyword arguments.
    """
    calls = [Call.of(batch) for batch in data]
    for number, call in enumerate(calls):
        for name, value in call.by_name().items():
            if isinstance(value, torch.Tensor) and bool(torch.isnan(value).any()):
                raise ConfigError(f"batch {number}: the input {name!r} holds values that are not a number")
    return [{**{str(number): value for number, value in enumerate(call.args)}, **call.kwargs} for call in calls]


def called(sample: Mapping[str, Any]) -> Call:
    """The arguments that a sample of `samples_of` stands for."""
    numbers = sorted((name for name in sample if name.isdecimal()), key=int)
    kwargs = {name: value for name, value in sample.items() if not name.isdecimal()}
    return Call(tuple(sample[number] for number in numbers), kwargs)


def tensors_of(module: nn.Module, batch: Mapping[str, Any], outputs: Outputs | None = None) -> dict[str, torch.Tensor]:
    """The tensors that a module answers to a batch of `samples_of`, by name. `outputs`: takes what counts."""
    answer = called(batch).answer(module)
    found = named(answer if outputs is None else outputs(answer), "output")
    tensors = {name: value for name, value in found.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        raise ConfigError("the module returns no tensor: let outputs= take one from what it returns")
    return tensors


def named(answer: Any, name: str) -> dict[str, Any]:
    """What a module returns, by names: its own for a dictionary, `name` for a tensor, numbers in a tuple or list."""
    if isinstance(answer, Mapping):
        entries: Iterable[tuple[str, Any]] = ((str(key), value) for key, value in answer.items())
    elif isinstance(answer, (tuple, list)):
        entries = ((str(number), value) for number, value in enumerate(answer))
    else:
        return {name: answer}
    found: dict[str, Any] = {}
    for key, value in entries:
        inner = named(value, "")
        found |= {f"{key}.{below}" if below else key: tensor for below, tensor in inner.items()}
    return found


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
