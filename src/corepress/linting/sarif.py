"""Findings as a SARIF log, which GitHub and other hosts show beside the code.

The format: "Static Analysis Results Interchange Format (SARIF) Version 2.1.0", OASIS, sections 3.13 to 3.58. GitHub
asks for a file and a line of each result besides: it is line 1 of the model, and the logical location says which weight
or operation is meant.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from corepress.formats.atomic import Kind, check_destination, replacing
from corepress.linting.rule import Finding, Rule, Severity
from corepress.version import __version__

_HOME = "https://corepress.github.io/corepress/lint/"
_SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_FILE = Kind("a SARIF file", ".sarif", False, lambda path: path.is_file() and path.suffix.lower() == ".sarif")
_LEVELS: dict[Severity, str] = {"wrong": "error", "slow": "warning", "no gain": "note"}


def log(path: str, findings: Sequence[Finding]) -> dict[str, Any]:
    """The log with one run, whose tool names the rules that found something; `path`: of the model, empty without."""
    rules = list(dict.fromkeys(item.rule for item in findings))
    places = {rule: number for number, rule in enumerate(rules)}
    driver = {
        "name": "corepress lint",
        "version": __version__,
        "informationUri": _HOME,
        "rules": [_rule(rule) for rule in rules],
    }
    results = [_result(item, places[item.rule], path) for item in findings]
    return {
        "$schema": _SCHEMA,
        "version": "2.1.0",
        "runs": [{"tool": {"driver": driver}, "results": results}],
    }


def check_output(path: Path, overwrite: bool) -> None:
    """A CorepressError where a log can't be written, before any work is done for it."""
    check_destination(path, _FILE, overwrite=overwrite)


def write(content: dict[str, Any], path: Path | None, overwrite: bool) -> None:
    """Write a log to a file, whole or not at all; without one, print it."""
    text = json.dumps(content, indent=2)
    if path is None:
        print(text)
        return
    with replacing(path, _FILE, overwrite=overwrite) as partial:
        partial.write_text(text + "\n", encoding="utf-8")


def _rule(rule: Rule) -> dict[str, Any]:
    return {
        "id": rule.id,
        "shortDescription": {"text": rule.title},
        "fullDescription": {"text": f"{rule.known} Since {rule.since}."},
        "help": {"text": " ".join((rule.instead, "Reports:", *rule.threads))},
        "helpUri": rule.threads[0],
        "defaultConfiguration": {"level": _LEVELS[rule.severity]},
        "properties": {"tags": [rule.severity, *rule.devices]},
    }


def _result(item: Finding, place: int, path: str) -> dict[str, Any]:
    name = "/".join(part for part in (item.function, item.name) if part)
    location: dict[str, Any] = {"logicalLocations": [{"name": item.name, "fullyQualifiedName": name}]}
    if path:
        artifact = {"uri": quote(path.replace("\\", "/"))}
        location["physicalLocation"] = {"artifactLocation": artifact, "region": {"startLine": 1}}
    return {
        "ruleId": item.rule.id,
        "ruleIndex": place,
        "level": _LEVELS[item.rule.severity],
        "message": {"text": f"{item.kind} {item.name}: {item.found}. {item.rule.known} {item.rule.instead}"},
        "locations": [location],
    }
