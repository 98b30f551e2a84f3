"""The bar on a terminal goes on, and leaves the terminal as it was, whatever happens."""

from __future__ import annotations

import io
import sys

import pytest
import torch
from torch import nn

from corepress.torch.palettization import PostTrainingPalettizer
from corepress.torch.progress import counting, track


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def terminal_in(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Standard error from now on. (What a fixture sets is undone by pytest, which captures each phase.)"""
    found = Terminal()
    monkeypatch.setattr(sys, "stderr", found)
    monkeypatch.setenv("TERM", "xterm")
    return found


def test_an_error_gives_standard_error_back_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = terminal_in(monkeypatch)
    with pytest.raises(RuntimeError) as error, counting("Palettizing", 3) as tell:
        assert sys.stderr is not terminal and tell is not None
        tell(1, 3, "first")
        raise RuntimeError("in between")
    assert sys.stderr is terminal and error.traceback  # which holds all frames


def test_the_bar_is_seen_and_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = terminal_in(monkeypatch)
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    small = PostTrainingPalettizer(model).compress()
    assert sys.stderr is terminal and "Palettizing" in terminal.getvalue()
    assert len(torch.unique(small[0].weight)) <= 16
    assert list(track(range(3), "Observing", 3)) == [0, 1, 2]
    assert sys.stderr is terminal and "Observing" in terminal.getvalue()


def test_where_nobody_looks_on_nothing_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with counting("Palettizing", 3) as tell:
        assert tell is None
    assert list(track(range(3), "Observing")) == [0, 1, 2] and capsys.readouterr() == ("", "")
