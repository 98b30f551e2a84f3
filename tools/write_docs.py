"""Writes docs/targets.md from the table of targets: `make docs`."""

from __future__ import annotations

from pathlib import Path

from corepress.targets import markdown_table

PAGE = Path(__file__).parent.parent / "docs/targets.md"
INTRODUCTION = """# What each system can hold

Written by `make docs` from `corepress.targets`; `corepress targets` prints it.

"""


def page() -> str:
    """The whole page."""
    return INTRODUCTION + markdown_table()


if __name__ == "__main__":
    PAGE.write_text(page())
    print(f"wrote {PAGE}")
