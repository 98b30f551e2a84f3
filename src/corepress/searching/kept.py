"""What a search measured, in a folder, so that one that was stopped or killed goes on without measuring it again.

The file `search.jsonl` holds a line of JSON for each thing: first what was searched, then what was found. It is only
ever added to; of a line that a killed process did not finish nothing is read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from corepress.errors import FormatError, OutputError
from corepress.json_numbers import plain
from corepress.resuming import check_same, folder_for

_NAME = "search.jsonl"


class Kept:
    """The folder of one search.

    Args:
        folder: It is made if there is none.
        searched: What the numbers are of, by words for people, such as "model" and "data": each a text that is the same
            for the same thing.

    Raises:
        ConfigError: If the folder is of another search; the message says what differs.
        FormatError: If its file is none of ours.
        OutputError: If nothing can be written there.
    """

    def __init__(self, folder: Path, searched: Mapping[str, str]):
        self._path = folder_for(folder) / _NAME
        self._found: dict[str, Any] = {}
        try:
            content = self._path.read_bytes() if self._path.exists() else b""
        except OSError as error:
            raise OutputError(f"resume={str(folder)!r} can't be used: {error.strerror}") from error
        whole = content[: content.rfind(b"\n") + 1]
        lines = [_line(line, self._path) for line in whole.splitlines()]
        if lines:
            self._check(lines[0], searched)
        for line in lines[1:]:
            self._found[json.dumps(line.get("what"))] = line.get("is")
        self._write(b"" if not lines else None, len(whole))
        if not lines:
            self._add({"search": dict(searched)})

    def _check(self, first: Any, searched: Mapping[str, str]) -> None:
        before = first.get("search")
        if not isinstance(before, dict):
            raise FormatError(f"resume={str(self._path.parent)!r}: {self._path.name} is no file of a search")
        check_same(self._path.parent, "search", before, searched)

    def get(self, *what: Any) -> Any | None:
        """What was kept under a name of plain data; None if nothing was. Infinities and NaN come as text."""
        return self._found.get(json.dumps(what))

    def put(self, *what: Any, value: Any) -> None:
        """Keep plain data, on the disk when this returns."""
        self._found[json.dumps(what)] = plain(value)
        self._add({"what": what, "is": plain(value)})

    def _add(self, line: Mapping[str, Any]) -> None:
        self._write(json.dumps(line).encode() + b"\n", None)

    def _write(self, text: bytes | None, end: int | None) -> None:
        """Add a text; `end`: drop what stands after so many bytes first."""
        try:
            with self._path.open("ab") as file:
                if end is not None:
                    file.truncate(end)
                file.write(text or b"")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise OutputError(
                f"resume={str(self._path.parent)!r}: {self._path.name} can't be written: {error.strerror}"
            ) from error


def _line(text: bytes, path: Path) -> Any:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise FormatError(f"resume={str(path.parent)!r}: {path.name} is no file of a search")
    return found
