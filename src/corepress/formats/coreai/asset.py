"""A folder of a program, its hash, and its metadata."""

from __future__ import annotations

from pathlib import Path

from corepress.formats.atomic import Kind

PROGRAM = "main.mlirb"
METADATA = "metadata.json"


def is_asset(path: Path) -> bool:
    """Whether it is a folder that holds a program and its metadata."""
    return path.is_dir() and (path / PROGRAM).is_file() and (path / METADATA).is_file()


ASSET = Kind("a Core AI model", ".aimodel", True, is_asset)
