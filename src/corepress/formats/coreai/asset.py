"""A folder of a program, its hash, and its metadata."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from corepress.formats.atomic import Kind

PROGRAM = "main.mlirb"
# SHA-256 of the program.
HASH = "main.hash"
METADATA = "metadata.json"


def is_asset(path: Path) -> bool:
    """Whether it is a folder that holds a program and its metadata."""
    return path.is_dir() and (path / PROGRAM).is_file() and (path / METADATA).is_file()


def metadata(path: Path) -> dict[str, Any]:
    """What is written in a Core AI model about it, by Apple's names: author, license, description and more."""
    found: dict[str, Any] = json.loads((path / METADATA).read_bytes())
    return found


ASSET = Kind("a Core AI model", ".aimodel", True, is_asset)
