"""Prints the lowest versions that `pyproject.toml` allows, as constraints for pip: `make lowest` tests with these."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import tomllib

PROJECT = Path(__file__).parent.parent / "pyproject.toml"


def lowest(requirements: list[str]) -> Iterator[str]:
    """Of each `name>=version` its `name==version`."""
    for requirement in requirements:
        bound = re.fullmatch(r"([\w-]+)(\[[\w,]+\])?>=([\w.]+)", requirement)
        assert bound, f"{requirement}: a lower bound is needed, of the form name>=version"
        yield f"{bound[1]}=={bound[3]}"


if __name__ == "__main__":
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    print("\n".join(lowest(project["dependencies"])))
