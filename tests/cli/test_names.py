"""Names of any kind come out of the commands as they are: with brackets, on narrow terminals, in pipes."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.test_cli import corepress

DIGITS = Path(__file__).parent.parent.parent / "examples/digits.mlpackage"
# As long as the names they stand for, so that the file stays whole.
NEW = {b"hidden_weight_to_fp16": b"hidd[bold]_weight[/b]", b"logits": b"[b]its"}


@pytest.fixture
def bracketed(tmp_path: Path) -> Path:
    """The example package in a folder, and with names, that look like markup."""
    package = shutil.copytree(DIGITS, tmp_path / "a [red]folder[bold]/model[0].mlpackage")
    file = package / "Data/com.apple.CoreML/model.mlmodel"
    data = file.read_bytes()
    for old, new in NEW.items():
        assert old in data and len(old) == len(new)
        data = data.replace(old, new)
    file.write_bytes(data)
    return package


def test_brackets_are_no_markup(bracketed: Path, tmp_path: Path) -> None:
    weight, output = (name.decode() for name in NEW.values())
    out = tmp_path / "out[1].mlpackage"
    shown = corepress("info", bracketed).stdout
    assert weight in shown and str(bracketed) in shown
    table = corepress("palettize", bracketed, "-o", out, "--nbits", 2).stdout
    assert str(out) in table and weight in table
    compared = corepress("verify", bracketed, out, "--per-op", "--min-snr", -99).stdout
    assert compared.count(output) >= 2
    assert output in corepress("run", bracketed, "--random").stdout
    missing = corepress("run", bracketed, "--function", "[red]f", check=False)
    assert "[red]f" in missing.stderr and missing.returncode == 2


def on_a_terminal(columns: int, *arguments: object) -> str:
    """What a command prints on a terminal of that width."""
    pty = pytest.importorskip("pty")
    import fcntl
    import struct
    import termios

    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    command = [sys.executable, "-m", "corepress", *map(str, arguments)]
    process = subprocess.Popen(command, stdout=child, env={**environment, "TERM": "xterm"})
    os.close(child)
    text = b""
    try:
        while piece := os.read(parent, 4096):
            text += piece
    except OSError:  # Linux says so at the end
        pass
    assert process.wait() == 0
    os.close(parent)
    return re.sub(r"\x1b\[[\d;]*m", "", text.decode()).replace("\r\n", "\n")


@pytest.mark.skipif(os.name != "posix", reason="POSIX's terminals")
def test_names_are_whole_on_a_narrow_terminal() -> None:
    listed = json.loads(corepress("info", DIGITS, "--json").stdout)["weights"]
    for columns in (80, 40):
        shown = on_a_terminal(columns, "info", DIGITS, "--all")
        assert max(map(len, shown.splitlines())) <= columns and "…" not in shown
        cells = "".join(line.split("│")[1].strip() for line in shown.splitlines() if line.startswith("│"))
        assert cells == "".join(weight["name"] for weight in listed)


@pytest.mark.skipif(os.name != "posix", reason="POSIX's terminals")
def test_what_a_target_holds_is_whole_on_a_narrow_terminal() -> None:
    shown = on_a_terminal(80, "targets")
    assert max(map(len, shown.splitlines())) <= 80
    cells = [line.split("│")[3].strip() for line in shown.splitlines() if line.startswith("│")]
    rows = json.loads(corepress("targets", "--json").stdout)["targets"]
    said = [fact for row in rows for name, fact in row.items() if name != "Target"]
    assert " ".join(cells) == " ".join(said)


def test_a_pipe_gets_whole_lines(tmp_path: Path) -> None:
    long = tmp_path / ("long " * 40)
    long.mkdir()
    out = long / "out.mlpackage"
    assert str(out) in corepress("quantize", DIGITS, "-o", out).stdout
