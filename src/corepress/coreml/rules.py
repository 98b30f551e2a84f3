"""Rules of a configuration that change nothing: they are found, and said, before any work."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

from corepress import configuration
from corepress.configuration import Known, Rule
from corepress.coreml.config import OptimizationConfig

PYTHON = {level: level for level in OptimizationConfig._levels}
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
        if rule.level == "op_type_configs":
            return any(kind == rule.key for kind, _ in self.readers)
        return any(_fits(name, rule) for name in (self.name, *(name for _, name in self.readers)))


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

    def names_of(rule: Rule) -> Collection[str]:
        return types if rule.level == "op_type_configs" else names

    return configuration.without_effect(
        config,
        [
            configuration.Item(item.name, config.rules_for(item.name, item.readers), item.matches, item.left_alone)
            for item in items
        ],
        Known(
            lambda rule: any(_fits(name, rule) for name in names_of(rule)),
            names_of,
            lambda _: f"what it matches has no {what} to compress",
        ),
        lambda rule: (words[rule.level], rule.key),
        what,
    )


def _fits(name: str, rule: Rule) -> bool:
    """Whether a rule is for that name, or type."""
    return name == rule.key or (rule.level == "op_name_configs" and fnmatchcase(name, rule.key))
