"""In what form an operation wants its arguments, read off its annotations; and values in that form.

A program may give anything. What does not fit is found here, by the name of the argument, so that whatever else goes
wrong within an operation is not taken for a fault of the program.
"""

from __future__ import annotations

import functools
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Union

import numpy as np
from torch import Tensor

from corepress.errors import FormatError


@dataclass(frozen=True)
class Form:
    """`kinds`: what a value may be: `Tensor`, int, float, bool, str, a class of the runtime's own, or `object` for
    anything. `many`: a sequence of these."""

    kinds: tuple[type, ...]
    many: bool = False

    @property
    def python(self) -> bool:
        """Whether values of Python are wanted, and not tensors as they are."""
        return self.kinds not in ((Tensor,), (object,))

    def describe(self) -> str:
        return " or ".join(_WORDS.get(kind, f"a {kind.__name__}") for kind in self.kinds)


_WORDS: dict[type, str] = {
    Tensor: "a tensor", int: "a whole number", float: "a number", bool: "true or false", str: "text",
}  # fmt: skip
TENSOR, ANY = Form((Tensor,)), Form((object,))
_NUMBERS = (bool, int, float)


@functools.cache
def form_of(hint: Any) -> Form:
    """The form that an annotation asks for; what may be absent (`| None`) has that of what is given."""
    many = typing.get_origin(hint) is Sequence
    if many:
        (hint,) = typing.get_args(hint)
    if typing.get_origin(hint) in (Union, types.UnionType):
        parts = tuple(part for part in typing.get_args(hint) if part is not type(None))
        return form_of(parts[0]) if len(parts) == 1 and not many else Form(parts, many)
    return Form((hint,), many)


def fitted(value: Any, form: Form, what: str) -> Any:
    """A value in a form: the numbers of an array or a tensor as Python's, in row-major order.

    Raises FormatError, which begins with `what`.
    """
    if not form.python and isinstance(value, form.kinds):
        return value
    if isinstance(value, Tensor | np.ndarray):
        if not set(form.kinds) & set(_NUMBERS):
            raise FormatError(f"{what}: {form.describe()} is needed, not numbers")
        if not form.many and int(np.prod(value.shape)) != 1:
            raise FormatError(f"{what}: one number is needed, not {tuple(value.shape)}")
        numbers = value.reshape(-1).tolist()
        value = numbers if form.many else numbers[0]
    if not form.many:
        return _one(value, form, what)
    return [_one(item, form, what) for item in (value if isinstance(value, list | tuple) else [value])]


def _one(value: Any, form: Form, what: str) -> Any:
    # The kind that it has already; or else the one kind of number that is wanted.
    wanted = type(value) if type(value) in form.kinds else next((k for k in form.kinds if k in _NUMBERS), None)
    if isinstance(value, form.kinds) and wanted is not int:
        return value
    if not isinstance(value, _NUMBERS) or wanted is None:
        raise FormatError(f"{what}: {form.describe()} is needed, not {_called(value)}")
    if wanted is int and not (-(2**63) <= value < 2**63 and int(value) == value):
        raise FormatError(f"{what}: a whole number of 64 bits is needed, not {value}")
    return wanted(value)


def _called(value: Any) -> str:
    """What a value is, for people."""
    if isinstance(value, Tensor | np.ndarray):
        return "a tensor"
    if isinstance(value, list | tuple):
        return "a sequence"
    if isinstance(value, str):
        return "text"
    return f"{value}" if isinstance(value, _NUMBERS) else f"a {type(value).__name__}"
