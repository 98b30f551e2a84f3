"""What rich draws: tables, and the progress bar."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

if TYPE_CHECKING:
    from corepress.engine import Progress

_ENDLESS = 1 << 20


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Where rich would end the process, the error goes on to the guard."""
        raise BrokenPipeError


def console() -> Console:
    """Standard output; where it is no terminal, lines are as long as they need be."""
    return _Console(width=None if sys.stdout.isatty() else _ENDLESS, soft_wrap=False, highlight=False)


@contextlib.contextmanager
def bar(title: str) -> Iterator[Progress]:
    """A progress bar on standard error, which goes when all is done."""
    columns = (
        TextColumn(title),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[name]}", markup=False),
    )
    with Bar(*columns, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task(title, total=None, name="")
        yield lambda done, total, name: shown.update(task, completed=done, total=total, name=name)
