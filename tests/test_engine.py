"""One run of an action on items: order, progress, what is left alone, and what ends it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from corepress.engine import Skip, run, skipping
from corepress.errors import ConfigError, CorepressError, FormatError


class Lists:
    """A store that keeps what it is told, in the order in which it is."""

    def __init__(self) -> None:
        self.made: list[tuple[int, Any]] = []
        self.left: list[tuple[int, str, bool]] = []

    def put(self, item: int, result: Any) -> None:
        self.made.append((item, result))

    def leave(self, item: int, reason: Skip) -> None:
        self.left.append((item, str(reason), reason.quiet))


def told(items: range, action: Callable[[int], Any], **how: Any) -> Lists:
    store = Lists()
    run(items, action, store, name=lambda item: f"w{item}", **how)
    return store


@pytest.mark.parametrize("workers", [1, 2, 7, None])
def test_results_come_in_the_order_of_the_items(workers) -> None:
    assert told(range(50), lambda item: item * item, workers=workers).made == [(i, i * i) for i in range(50)]


def test_progress_counts_each_item_when_it_is_done_and_the_store_is_told_in_order_all_the_same() -> None:
    others_done = threading.Event()
    seen = []

    def action(item: int) -> int:
        assert item or others_done.wait(60)
        return item

    def progress(done: int, total: int, name: str) -> None:
        seen.append((done, total, name))
        if done == 2:
            others_done.set()

    store = told(range(3), action, workers=3, progress=progress)
    assert [item for item, _ in store.made] == [0, 1, 2]
    assert [entry[:2] for entry in seen] == [(1, 3), (2, 3), (3, 3)] and seen[-1][2] == "w0"


def test_one_item_that_is_skipped_stops_no_other() -> None:
    def action(item: int) -> int:
        if item % 2:
            raise Skip(f"{item} is odd", quiet=item == 3)
        return item

    store = told(range(5), action)
    assert store.made == [(0, 0), (2, 2), (4, 4)]
    assert store.left == [(1, "1 is odd", False), (3, "3 is odd", True)]


@pytest.mark.parametrize(
    "error", [FormatError("the file is cut off"), ZeroDivisionError("a mistake"), KeyboardInterrupt()]
)
def test_any_other_error_ends_the_run_and_what_has_not_begun_is_given_up(error) -> None:
    begun = []

    def action(item: int) -> int:
        begun.append(item)
        if item == 1:
            raise error
        time.sleep(0.001)
        return item

    with pytest.raises(type(error)):
        told(range(10_000), action, workers=1)
    assert begun[:2] == [0, 1] and len(begun) < 10_000


def test_an_interrupt_while_progress_is_told_gives_up_the_rest() -> None:
    begun = []

    def action(item: int) -> None:
        begun.append(item)
        time.sleep(0.001)

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        told(range(10_000), action, workers=1, progress=interrupt)
    assert len(begun) < 10_000


def test_too_little_memory_is_said_of_the_item() -> None:
    def action(item: int) -> None:
        raise MemoryError

    with pytest.raises(CorepressError, match="w0: not enough memory to compress it"):
        told(range(1), action)


def test_errors_of_one_item_become_its_skip_but_for_those_that_concern_all() -> None:
    with pytest.raises(Skip, match="too far apart"), skipping():
        raise CorepressError("its values are too far apart")
    with pytest.raises(Skip) as found, skipping(but=(ConfigError,)):
        raise Skip("it was asked for", quiet=True)
    assert found.value.quiet
    with pytest.raises(ConfigError, match="wrong"), skipping(but=(ConfigError,)):
        raise ConfigError("wrong")
