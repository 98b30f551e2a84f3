"""Names in tables: whole at every width, and literal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console, RenderableType

from corepress.tables import NamesTable, facts

NAMES = ["short", "model_layers_17_self_attn_[bold]_k_proj_weight_to_fp16_palettized", "x[/]y [red]z"]
LESSER = ("type", "bytes")


def printed(table: RenderableType, width: int) -> str:
    file = io.StringIO()
    Console(file=file, width=width).print(table)
    assert all(len(line) <= width for line in file.getvalue().splitlines())
    return file.getvalue()


def names(text: str) -> list[str]:
    """The first column of a printed table, its folded lines put together; a filled second column begins a row."""
    found: list[str] = []
    for line in text.splitlines():
        if line.startswith("│"):
            first, second = (cell[1:-1] for cell in line.split("│")[1:3])
            if second.strip():
                found.append("")
            found[-1] += first
    return [name.rstrip() for name in found]


def table() -> NamesTable:
    made = NamesTable("weight", "shape", "type", "bytes", lesser=LESSER)
    for name in NAMES:
        made.add_row(name, "4096x4096", "float16", "33,554,432")
    return made


@pytest.mark.parametrize("width", [40, 80, 87, 100, 108, 200, 100_000])
def test_names_are_whole_at_every_width(width: int) -> None:
    text = printed(table(), width)
    assert [name.replace(" ", "") for name in names(text)] == [name.replace(" ", "") for name in NAMES]
    assert text.count("4096x4096") == len(NAMES) and "…" not in text


def test_lesser_columns_go_in_their_order() -> None:
    full = max(map(len, printed(table(), 200).splitlines()))
    shown = [[title for title in LESSER if title in printed(table(), width)] for width in (full, full - 1, 80)]
    assert shown == [["type", "bytes"], ["bytes"], []]
    assert table().row_count == len(NAMES)


def test_facts_are_literal_and_whole() -> None:
    path = "folder/[dim]with brackets[/]/" + "long" * 40
    text = printed(facts([("written to", path), ("size", "3 kB")]), 60)
    words = text.replace("written to", "").replace("size", "").replace("3 kB", "")
    assert "".join(words.split()) == "".join(path.split())
