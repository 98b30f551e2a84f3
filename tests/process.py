"""The command, or a program in Python, in a process of its own, for the tests.

To import PyTorch takes two seconds, ten times as long as what most tests then ask of the process. So on Linux a process
waits that has imported it and other packages (`preloaded.py`), and nothing of corepress, and each command begins as a
copy of it: `multiprocessing`'s fork server, in which no thread has run.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

# In the order of the descriptors: what is read, what is said, and errors.
_STREAMS = ("stdin", "stdout", "stderr")


def run(arguments: Sequence[str], cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """`corepress` with these arguments: its exit code, and all that it printed."""
    return _copied(_command, ["-m", "corepress", *arguments], cwd)


def python(code: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """`python -c` with this code. Others' packages may be loaded already, where `sys.modules` can still hide them."""
    return _copied(_program, ["-c", code], cwd)


def starting() -> str:
    """How `multiprocessing` starts a process, where it is a copy of the one that waits."""
    if sys.platform != "linux":
        return "spawn"
    multiprocessing.get_context("forkserver").set_forkserver_preload(["tests.preloaded"])
    return "forkserver"


def _copied(
    begin: Callable[[Sequence[str]], None], arguments: Sequence[str], cwd: Path | None
) -> subprocess.CompletedProcess[str]:
    way = starting()
    if way == "spawn":
        return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=cwd)
    forks = multiprocessing.get_context(way)
    with tempfile.TemporaryDirectory() as folder:
        for name in _STREAMS:
            Path(folder, name).touch()
        process = forks.Process(
            target=_begin, args=(begin, arguments, cwd or Path.cwd(), dict(os.environ), Path(folder))
        )
        process.start()
        process.join()
        said = [Path(folder, name).read_text() for name in _STREAMS[1:]]
    assert process.exitcode is not None
    return subprocess.CompletedProcess([sys.executable, *arguments], process.exitcode, *said)


def _begin(
    begin: Callable[[Sequence[str]], None],
    arguments: Sequence[str],
    cwd: Path,
    environment: Mapping[str, str],
    streams: Path,
) -> None:
    for number, name in enumerate(_STREAMS):
        os.dup2(os.open(streams / name, os.O_RDWR), number)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    begin(arguments)


def _command(arguments: Sequence[str]) -> None:
    sys.argv = list(arguments[1:])
    from corepress.cli import main

    main()


def _program(arguments: Sequence[str]) -> None:
    sys.argv = ["-c"]
    exec(arguments[1], {"__name__": "__main__"})
