"""The pictures of docs/screens show what the commands print now, but for the numbers."""

from __future__ import annotations

import html
import re

import pytest


def words(svg: str) -> list[str]:
    """The text of a picture, without the lines of tables, and without numbers, whose last digits may differ."""
    text = "\n".join(re.findall(r"<text [^>]*>([^<]*)</text>", svg))
    return re.findall(r"[^\W\d_]+", html.unescape(text))


@pytest.mark.parametrize("name", ["info", "palettize", "verify"])
def test_a_picture_is_true(name: str, pictures: dict[str, str]) -> None:
    from tools.screens import COMMANDS, FOLDER

    committed = (FOLDER / f"{name}.svg").read_text()
    assert set(pictures) == set(COMMANDS)
    assert words(pictures[name]) == words(committed), "the command prints something else now: run `make screens`"
    assert len(words(committed)) > 20


@pytest.fixture(scope="module")
def pictures() -> dict[str, str]:
    from tools.screens import draw

    return draw()
