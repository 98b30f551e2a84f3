"""Draws what the commands print on the example model: `make screens` writes docs/screens/*.svg."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from io import StringIO
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs/screens"
# Each in a folder with model.mlpackage and images.npz, one after another.
COMMANDS = {
    "info": "corepress info model.mlpackage",
    "palettize": "corepress palettize model.mlpackage -o small.mlpackage --nbits 6",
    "verify": "corepress verify model.mlpackage small.mlpackage --data images.npz",
}


def draw() -> dict[str, str]:
    """The pictures by their names, from new runs of the commands."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(ROOT / "examples/digits.mlpackage", folder / "model.mlpackage")
        shutil.copy(ROOT / "examples/digits_test.npz", folder / "images.npz")
        return {name: picture(name, command, printed(command, folder)) for name, command in COMMANDS.items()}


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
