"""The command in a process of its own, for the tests.

To import PyTorch takes two seconds, ten times as long as what most tests then ask of the command. So on Linux a process
waits that has imported it, and nothing of corepress, and each command begins as a copy of it: `multiprocessing`'s fork
server, in which no thread has run.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

# In the order of the descriptors: what is read, what is said, and errors.
_STREAMS = ("stdin", "stdout", "stderr")


def run(arguments: Sequence[str], cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """`corepress` with these arguments: its exit code, and all that it printed."""
    if sys.platform != "linux":
        return subprocess.run([sys.executable, "-m", "corepress", *arguments], capture_output=True, text=True, cwd=cwd)
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload(["torch"])
    with tempfile.TemporaryDirectory() as folder:
        for name in _STREAMS:
            Path(folder, name).touch()
        process = forks.Process(target=_command, args=(arguments, cwd or Path.cwd(), dict(os.environ), Path(folder)))
        process.start()
        process.join()
        said = [Path(folder, name).read_text() for name in _STREAMS[1:]]
    assert process.exitcode is not None
    return subprocess.CompletedProcess(["corepress", *arguments], process.exitcode, *said)


def _command(arguments: Sequence[str], cwd: Path, environment: Mapping[str, str], streams: Path) -> None:
    for number, name in enumerate(_STREAMS):
        os.dup2(os.open(streams / name, os.O_RDWR), number)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.argv = ["corepress", *arguments]
    from corepress.cli import main

    main()
