"""Commands of click from functions: the type of a parameter says which option or argument it is.

`nbits: Annotated[int | None, Option(help="Bits of an index.")] = None` becomes the option `--nbits`. typer reads
functions in the same way, but takes longer to start than it takes to compress a small model.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_origin

import click


class Argument(NamedTuple):
    """Declares a path that is given by its position."""

    metavar: str
    help: str


class Option:
    """Declares an option. `flags`: if none, the name of the parameter, and `--no-` before it for what is true or false.

    `min`, `max`: the least and the greatest number. `exists`: the path must exist.
    """

    def __init__(
        self,
        *flags: str,
        help: str,
        metavar: str | None = None,
        min: float | None = None,
        max: float | None = None,
        exists: bool = False,
    ):
        self.flags, self.help, self.metavar = flags, help, metavar
        self.min, self.max, self.exists = min, max, exists

    @property
    def range(self) -> str:
        """The numbers that are allowed, for people; empty when all are."""
        if self.max is None:
            return "" if self.min is None else f"x>={self.min:g}"
        return f"x<={self.max:g}" if self.min is None else f"{self.min:g}<=x<={self.max:g}"


class Command(click.Command):
    """A command from a function, with a list of arguments in its help."""

    def __init__(self, function: Callable[..., None]):
        parameters = inspect.signature(function, eval_str=True).parameters.values()
        super().__init__(
            function.__name__,
            callback=function,
            help=inspect.getdoc(function),
            params=[_parameter(parameter) for parameter in parameters],
        )

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        arguments = [parameter.declared for parameter in self.params if isinstance(parameter, _Positional)]
        if arguments:
            with formatter.section("Arguments"):
                formatter.write_dl([(declared.metavar, declared.help) for declared in arguments])
        super().format_options(ctx, formatter)


class _Positional(click.Argument):
    def __init__(self, name: str, declared: Argument):
        super().__init__([name], type=_Place(exists=False), metavar=declared.metavar)
        self.declared = declared


class _Word(click.Choice):  # type: ignore[type-arg]
    """One of the words of an enumeration, of which the function gets the member."""

    def __init__(self, kind: type[Enum]):
        super().__init__([member.value for member in kind])
        self.kind = kind

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return self.kind(super().convert(getattr(value, "value", value), param, ctx))


class _Number(click.ParamType):  # type: ignore[type-arg]
    def __init__(self, kind: type[int] | type[float], declared: Option):
        self.kind, self.declared = kind, declared
        self.name = "integer" if kind is int else "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            number = self.kind(value)
        except ValueError:
            self.fail(f"it must be a {'whole ' if self.kind is int else ''}number", param, ctx)
        least, most = self.declared.min, self.declared.max
        # Written so that NaN is refused, too.
        if least is not None and not number >= least:
            self.fail(f"it must be greater than or equal to {least:g}", param, ctx)
        if most is not None and not number <= most:
            self.fail(f"it must be less than or equal to {most:g}", param, ctx)
        return number


class _Place(click.Path):
    def __init__(self, exists: bool):
        super().__init__(exists=exists, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if "\0" in str(value):
            self.fail("a path holds no null byte", param, ctx)
        return super().convert(value, param, ctx)


def _parameter(parameter: inspect.Parameter) -> click.Parameter:
    annotation, declared = get_args(parameter.annotation)
    if isinstance(declared, Argument):
        return _Positional(parameter.name, declared)
    return _option(parameter, annotation, declared)


def _option(parameter: inspect.Parameter, annotation: Any, declared: Option) -> click.Option:
    kind = next((part for part in get_args(annotation) if part is not type(None)), annotation)
    several = get_origin(kind) is list
    flag = f"--{parameter.name.replace('_', '-')}"
    both = f"{flag}/--no-{flag.removeprefix('--')}"
    required = parameter.default is parameter.empty
    default = None if required else getattr(parameter.default, "value", parameter.default)
    shown = f"default: {default}" if default is not None and kind is not bool else ""
    facts = [fact for fact in (shown, declared.range) if fact]
    return click.Option(
        [parameter.name, *(declared.flags or (both if kind is bool else flag,))],
        type=None if kind is bool or several else _type(kind, declared),
        is_flag=True if kind is bool else None,  # False would let click leave out the value
        multiple=several,
        metavar=declared.metavar,
        **({"required": True} if required else {"default": default}),
        help=f"{declared.help}  [{'; '.join(facts)}]" if facts else declared.help,
    )


def _type(kind: Any, declared: Option) -> click.ParamType:  # type: ignore[type-arg]
    if issubclass(kind, Enum):
        return _Word(kind)
    if issubclass(kind, Path):
        return _Place(declared.exists)
    return _Number(kind, declared) if kind in (int, float) else click.STRING
