"""Levels of a configuration: what they hold, what is copied, and which rules are said to change nothing."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
from attrs import define, field

from corepress.configuration import GLOBAL, Item, Known, Levels, Rule, check_level, copied, without_effect
from corepress.errors import ConfigError


def doubled(value: Any) -> Any:
    return {key: held and 2 * held for key, held in value.items()}


def own(entries: Any) -> Any:
    return copied(entries, doubled)


@define
class Numbers(Levels):
    """Configurations are positive numbers."""

    _levels: ClassVar[tuple[str, ...]] = ("by_kind", "by_name")

    global_config: int | None = field(default=None, validator=check_level)
    by_kind: dict[str, Any] = field(factory=dict, converter=own, validator=check_level)
    by_name: dict[str, Any] = field(factory=dict, converter=own, validator=check_level)

    def _check(self, level: str, key: Any, config: Any) -> None:
        if config <= 0:
            raise ConfigError(f"{level} {key}: {config} is not positive")


def test_entries_are_copied_checked_and_found_by_their_rules() -> None:
    given = {"a": 1, "b": 2}
    config = Numbers(3, {"k": 5}, given)
    assert given == {"a": 1, "b": 2} and config.by_name == {"a": 2, "b": 4}
    assert config.rules() == [Rule("by_kind", "k"), Rule("by_name", "a"), Rule("by_name", "b")]
    assert [config.held(rule) for rule in (GLOBAL, *config.rules())] == [3, 10, 2, 4] == list(config.configs())
    assert list(Numbers(by_kind=None).configs()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"global_config": -1}, "global_config : -1 is not positive"),
        ({"by_name": {"a": -1}}, "by_name a: -2 is not positive"),
        ({"by_kind": ["a"]}, "by_kind must be type of dict"),
    ],
)
def test_what_may_not_stand_there_is_refused_with_its_place(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Numbers(**arguments)


def test_a_misspelt_attribute_is_an_error() -> None:
    with pytest.raises(AttributeError):
        Numbers().global_confg = 3  # type: ignore[attr-defined]


def test_the_first_level_is_read_first() -> None:
    """Whichever order a dictionary, or a set of strings, has: of two mistakes the same one is told."""
    read = []
    Numbers._from_levels({"by_name": {"n": 1}, "by_kind": {"k": 2}}, lambda value, rule: read.append(rule) or value)
    assert read == [Rule("by_kind", "k"), Rule("by_name", "n")]


def test_each_entry_is_read_with_its_rule() -> None:
    seen = []

    def read(value: Any, rule: Rule) -> int:
        seen.append(rule)
        return int(value)

    assert Numbers._from_levels({"global_config": "3", "by_name": {"a": "4"}}, read) == Numbers(3, {}, {"a": 4})
    assert seen == [GLOBAL, Rule("by_name", "a")]
    with pytest.raises(ConfigError, match="by_name must be type of dict"):
        Numbers._from_levels({"by_name": 4}, read)


def said(names: dict[str, Any], items: list[Item]) -> list[str]:
    config = Numbers(1)
    config.by_name = names
    model = {"a", "b", "bare"}
    known = Known(lambda rule: rule.key in model, lambda rule: sorted(model), lambda rule: f"{rule.key} has no weight")
    return list(without_effect(config, items, known, lambda rule: ("names", rule.key)))


def item(name: str, *decided_by: Rule, left_alone: str = "") -> Item:
    return Item(name, decided_by, lambda rule: rule.key == name, lambda: left_alone)


A, B = Rule("by_name", "a"), Rule("by_name", "b")


@pytest.mark.parametrize(
    ("names", "items", "sentences"),
    [
        ({"a": 1}, [item("a", A)], []),
        ({"aa": 1}, [item("a", GLOBAL)], ['names "aa" has no effect: nothing in the model matches it.']),
        ({"x": 1, "y": 1}, [item("a", GLOBAL)], ['"x" has no effect', '"y" has no effect']),  # slips, perhaps
        (dict.fromkeys("uvwxyz", 1), [item("a", GLOBAL)], ['"u" and 5 more rules have no effect: nothing in the']),
        ({"bare": 1}, [item("a", GLOBAL)], ['names "bare" has no effect: bare has no weight.']),
        ({"bare": None}, [item("a", GLOBAL)], []),  # what is left alone anyway may be named
        ({"a": 1}, [item("a", A, left_alone="too small")], ['"a" has no effect: "a" is left alone: too small.']),
        ({"a": 1}, [item("a", A, left_alone="too small"), item("b", A)], []),
        (
            {"a": 1},
            [item("a", A, left_alone="too small"), item("b", A, left_alone="odd")],
            ['all 2 weights that it decides about are left alone, such as "a": too small.'],
        ),
        # The first of its readers has the global configuration, the second one of its own.
        ({"a": 1, "b": 1}, [item("a", GLOBAL, B)], ['names "a" has no effect: names "b" goes before it']),
        ({"a": 1}, [item("a")], ["no operation reads its weight."]),
    ],
)
def test_rules_that_change_nothing_are_told_with_the_reason(
    names: dict[str, Any], items: list[Item], sentences: list[str]
) -> None:
    found = said(names, items)
    assert len(found) == len(sentences)
    assert all(sentence in told for sentence, told in zip(sentences, found, strict=True)), found
