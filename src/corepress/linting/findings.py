"""What the rules found in a model: as rows, as a table, as JSON, as SARIF."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from corepress.linting.rule import DEVICES, Finding, Group, Rule, grouped
from corepress.linting.sarif import log

if TYPE_CHECKING:
    from rich.table import Table

MEASURED = "corepress measured nothing of this on a device: it is what others reported, in the threads that are named."


@dataclass(frozen=True)
class Findings:
    """What the rules found in a model. `lint` makes it.

    Args:
        path: The file or package; empty for a model in memory.
        target: The oldest system on which the model will run.
        device: What was asked for: "ane", "gpu", "cpu" or None for all.
        items: The findings, those of wrong answers first.
        notes: What no rule speaks of.

    Examples:
        >>> findings = cto.lint("small.mlpackage", device="cpu")
        >>> {rule.id: len(items) for rule, items in findings.by_rule().items()}
        {'lut4-per-tensor': 4}
        >>> findings.to_sarif()["version"]
        '2.1.0'
    """

    path: str
    target: str
    device: str | None
    items: tuple[Finding, ...]
    notes: tuple[str, ...] = ()

    def by_rule(self) -> dict[Rule, tuple[Finding, ...]]:
        """The findings of each rule that found something, the rules of wrong answers first."""
        return dict(grouped(self.items))

    def __str__(self) -> str:
        return "\n".join(
            [*(f"{group.rule.severity}: {group.rule.id}: {group}" for group in grouped(self.items)), self.summary]
        )

    @property
    def summary(self) -> str:
        """How much was found, in a sentence."""
        rules, places = len(self.by_rule()), len(self.items)
        if not places:
            return "no rule speaks of anything in the model"
        return f"{rules} rule{'' if rules == 1 else 's'} found {places} place{'' if places == 1 else 's'}"

    @property
    def all_notes(self) -> tuple[str, ...]:
        """What limits the findings: what no rule speaks of, and where the rules come from."""
        return (*self.notes, MEASURED)

    def rows(self) -> list[tuple[str, str]]:
        """A label and a text of several lines for each rule that found something."""
        return [(f"{group.rule.severity}: {group.rule.id}", _text(group)) for group in grouped(self.items)]

    def table(self) -> Table:
        """A `rich` table of the rules that found something."""
        from corepress.tables import facts

        return facts(self.rows())

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        return {
            "model": self.path,
            "target": self.target,
            "device": self.device,
            "rules": [{**_plain(rule), "count": len(items)} for rule, items in self.by_rule().items()],
            "findings": [
                {"rule": i.rule.id, "function": i.function, "kind": i.kind, "name": i.name, "found": i.found}
                for i in self.items
            ],
            "notes": list(self.all_notes),
        }

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2)

    def to_sarif(self) -> dict[str, Any]:
        """A log in the Static Analysis Results Interchange Format (SARIF 2.1.0, OASIS), which code hosts show."""
        return log(self.path, self.items)


def _text(group: Group) -> str:
    rule = group.rule
    devices = ", ".join(DEVICES[device] for device in rule.devices)
    title = f"{rule.title} ({devices}; since {rule.since})"
    return "\n".join([title, group.places, rule.known, rule.instead, *rule.threads])


def _plain(rule: Rule) -> dict[str, Any]:
    return {name: list(held) if isinstance(held, tuple) else held for name, held in rule._asdict().items()}
