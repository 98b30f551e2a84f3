"""Writes what docs/ takes from tables of the code, of targets and of layers: `make docs`."""

from __future__ import annotations

import re
from pathlib import Path

from tests import layers

from corepress.targets import markdown_table

DOCS = Path(__file__).parent.parent / "docs"
TARGETS = """# What each system can hold

Written by `make docs` from `corepress.targets`; `corepress targets` prints it.

"""


def targets_page() -> str:
    """All of docs/targets.md."""
    return TARGETS + markdown_table()


def architecture_page() -> str:
    """docs/architecture.md, with the table of parts as it is now."""
    page = (DOCS / "architecture.md").read_text(encoding="utf-8")
    return re.sub(r"\| part \|.*?\n(?!\|)", lambda _: layers.table(), page, count=1, flags=re.DOTALL)


if __name__ == "__main__":
    (DOCS / "targets.md").write_text(targets_page(), encoding="utf-8")
    (DOCS / "architecture.md").write_text(architecture_page(), encoding="utf-8")
    print(f"wrote targets.md and architecture.md in {DOCS}")
