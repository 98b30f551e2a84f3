"""Runs an action on items, such as the weights of a model, in threads: packages, modules and networks use it alike."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import as_completed
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

from corepress.errors import CorepressError, ResourceError
from corepress.threads import pool

Item = TypeVar("Item")
Result = TypeVar("Result")
Taken = TypeVar("Taken", contravariant=True)
Made = TypeVar("Made", contravariant=True)

# Called with the number of weights done, of all weights, and the name of the one just done.
Progress = Callable[[int, int, str], None]


class Skip(CorepressError):
    """Leave an item as it is; the message says why. `quiet` when the user has asked for nothing else."""

    def __init__(self, reason: str, *, quiet: bool = False):
        super().__init__(reason)
        self.quiet = quiet


class Stopped(KeyboardInterrupt):
    """Work was stopped, as Ctrl-C does, when it had found something.

    Args:
        result: The best until then.

    Examples:
        >>> from corepress.engine import Stopped
        >>> issubclass(Stopped, KeyboardInterrupt)
        True
    """

    def __init__(self, result: Any):
        super().__init__("stopped")
        self.result = result


@contextmanager
def silence(of: str = "corepress", least: int = logging.ERROR) -> Iterator[None]:
    """A library says nothing below a level: ours nothing but errors, of models that are made to be measured."""
    logger = logging.getLogger(of)
    before = logger.level
    logger.setLevel(least)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextmanager
def skipping(*, but: tuple[type[CorepressError], ...] = ()) -> Iterator[None]:
    """An error of ours within concerns one item alone, and becomes its `Skip`; those of `but` concern all."""
    try:
        yield
    except CorepressError as error:
        if isinstance(error, (Skip, *but)):
            raise
        raise Skip(str(error)) from error


class Store(Protocol[Taken, Made]):
    """Takes what becomes of each item, in the order of the items, in the thread that called `run`."""

    def put(self, item: Taken, result: Made) -> None:
        """What the action made of an item."""

    def leave(self, item: Taken, reason: Skip) -> None:
        """The item stays as it is, and why."""


def run(
    items: Sequence[Item],
    action: Callable[[Item], Result],
    store: Store[Item, Result],
    *,
    name: Callable[[Item], str],
    workers: int | None = None,
    progress: Progress | None = None,
) -> None:
    """Call `action` for each of the items, in `workers` threads (default: one for each core).

    Where it raises `Skip` the item is left as it is. Any other error ends the run: what has not begun is given up.
    `progress` is called in this thread whenever an item is done. Results do not depend on the number of threads.
    """

    def attempt(item: Item) -> Callable[[], None]:
        """In a worker: what to tell the store."""
        try:
            result = action(item)
        except Skip as skip:
            reason = Skip(str(skip), quiet=skip.quiet)  # without the frames, which hold all that was computed in them
            return lambda: store.leave(item, reason)
        except MemoryError as error:
            raise ResourceError(f"{name(item)}: not enough memory to compress it") from error
        return lambda: store.put(item, result)

    with pool(workers) as threads:
        running = {threads.submit(attempt, item): number for number, item in enumerate(items)}
        finished: dict[int, Callable[[], None]] = {}
        told = 0
        for done, future in enumerate(as_completed(running), 1):
            number = running.pop(future)
            finished[number] = future.result()
            while told in finished:
                finished.pop(told)()
                told += 1
            if progress is not None:
                progress(done, len(items), name(items[number]))


class Left(Protocol):
    """A weight that was left alone, as what is said at the end of a run asks of it."""

    @property
    def name(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def stored_bytes(self) -> int: ...


def nothing_done(what: str, left: Sequence[tuple[Left, str]], none: str = "the model has none") -> str:
    """The sentence about a run that changed nothing, with the reason of the largest weight and its way out.

    `left`: the weights that were left alone, each with the reason. `none`: what is said where there are none.
    """
    if not left:
        return f"{what}: {none}."
    weight, reason = max(left, key=lambda pair: pair[0].stored_bytes)
    shape = "x".join(map(str, weight.shape))
    return f'{what}: the largest of {len(left)}, "{weight.name}" ({shape}), was left alone: {reason}.'


def not_smaller(before: int, after: int) -> str:
    """The sentence about a run after which a model takes no fewer bytes."""
    return f"the model did not become smaller: {before:,} bytes before, {after:,} after"
