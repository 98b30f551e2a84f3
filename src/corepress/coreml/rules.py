"""Rules of a configuration that change nothing: they are found, and said, before any work."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

from corepress.coreml.config import LEVELS, OptimizationConfig, Rule
from corepress.fields import matches_nothing, no_effect

PYTHON = {level: level for level in LEVELS}
"""The levels of a configuration as Python calls them; a recipe has words of its own."""


class Item(NamedTuple):
    """What a configuration decides about: a weight, or an operation.

    `readers`: the operations that it belongs to, each (type, name). `left_alone()`: why it stays as it is although a
    configuration was found for it, or "".
    """

    name: str
    readers: tuple[tuple[str, str], ...]
    left_alone: Callable[[], str]

    def matches(self, rule: Rule) -> bool:
        """Whether a rule would decide about it if no other did."""
        level, key = rule
        if level == "op_type_configs":
            return any(kind == key for kind, _ in self.readers)
        return any(_fits(name, key) for name in (self.name, *(name for _, name in self.readers)))


def without_effect(
    config: OptimizationConfig,
    items: Sequence[Item],
    names: Collection[str],
    types: Collection[str],
    words: Mapping[str, str] = PYTHON,
    what: str = "weight",
) -> Iterator[str]:
    """A sentence for each rule by name or type that changes nothing for these items.

    `names`, `types`: all that the model has. `words`: what the levels are called where the rules were written. `what`:
    what an item is.
    """
    decided: dict[Rule, list[Item]] = {}
    for item in items:
        for rule in config.rules_for(item.name, item.readers):
            decided.setdefault(rule, []).append(item)
    for rule in config.rules():
        level, key = rule
        known = types if level == "op_type_configs" else names
        if not any(name == key if level == "op_type_configs" else _fits(name, key) for name in known):
            yield matches_nothing(words[level], key, known)
        elif reason := _reason(config, rule, decided.get(rule, []), items, words, what):
            yield no_effect(words[level], key, reason)


def _reason(
    config: OptimizationConfig,
    rule: Rule,
    decided: Sequence[Item],
    items: Sequence[Item],
    words: Mapping[str, str],
    what: str,
) -> str:
    """Why a rule that matches something changes nothing; empty if it has an effect."""
    spares = config.held(rule) is None
    if decided:
        reasons = [] if spares else [item.left_alone() for item in decided]
        if spares or not all(reasons):
            return ""
        every = f"all {len(decided)} {what}s that it decides about are left alone, such as " if len(decided) > 1 else ""
        return f'{every}"{decided[0].name}"{"" if every else " is left alone"}: {reasons[0]}'
    matching = [item for item in items if item.matches(rule)]
    if not matching:
        return "" if spares else f"what it matches has no {what} to compress"
    level, key = next(iter(config.rules_for(matching[0].name, matching[0].readers)), ("", ""))
    return (
        f'{words[level]} "{key}" goes before it for all that it matches' if level else f"no operation reads its {what}"
    )


def _fits(name: str, key: str) -> bool:
    return name == key or fnmatchcase(name, key)
