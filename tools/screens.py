"""Draws what the commands print on the example model, and the pages that they write: `make screens` writes
docs/screens/*.svg, and *.png where there is a Chromium."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO, StringIO
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

from tools.browser import chromium

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs/screens"
# Each in a folder with model.mlpackage and images.npz, one after another.
COMMANDS = {
    "info": "corepress info model.mlpackage",
    "palettize": "corepress palettize model.mlpackage -o small.mlpackage --nbits 6",
    "verify": "corepress verify model.mlpackage small.mlpackage --data images.npz",
}
# Pages, each after these, with the width, height and scheme in which they are seen.
PAGES = {
    "report": ("corepress verify model.mlpackage small.mlpackage --data images.npz --per-op", 1000, 1560, "light"),
    "report-search": (
        "corepress search model.mlpackage -o found.mlpackage --max-size 90kB --data images.npz", 1000, 1128, "light",
    ),
    "report-phone": (
        "corepress palettize model.mlpackage -o tiny.mlpackage --nbits 2 --data images.npz", 390, 1600, "dark",
    ),
}  # fmt: skip
# Pictures in a repository stay, so they are small.
COLOURS = 64


def draw() -> dict[str, str]:
    """The pictures by their names, from new runs of the commands."""
    with example() as folder:
        return {name: picture(name, command, printed(command, folder)) for name, command in COMMANDS.items()}


@contextmanager
def example() -> Iterator[Path]:
    """A folder with a model and images."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(ROOT / "examples/digits.mlpackage", folder / "model.mlpackage")
        shutil.copy(ROOT / "examples/digits_test.npz", folder / "images.npz")
        yield folder


def photograph() -> Iterator[tuple[str, bytes]]:
    """The pictures of pages, as PNG, by their names."""
    from tools.browser import browser, opened

    with example() as folder, browser() as running:
        printed(COMMANDS["palettize"], folder)
        for name, (command, width, height, scheme) in PAGES.items():
            printed(f"{command} --report {name}.html", folder)
            with opened(running, folder / f"{name}.html", width, scheme) as found:
                clip = {"x": 0, "y": 0, "width": width, "height": height}
                yield name, compressed(found.page.screenshot(full_page=True, clip=clip))


def compressed(png: bytes) -> bytes:
    """The same picture with few colours."""
    from PIL import Image

    out = BytesIO()
    few = Image.open(BytesIO(png)).convert("RGB").quantize(COLOURS, Image.Quantize.MAXCOVERAGE)
    few.save(out, "PNG", optimize=True)
    return out.getvalue()


def printed(command: str, folder: Path) -> str:
    """What a command prints, with its colours."""
    arguments = [sys.executable, "-m", *command.split()]
    environment = os.environ | {"FORCE_COLOR": "1"}
    done = subprocess.run(arguments, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    return re.sub(" +$", "", done.stdout, flags=re.M)


def picture(name: str, command: str, output: str) -> str:
    """A terminal with a command and its output, as SVG."""
    text = Text.assemble(("$ ", "green"), command, "\n", Text.from_ansi(output))
    width = max(line.cell_len for line in text.split())
    console = Console(record=True, width=width, file=StringIO(), legacy_windows=False, color_system="truecolor")
    console.print(text, overflow="ignore", no_wrap=True, crop=False)
    svg = console.export_svg(title="", theme=MONOKAI, unique_id=name)
    return re.sub(r"\s*@font-face \{.*?\}", "", svg, flags=re.S)  # fonts of other servers


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, svg in draw().items():
        (FOLDER / f"{name}.svg").write_text(svg)
        print(f"wrote {FOLDER / name}.svg")
    if chromium() is None:
        print("no Chromium: the pictures of pages stay as they are")
    else:
        for name, png in photograph():
            (FOLDER / f"{name}.png").write_bytes(png)
            print(f"wrote {FOLDER / name}.png, {len(png) / 1000:.0f} kB")
