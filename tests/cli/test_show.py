"""The closing table looks the same with rich and without it."""

from __future__ import annotations

import contextlib
import io
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corepress import tables
from corepress.cli import show, terminal
from corepress.cli.terminal import console

PRINTABLE = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20)
TEXT = st.lists(PRINTABLE.filter(str.strip), min_size=1, max_size=3).map("\n".join)


def by_rich(rows: list[tuple[str, str]]) -> str:
    out = console()
    with out.capture() as captured:
        out.print(tables.facts(rows))
    return without_padding(captured.get())


def without_padding(text: str) -> str:
    return "\n".join(line.rstrip(" ") for line in text.split("\n"))


@given(st.lists(st.tuples(PRINTABLE, TEXT), min_size=1, max_size=4))
def test_lines_are_those_of_rich(rows: list[tuple[str, str]]) -> None:
    assert f"{show._aligned(rows)}\n" == by_rich(rows)


@pytest.mark.parametrize("text", ["\u5c42", "e\u0301", "a\tb", "\x07", "caf\u00e9"])
def test_other_characters_are_left_to_rich(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert show._aligned([("name", text)]) is None
    show.facts([("name", text)])
    assert capsys.readouterr().out == by_rich([("name", text)])


def test_colours_that_are_forced(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    show.facts([("name", "text")])
    assert capsys.readouterr().out == "name  text\n"
    monkeypatch.setenv("FORCE_COLOR", "1")
    show.facts([("name", "text")])
    assert "\x1b[1mname" in capsys.readouterr().out


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def bars_on_a_terminal(monkeypatch: pytest.MonkeyPatch, moment: float) -> list[Any]:
    """What progress bars are told from now on."""
    told: list[Any] = []

    @contextlib.contextmanager
    def bar(title: str) -> Iterator[Any]:
        told.append(title)
        yield lambda *state: told.append(state)
        told.append("gone")

    monkeypatch.setattr(terminal, "bar", bar)
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setattr(show, "_MOMENT", moment)
    return told


def test_work_of_a_moment_has_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    bars = bars_on_a_terminal(monkeypatch, moment=1000)
    with show.progress("palettize") as tell:
        tell(1, 1, "weight")
    assert bars == []


def test_work_of_minutes_tells_a_file_of_each_tenth(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    now = [0.0]
    monkeypatch.setattr(show.time, "monotonic", lambda: now[0])
    with show.progress("palettize") as tell:
        for done in range(1, 201):
            now[0] += 1
            tell(done, 200, f"weight {done}")
    assert capsys.readouterr().err.splitlines() == [
        f"palettize: {done} of 200, weight {done}" for done in (30, 60, 90, 120, 150, 180)
    ]
    with show.progress("palettize") as tell:
        tell(1, None, "weight")
        tell(1, 1, "weight")
    assert capsys.readouterr().err == ""


def test_longer_work_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    bars = bars_on_a_terminal(monkeypatch, moment=0)
    with show.progress("palettize") as tell:
        for _ in range(1000):
            if len(bars) == 2:
                break
            time.sleep(0.01)
        tell(1, 2, "weight")
    assert bars == ["palettize", (0, None, ""), (1, 2, "weight"), "gone"]
