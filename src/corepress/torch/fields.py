"""The kinds of fields that the configurations of PyTorch models share."""

from __future__ import annotations

from enum import Enum
from typing import Any

from attrs import field

from corepress.errors import ConfigError
from corepress.fields import must_be, value_of, whole


def member(enum: type[Enum], default: str) -> Any:
    """A member of an enumeration, or its name; one of coremltools' of that name will do."""

    def read(value: Any) -> Enum:
        name = str(getattr(value, "name", value))
        if name not in enum.__members__:
            raise ConfigError(f"{value!r} is no {enum.__name__}: known are {', '.join(enum.__members__)}")
        return enum[name]

    return field(default=enum[default], converter=read)


def optional_integer(default: int | None, least: int) -> Any:
    allowed = f"an integer >= {least} or None"
    return value_of(default, allowed, lambda v: v is None or whole(v, least))


def channel_axis() -> Any:
    return field(default=0, validator=must_be("0 or 1", lambda v: v in (0, 1) and whole(v)))
