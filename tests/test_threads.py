"""Every row is worked on once, by whichever thread, and no thread is left behind."""

from __future__ import annotations

import os
import threading

import pytest

from corepress.threads import CORES, over_rows


@pytest.mark.parametrize(("multiple", "turns"), [(1, 1), (12, 1), (5, 4)])
@pytest.mark.parametrize("threads", [0, 1, 2, 3, 4 * CORES])
@pytest.mark.parametrize("rows", [0, 1, 7, 24, 1000])
def test_parts_cover_all_rows_once(rows, threads, multiple, turns) -> None:
    parts: list[tuple[int, int]] = []
    over_rows(rows, threads, lambda first, last: parts.append((first, last)), multiple, turns)
    assert [row for first, last in sorted(parts) for row in range(first, last)] == list(range(rows))
    assert all(first % multiple == 0 for first, _ in parts)
    assert len(parts) <= max(1, threads * turns)


def test_threads_that_share_out_their_own_parts_do_not_wait_for_each_other() -> None:
    done: list[int] = []

    def outer(first: int, last: int) -> None:
        over_rows(64, 8, lambda a, b: done.extend(range(a, b)))

    over_rows(2 * CORES, 2 * CORES, outer)
    assert sorted(done) == sorted(list(range(64)) * 2 * CORES)


def test_an_error_of_any_part_reaches_the_caller_when_all_threads_are_done() -> None:
    running = threading.Semaphore(0)

    def work(first: int, last: int) -> None:
        running.release()
        if first == 3:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        over_rows(8, 4, work, turns=2)
    count = 0
    while running.acquire(blocking=False):
        count += 1
    assert 1 <= count <= 8


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_process_starts_threads_of_its_own() -> None:
    done: list[int] = []
    over_rows(8, 4, lambda first, last: done.append(first))
    child = os.fork()
    if child == 0:
        try:
            found: list[int] = []
            over_rows(8, 4, lambda first, last: found.extend(range(first, last)))
            os._exit(0 if sorted(found) == list(range(8)) else 1)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
