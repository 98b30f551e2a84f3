"""The groups of cases by name, and what was recorded of them."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

from tests.kernels.grid.cases import Group

# Each is a file of this folder with `GROUPS`; they are imported when they are needed, since some need PyTorch.
FAMILIES = ("weights", "linear", "kmeans", "fitted", "packed")
RECORDED = Path(__file__).parent.parent / "same_bytes.json"


def groups(family: str) -> dict[str, Group]:
    return {group.__name__: group for group in importlib.import_module(f"tests.kernels.grid.{family}").GROUPS}


def recording() -> dict[str, dict[str, str]]:
    """What was recorded, by "family.group" and by the name of the case."""
    found: dict[str, dict[str, str]] = json.loads(RECORDED.read_text())
    return found
