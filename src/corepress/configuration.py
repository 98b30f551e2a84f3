"""Levels of a configuration: one for everything, others by type and by name, and rules among them without effect.

`OptimizationConfig` of packages and that of PyTorch models are `Levels`: they say what is a type and what a name, and
which entry decides. What a single configuration is made of is in `fields.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, TypeVar

import attrs

from corepress.errors import ConfigError
from corepress.fields import matches_nothing, no_effect

L = TypeVar("L", bound="Levels")


class Rule(NamedTuple):
    """An entry of a configuration: the name of the level that it stands in, and its key there."""

    level: str
    key: Any


GLOBAL = Rule("global_config", "")
LEFT_ALONE = "the configuration leaves it alone"
_FEW = 3  # exceptions to what holds for everything, each of which may be a slip of its own


class Levels:
    """An attrs class with the field `global_config` and one for each of `_levels`, dictionaries of configurations."""

    __slots__ = ()  # so that a misspelt attribute of a class derived from it is an error
    _levels: ClassVar[tuple[str, ...]]

    def _check(self, level: str, key: Any, config: Any) -> None:
        """Raise a ConfigError if an entry (not None) may not stand there."""
        raise NotImplementedError

    def rules(self) -> list[Rule]:
        """Every entry by type or name."""
        return [Rule(level, key) for level in self._levels for key in getattr(self, level)]

    def held(self, rule: Rule) -> Any:
        """The configuration that an entry holds; None leaves what it decides alone."""
        entries = getattr(self, rule.level)
        return entries if rule == GLOBAL else entries[rule.key]

    def configs(self) -> Iterator[Any]:
        """Every configuration that is set."""
        entries = [self.held(GLOBAL), *(held for level in self._levels for held in getattr(self, level).values())]
        return (held for held in entries if held is not None)

    @classmethod
    def _from_levels(cls: type[L], arguments: Mapping[str, Any], read: Callable[[Any, Rule], Any]) -> L:
        """From the arguments of the constructor, with what `read` makes of each entry."""
        found = dict(arguments)
        if GLOBAL.level in found:
            found[GLOBAL.level] = read(found[GLOBAL.level], GLOBAL)
        for level in cls._levels:
            if level in found:
                entries = {} if found[level] is None else as_mapping(found[level], level)
                found[level] = {key: read(value, Rule(level, key)) for key, value in entries.items()}
        return cls(**found)


def as_mapping(value: Any, what: str) -> Mapping[Any, Any]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{what} must be type of dict. Got {value!r}.")
    return value


def check_level(instance: Levels, attribute: attrs.Attribute[Any], value: Any) -> None:
    """A validator: every entry of a level may stand there."""
    entries = {"": value} if attribute.name == GLOBAL.level else as_mapping(value, attribute.name)
    for key, config in entries.items():
        if config is not None:
            instance._check(attribute.name, key, config)


def copied(entries: Any, own: Callable[[Any], Any]) -> Any:
    """The entries of a level, as a copy of what `own` makes of a dictionary; the validator speaks of what is none."""
    return own(dict(entries)) if isinstance(entries, Mapping) else {} if entries is None else entries


class Item(NamedTuple):
    """What a configuration decides about, such as a weight.

    `decided_by`: the rules that do. `matches`: whether a rule would if no other did. `left_alone()`: why it stays as it
    is although a configuration was found for it, or "".
    """

    name: str
    decided_by: Sequence[Rule]
    matches: Callable[[Rule], bool]
    left_alone: Callable[[], str]


class Known(NamedTuple):
    """What a model has for rules to match: whether there is anything; if not, what they could have meant; and why
    what is matched has no items."""

    matches: Callable[[Rule], bool]
    names: Callable[[Rule], Iterable[str]]
    without_items: Callable[[Rule], str]


def without_effect(
    config: Levels,
    items: Collection[Item],
    known: Known,
    words: Callable[[Rule], tuple[str, str]] = lambda rule: (rule.level, str(rule.key)),
    what: str = "weight",
) -> Iterator[str]:
    """A sentence for each rule by type or name that changes nothing for these items; one for all where none of many
    matches anything, as in a configuration for another model.

    `words`: what the level and the key of a rule are called where it was written. `what`: what an item is.
    """
    decided: dict[Rule, list[Item]] = {}
    for item in items:
        for rule in item.decided_by:
            decided.setdefault(rule, []).append(item)
    rules = config.rules()

    def is_known(rule: Rule) -> bool:
        return rule in decided or known.matches(rule) or any(item.matches(rule) for item in items)

    if len(rules) > (1 if config.held(GLOBAL) is None else _FEW) and not any(map(is_known, rules)):
        yield matches_nothing(*words(rules[0]), known.names(rules[0]), more=len(rules) - 1)
        return
    for rule in rules:
        spares = config.held(rule) is None  # to leave alone what stays as it is anyway is no mistake
        match = next((item for item in items if item.matches(rule)), None)
        if rule in decided:
            reason = "" if spares else _left_alone(decided[rule], what)
        elif match is not None:
            others = [words(other) for other in match.decided_by if other != GLOBAL]
            reason = f"no operation reads its {what}"
            if others:
                reason = '{} "{}" goes before it wherever it matches'.format(*others[0])
        elif known.matches(rule):
            reason = "" if spares else known.without_items(rule)
        else:
            yield matches_nothing(*words(rule), known.names(rule))
            continue
        if reason:
            yield no_effect(*words(rule), reason)


def _left_alone(items: Sequence[Item], what: str) -> str:
    """Why all of these items stay as they are; empty if one does not."""
    reasons = [item.left_alone() for item in items]
    if not all(reasons):
        return ""
    name = f'"{items[0].name}"'
    if len(items) == 1:
        return f"{name} is left alone: {reasons[0]}"
    return f"all {len(items)} {what}s that it decides about are left alone, such as {name}: {reasons[0]}"
