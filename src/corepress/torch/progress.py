"""A progress bar where someone looks on, and nothing where not."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from corepress.engine import Progress

T = TypeVar("T")


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """The items, with a bar on the terminal."""
    if not sys.stderr.isatty():
        yield from items
        return
    from rich.console import Console
    from rich.progress import track as rich_track

    yield from rich_track(items, description, total, console=Console(stderr=True), transient=True)


def counter(description: str, total: int) -> Progress:
    """A bar on the terminal that goes on at each call."""
    bar = track(range(total + 1), description, total)
    next(bar)

    def tell(done: int, total: int, name: str) -> None:
        next(bar, None)

    return tell
