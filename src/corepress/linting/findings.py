"""What the rules found in a model: as rows, as a table, as JSON, as SARIF."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from corepress.linting.rule import DEVICES, Finding, Rule
from corepress.linting.sarif import log

if TYPE_CHECKING:
    from rich.table import Table

MEASURED = "corepress measured nothing of this on a device: it is what others reported, in the threads that are named."
_NAMED = 3


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

    def by_rule(self) -> dict[Rule, list[Finding]]:
        """The findings of each rule that found something, the rules of wrong answers first."""
        found: dict[Rule, list[Finding]] = {}
        for item in self.items:
            found.setdefault(item.rule, []).append(item)
        return found

    def rows(self) -> list[tuple[str, str]]:
        """A label and a text of several lines for each rule that found something."""
        rows = []
        for rule, items in self.by_rule().items():
            devices = ", ".join(DEVICES[device] for device in rule.devices)
            text = [f"{rule.title} ({devices}; since {rule.since})", _places(items), rule.known, rule.instead]
            rows.append((f"{rule.severity}: {rule.id}", "\n".join([*text, *rule.threads])))
        return rows

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
            "rules": summaries(self.items),
            "findings": [
                {"rule": i.rule.id, "function": i.function, "kind": i.kind, "name": i.name, "found": i.found}
                for i in self.items
            ],
            "notes": [*self.notes, MEASURED],
        }

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2)

    def to_sarif(self) -> dict[str, Any]:
        """A log in the Static Analysis Results Interchange Format (SARIF 2.1.0, OASIS), which code hosts show."""
        return log(self.path, self.items)


def summaries(items: Iterable[Finding]) -> list[dict[str, Any]]:
    """Of each rule that found something what it says, and how many places it found."""
    counts: dict[Rule, int] = {}
    for item in items:
        counts[item.rule] = counts.get(item.rule, 0) + 1
    return [
        {
            "id": rule.id,
            "severity": rule.severity,
            "title": rule.title,
            "known": rule.known,
            "instead": rule.instead,
            "devices": list(rule.devices),
            "since": rule.since,
            "threads": list(rule.threads),
            "count": count,
        }
        for rule, count in counts.items()
    ]


def _places(items: list[Finding]) -> str:
    named = [f"{item.name} ({item.found})" for item in items[:_NAMED]]
    more = f" and {len(items) - _NAMED} more" if len(items) > _NAMED else ""
    return f"{items[0].kind} {', '.join(named)}{more}"
