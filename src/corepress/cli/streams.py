"""What a command says to programs: one JSON document on standard output; and its warnings, on standard error."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from typing import Any

from corepress.cli.words import translate
from corepress.errors import one_line
from corepress.json_numbers import plain

# Of every JSON document; it grows when a field changes its meaning or goes. docs/cli.md lists the fields.
SCHEMA = 2

_document: dict[str, Any] = {}
_warnings: list[str] = []


def document(facts: Mapping[str, Any]) -> None:
    """What `--json` prints when the command is at its end, together with its warnings and its error."""
    _document.update(facts)


def finished(error: Mapping[str, Any] | None) -> str:
    """The JSON document; empty where there is nothing to say, as after `--help`."""
    failed = {} if error is None else {"error": error}
    if not _document and not failed:
        return ""
    return json.dumps(plain({"schema": SCHEMA, **_document, "warnings": _warnings, **failed}), indent=2)


def collect_warnings() -> None:
    """Print the library's warnings as they come, and keep them for the JSON."""
    log = logging.getLogger("corepress")
    log.addHandler(_Collector(logging.WARNING))
    log.propagate = False


class _Collector(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        # The closing table counts the weights that are left alone, each with its reason.
        if hasattr(record, "weight"):
            return
        text = one_line(translate(record.getMessage()))
        if text not in _warnings:
            _warnings.append(text)
            print(f"corepress: warning: {text}", file=sys.stderr)
