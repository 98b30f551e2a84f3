"""What rich draws: tables, and the progress bar."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, cast

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


class _Unpadded(io.TextIOBase):
    """Standard output, without the spaces by which rich fills tables up on their right."""

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """By which rich knows whether it can draw lines."""
        return sys.stdout.encoding

    def write(self, text: str) -> int:
        return sys.stdout.write("\n".join(line.rstrip(" ") for line in text.split("\n")))

    def flush(self) -> None:
        sys.stdout.flush()


def console() -> Console:
    """Standard output; where it is no terminal, lines are as long as they need be, and no longer."""
    if sys.stdout.isatty():
        return _Console(highlight=False)
    return _Console(file=cast("IO[str]", _Unpadded()), width=_ENDLESS, highlight=False)


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
