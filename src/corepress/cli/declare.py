"""Commands of click from functions: the type of a parameter says which option or argument it is.

`nbits: Annotated[int | None, Option(help="Bits of an index.")] = None` becomes the option `--nbits`, and also `--bits`,
for both are names of it (`names.py`). A parameter whose type is a dataclass stands for a group of options, its fields.
typer reads functions in the same way, but takes longer to start than it takes to compress a small model.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin

import click

from corepress.names import API, SHORT


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
        super().__init__(
            function.__name__,
            callback=_grouping(function),
            help=inspect.getdoc(function),
            params=[_parameter(leaf) for parameter in _parameters(function) for leaf in _leaves(parameter)],
        )

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        arguments = [parameter.declared for parameter in self.params if isinstance(parameter, _Positional)]
        if arguments:
            with formatter.section("Arguments"):
                formatter.write_dl([(declared.metavar, declared.help) for declared in arguments])
        super().format_options(ctx, formatter)


class _Positional(click.Argument):
    """A path; `several`: one or more of them, or any number where none is `required`."""

    def __init__(self, name: str, declared: Argument, several: bool, required: bool):
        super().__init__(
            [name], type=_Place(exists=False), metavar=declared.metavar, nargs=-1 if several else 1, required=required
        )
        self.declared = declared


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


class _Text(click.ParamType):  # type: ignore[type-arg]
    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if str(value).startswith("--"):
            self.fail(f"its value is missing: {value} follows", param, ctx)
        return value


class _Place(click.Path):
    def __init__(self, exists: bool):
        super().__init__(exists=exists, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if "\0" in str(value):
            self.fail("a path can't contain a null byte", param, ctx)
        return super().convert(value, param, ctx)


def _parameters(made_from: Callable[..., Any]) -> list[inspect.Parameter]:
    return list(inspect.signature(made_from, eval_str=True).parameters.values())


def _is_group(parameter: inspect.Parameter) -> bool:
    return isinstance(parameter.annotation, type) and is_dataclass(parameter.annotation)


def _leaves(parameter: inspect.Parameter) -> Iterator[inspect.Parameter]:
    """The parameter itself, or the fields of the group that it stands for."""
    if _is_group(parameter):
        yield from _parameters(parameter.annotation)
    else:
        yield parameter


def _grouping(function: Callable[..., None]) -> Callable[..., None]:
    """The function, called with all options one by one."""

    def call(**given: Any) -> None:
        arguments = {}
        for parameter in _parameters(function):
            found = {leaf.name: given[leaf.name] for leaf in _leaves(parameter)}
            arguments[parameter.name] = parameter.annotation(**found) if _is_group(parameter) else found[parameter.name]
        function(**arguments)

    return call


def _parameter(parameter: inspect.Parameter) -> click.Parameter:
    annotation, declared = get_args(parameter.annotation)
    if isinstance(declared, Argument):
        required = parameter.default is parameter.empty
        return _Positional(parameter.name, declared, get_origin(_kind(annotation)) is list, required)
    return _option(parameter, annotation, declared)


def _option(parameter: inspect.Parameter, annotation: Any, declared: Option) -> click.Option:
    kind = _kind(annotation)
    several = get_origin(kind) is list
    flag = _flag(parameter.name)
    both = f"{flag}/--no-{flag.removeprefix('--')}"
    other = SHORT.get(parameter.name) or API.get(parameter.name)
    flags = [*(declared.flags or (both if kind is bool else flag,)), *([_flag(other)] if other else [])]
    required = parameter.default is parameter.empty
    default = None if required else parameter.default
    shown = f"default: {default}" if default is not None and kind is not bool else ""
    facts = [fact for fact in (shown, declared.range) if fact]
    return click.Option(
        [parameter.name, *flags],
        type=None if kind is bool or several else _type(kind, declared),
        is_flag=True if kind is bool else None,  # False would let click leave out the value
        multiple=several,
        metavar=declared.metavar,
        **({"required": True} if required else {"default": default}),
        help=f"{declared.help}  [{'; '.join(facts)}]" if facts else declared.help,
    )


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _kind(annotation: Any) -> Any:
    """The type of a value that is given: of `X | None` that is X."""
    if get_origin(annotation) in (Literal, list):
        return annotation
    return next((part for part in get_args(annotation) if part is not type(None)), annotation)


def _type(kind: Any, declared: Option) -> click.ParamType:  # type: ignore[type-arg]
    if get_origin(kind) is Literal:
        return click.Choice(get_args(kind))
    if issubclass(kind, Path):
        return _Place(declared.exists)
    return _Number(kind, declared) if kind in (int, float) else _Text()
