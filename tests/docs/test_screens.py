"""The pictures of docs/screens show what the commands print now, but for the numbers."""

from __future__ import annotations

import html
import re
import subprocess
import sys

import pytest

from tests.lazy import lazy

Image = lazy("PIL.Image")


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


def test_pictures_of_pages_are_small_and_shown() -> None:
    from tools.screens import FOLDER, PAGES, ROOT

    shown = "".join((ROOT / page).read_text(encoding="utf-8") for page in ("README.md", "docs/report.md"))
    for name, (command, width, height, _) in PAGES.items():
        with Image.open(FOLDER / f"{name}.png") as picture:
            assert picture.size == (width, height), "run `make screens`"
        assert (FOLDER / f"{name}.png").stat().st_size < 100_000
        assert f"screens/{name}.png" in shown and command.startswith("corepress")


@pytest.mark.slow
def test_pages_can_be_photographed() -> None:
    """In a process of its own: Playwright runs once in a process, and other tests may have begun it."""
    from tools.browser import chromium
    from tools.screens import PAGES, ROOT

    if chromium() is None:
        pytest.skip("there is no Chromium on this machine (Debian's package chromium)")
    code = "from tools.screens import photograph; print([(name, png[:4]) for name, png in photograph()])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == str([(name, b"\x89PNG") for name in PAGES]), done.stderr


@pytest.fixture(scope="module")
def pictures() -> dict[str, str]:
    from tools.screens import draw

    return draw()
