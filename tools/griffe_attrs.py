"""Shows the arguments of configurations in the reference: attrs makes their constructors, which no source has."""

from __future__ import annotations

import importlib
from enum import Enum
from typing import Any

import attrs
import griffe


class Attrs(griffe.Extension):
    """Gives each class of attrs the constructor that it has when it is imported."""

    def on_class(self, *, cls: griffe.Class, **kwargs: Any) -> None:
        if not any(str(decorator.value).startswith("define") for decorator in cls.decorators):
            return
        fields = attrs.fields(getattr(importlib.import_module(cls.module.path), cls.name))
        parameters = [
            griffe.Parameter(field.alias, kind=griffe.ParameterKind.positional_or_keyword, default=default_of(field))
            for field in fields
            if field.init
        ]
        cls.set_member("__init__", griffe.Function("__init__", parameters=griffe.Parameters(*parameters), parent=cls))


def default_of(field: Any) -> str | None:
    """The default of an argument as one writes it; None where there is none."""
    default = field.default
    if default is attrs.NOTHING:
        return None
    if isinstance(default, attrs.Factory):  # type: ignore[arg-type]  # a class, though typed as a function
        return repr(default.factory()) if not default.takes_self else "..."
    if isinstance(default, Enum):
        return repr(default.name.lower())
    return repr(default)
