"""The kinds of fields that configurations are made of; each checks its value and says what is allowed.

cattrs and PyYAML are imported on first use: only configurations from dictionaries and files need them.
"""

from __future__ import annotations

import difflib
import functools
import logging
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import IO, Any, TypeVar, get_args

import attrs
import numpy as np
from attrs import field

from corepress.errors import ConfigError

T = TypeVar("T")
log = logging.getLogger(__name__)

# No word that anybody means is longer.
_LONGEST = 200
# Names that a sentence has room for.
_SOME = 3
_MOST_SENTENCES = 3
ONE_OF = '"{name}" must be one of {allowed}, but got {value}.'


class UnknownKeyError(ConfigError, TypeError):
    """A configuration key that does not exist; also a TypeError, as Python's own for an unknown argument."""


def suggestion(word: object, known: Iterable[str]) -> str:
    """The end of an error message: the nearest known word, or all of them."""
    known = list(known)
    near = [name for name in difflib.get_close_matches(str(word)[:_LONGEST], known, n=2) if name != word]
    return f'Did you mean "{near[0]}"?' if near else f"Known are: {', '.join(known)}."


def matches_nothing(level: str, key: object, known: Iterable[str], more: int = 0) -> str:
    """The warning of a rule in a configuration that names nothing in the model.

    `level`: where the rule stands, such as "op_name_configs"; `key`: the name, type or pattern that it is for;
    `known`: the names, or types, that the model has; `more`: how many other rules do not either, if that are all.
    """
    names = list(dict.fromkeys(known))
    near = _nearest(str(key), names)
    hint = f"The nearest are: {_listed(near)}" if near else f"The model has, for example: {_listed(names[:3])}"
    what = "has no effect: nothing in the model matches it."
    if more:
        others = f"{more} more rule{'s' if more > 1 else ''}"
        what = f"and {others} have no effect: nothing in the model matches any of them."
    return f'{level} "{key}" {what} {hint if names else ""}'.rstrip()


def _nearest(pattern: str, names: Sequence[str]) -> list[str]:
    """Up to three names that are like a name or pattern."""
    bare = re.sub(r"[\\^$*?+()\[\]]|\.(?=[*+?])", "", pattern)
    near = difflib.get_close_matches(bare, names, n=3)
    if bare != pattern:  # a pattern may stand for the beginning of a name only
        starts = {name[: len(bare)]: name for name in reversed(names)}
        near = [starts[start] for start in difflib.get_close_matches(bare, starts, n=3)] + near
    return [name for name in dict.fromkeys(near) if name != pattern][:3]


def some(names: Sequence[str]) -> str:
    """Names in a sentence: the first three in quotes, and how many more there are."""
    more = f" and {len(names) - _SOME} more" if len(names) > _SOME else ""
    return ", ".join(f'"{name}"' for name in names[:_SOME]) + more


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f'"{name}"' for name in names) + "."


def no_effect(level: str, key: object, reason: str) -> str:
    """The warning of a rule in a configuration that matches something, but changes nothing; `reason` says why."""
    return f'{level} "{key}" has no effect: {reason}.'


def tied_conflict(
    first: str,
    second: str,
    weight: str,
    configs: tuple[object, object],
    *,
    readers: str = "ops",
    remedy: str = "set one for that name",
) -> str:
    """The refusal of a weight that two readers share, whose `configs` differ: neither may win in silence."""
    return (
        f'compression config conflict detected between {readers} "{first}" and "{second}": {configs[0]} and '
        f'{configs[1]}. They share the weight "{weight}": {remedy}.'
    )


def warn_of_idle(config: Any, needs: Iterable[tuple[str, bool, str]]) -> None:
    """Warn of fields of an attrs object that were set, but do nothing.

    `needs`: (name, whether it has an effect, what it needs to have one). A field with its default counts as not set.
    """
    defaults = {attribute.name: attribute.default for attribute in attrs.fields(type(config))}
    for name, has_effect, needed in needs:
        if not has_effect and getattr(config, name) != defaults[name]:
            log.warning("%s", no_effect(type(config).__name__, name, f"it needs {needed}"))


def warn_or_raise(sentences: Iterable[str], log: logging.Logger, strict: bool) -> None:
    """Log each sentence as a warning, or with `strict` raise all of them as one ConfigError."""
    sentences = list(sentences)
    if strict and sentences:
        raise ConfigError(" ".join(sentences))
    for sentence in sentences:
        log.warning("%s", sentence)


def suggesting(cls: type[T]) -> type[T]:
    """Let the constructor of an attrs class answer a misspelt argument with the right one."""
    init, known = cls.__init__, [f.name for f in attrs.fields(cls)]  # type: ignore[arg-type]

    @functools.wraps(init)
    def checked_init(self: T, *args: Any, **kwargs: Any) -> None:
        for key in kwargs:
            if key not in known:
                raise unknown_key(cls, key)
        init(self, *args, **kwargs)

    cls.__init__ = checked_init  # type: ignore[assignment]
    return cls


def unknown_key(cls: type[Any], key: object) -> UnknownKeyError:
    hint = suggestion(key, (f.name for f in attrs.fields(cls)))
    return UnknownKeyError(f"{cls.__name__} got an unexpected keyword argument '{key}'. {hint}")


def must_be(allowed: str, holds: Callable[[Any], bool], message: str | None = None) -> Any:
    """A validator: the value `holds`, or the error names the field, what is allowed and the value."""
    message = message or '"{name}" must be {allowed}. Got {value!r}.'

    def validate(instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        if not holds(value):
            raise ConfigError(message.format(name=attribute.name, allowed=allowed, value=value))

    return validate


def plain(value: Any) -> Any:
    """A NumPy scalar as the Python number it stands for; a list as a tuple."""
    if isinstance(value, (list, tuple)):
        return tuple(plain(v) for v in value)
    return value.item() if isinstance(value, np.generic) else value


def whole(value: Any, least: float = -float("inf")) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def value_of(default: Any, allowed: str, holds: Callable[[Any], bool], message: str | None = None) -> Any:
    return field(default=default, converter=plain, validator=must_be(allowed, holds, message))


def choice(default: str, *others: str, message: str | None = None) -> Any:
    """A word in any case, stored in capitals."""
    allowed = (default, *others)

    def upper(value: Any) -> Any:
        return value.upper() if isinstance(value, str) else value

    return field(
        default=default,
        converter=upper,
        validator=must_be(str(allowed), lambda v: v in allowed, message or ONE_OF),
    )


def integer(default: int, least: int) -> Any:
    return value_of(default, f"an integer >= {least}", lambda v: whole(v, least))


def optional_integer(default: int | None, least: int) -> Any:
    allowed = f"an integer >= {least} or None"
    return value_of(default, allowed, lambda v: v is None or whole(v, least))


def member(enum: type[Enum], default: str) -> Any:
    """A member of an enumeration, or its name; one of coremltools' of that name will do."""

    def read(value: Any) -> Enum:
        name = str(getattr(value, "name", value))
        if name not in enum.__members__:
            raise ConfigError(f"{value!r} is no {enum.__name__}: known are {', '.join(enum.__members__)}")
        return enum[name]

    return field(default=enum[default], converter=read)


def flag() -> Any:
    return value_of(False, "True or False", lambda v: isinstance(v, bool))


def real(default: float | None, allowed: str, holds: Callable[[float], bool]) -> Any:
    def valid(value: Any) -> bool:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return math.isfinite(value) and holds(value) if number else value is None and default is None

    return value_of(default, allowed, valid, 'Invalid value of "{name}": {value!r}. It must be {allowed}.')


def fraction(default: float | None) -> Any:
    return real(default, "a number from 0 to 1", lambda v: 0 <= v <= 1)


def weight_threshold() -> Any:
    return value_of(2048, "a non-negative integer or None", lambda v: v is None or whole(v, 0))


def one_of(*allowed: Enum) -> Any:
    """A validator for the members of an enumeration that a field may hold."""
    return must_be(", ".join(g.name.lower() for g in allowed), lambda v: v in allowed, ONE_OF)


@functools.cache
def _structurer(cls: Any) -> Callable[[Mapping[str, Any], Any], Any]:
    import cattrs
    from cattrs.gen import make_dict_structure_fn, override

    hooks: dict[str, Any] = {f.name: override(struct_hook=_leaf) for f in attrs.fields(cls)}
    return make_dict_structure_fn(cls, cattrs.Converter(), _cattrs_forbid_extra_keys=True, **hooks)


def structure(values: Mapping[str, Any], cls: Any) -> Any:
    """An attrs object from a mapping, which stays unchanged; raises `cattrs.ClassValidationError`."""
    return _structurer(cls)(values, cls)


def read(values: Mapping[str, Any], cls: type[T], where: str) -> T:
    """The same, with a ConfigError that begins with `where` and has a suggestion for each unknown key."""
    from cattrs.errors import BaseValidationError

    try:
        config: T = structure(values, cls)
    except BaseValidationError as error:
        raise ConfigError(f"{where}: {' '.join(_sentences(error))}") from error
    return config


def _leaf(value: Any, hint: Any) -> Any:
    """Read numbers that came as text, as 1e-12 does from YAML 1.1; all else is for the validators."""
    for number in (int, float):
        if isinstance(value, str) and number in (hint, *get_args(hint)):
            try:
                return number(value)
            except ValueError:
                return value
    return value


def _sentences(error: BaseException) -> list[str]:
    """The messages inside an error of cattrs, with suggestions for unknown keys."""
    import cattrs.errors

    if isinstance(error, cattrs.errors.ForbiddenExtraKeysError):
        return [str(unknown_key(error.cl, key)) for key in sorted(error.extra_fields, key=str)[:_MOST_SENTENCES]]
    if isinstance(error, cattrs.errors.BaseValidationError):
        return [sentence for inner in error.exceptions for sentence in _sentences(inner)]
    return [str(error)]


def read_yaml(source: str | Path | IO[str] | IO[bytes]) -> Any:
    """What a YAML file, by its path or open, holds; a ConfigError names the line that is not YAML.

    Aliases may stand for the same values at several places, as long as all of them, written out, have a sane size.
    """
    if isinstance(source, (str, Path)):
        try:
            with Path(source).open(encoding="utf-8") as file:
                return read_yaml(file)
        except OSError as error:
            raise ConfigError(f"{source}: can't read it ({error.strerror}).") from error
    import yaml

    name = getattr(source, "name", "The text")
    try:
        loader = yaml.SafeLoader(source)
        node = loader.get_single_node()
        if _written_out(node, {}) > _MOST_NODES:
            raise ConfigError(f"{name}: its aliases stand for more than {_MOST_NODES} values.")
        return None if node is None else loader.construct_document(node)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        if isinstance(error, ConfigError):
            raise
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}" if mark else ""
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else "unreadable"
        raise ConfigError(f"{name}{place}: not valid YAML ({getattr(error, 'problem', None) or reason}).") from error


_MOST_NODES = 100_000


def _written_out(node: Any, known: dict[int, int]) -> int:
    """How many nodes there are below a node of YAML when every alias is written out; without end for one of itself."""
    import yaml

    if id(node) not in known:
        known[id(node)] = _MOST_NODES + 1  # while it is counted: whoever comes back to it is inside of it
        below = node.value if isinstance(node, yaml.CollectionNode) else ()
        parts = [part for entry in below for part in (entry if isinstance(entry, tuple) else (entry,))]
        known[id(node)] = 1 + sum(_written_out(part, known) for part in parts)
    return known[id(node)]
