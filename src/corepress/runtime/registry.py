"""The operations that the runtime knows: each is a small function of tensors under its MIL name.

The annotations of a function say in what form it wants its arguments (`forms.py`). `Tensor` arguments arrive as
tensors. Arguments of Python types (`int`, `float`, `bool`, `str`, `Ints`, `Floats`, `Bools`) arrive as such: converted
once where they are constants of the program, as nearly all are, and on each call where they are computed. An absent
argument takes the function's default, which is the one of the MIL documentation.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from google.protobuf.message import DecodeError

from corepress.opsets import KNOWN
from corepress.runtime.forms import Form, form_of

Ints = Sequence[int]
Floats = Sequence[float]
Bools = Sequence[bool]

F = TypeVar("F", bound=Callable[..., Any])

# What PyTorch and Python raise where the values of a program do not fit its operations. Arguments have the form that is
# wanted, so an AttributeError, a TypeError or a KeyError is a mistake in corepress, and stays what it is.
FAULTS = (RuntimeError, ValueError, IndexError, ArithmeticError, DecodeError)


@dataclass(frozen=True)
class Operation:
    """`function` computes the outputs: a tensor, or a tuple where the operation has several. `forms`: those of its
    arguments; `required`: the names of those without a default. `product`: whether its results are sums of products,
    which a CPU computes in float32 (`wide.py`)."""

    name: str
    function: Callable[..., Any]
    forms: dict[str, Form]
    required: tuple[str, ...]
    product: bool


OPERATIONS: dict[str, Operation] = {}
CORE_AI: dict[str, Operation] = {}
"""The operations of Core AI programs, by Core AI's own names (`ops/core_ai`)."""


def operation(function: F) -> F:
    """Register a function as the operation of its name (a trailing underscore is dropped), which `opsets.py` knows."""
    name = function.__name__.rstrip("_")
    assert name not in OPERATIONS, name
    OPERATIONS[name] = _described(name, function, product=bool(KNOWN[name].sums))
    return function


def core_ai(*names: str, product: bool = False) -> Callable[[F], F]:
    """Register a function as those operations of Core AI."""

    def register(function: F) -> F:
        for name in names:
            assert name not in CORE_AI, name
            CORE_AI[name] = _described(name, function, product)
        return function

    return register


def _described(name: str, function: Callable[..., Any], product: bool) -> Operation:
    hints = typing.get_type_hints(function)
    parameters = inspect.signature(function).parameters
    forms = {key: form_of(hints[key]) for key in parameters}
    required = tuple(key for key, parameter in parameters.items() if parameter.default is parameter.empty)
    return Operation(name, function, forms, required, product)
