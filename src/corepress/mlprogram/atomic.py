"""Outputs that appear whole or not at all, whatever happens in between."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from corepress.errors import CorepressError


def check_destination(destination: Path, *, overwrite: bool) -> None:
    """A CorepressError where `destination` can't be written to, before any work is done for it."""
    if destination.exists() and not overwrite:
        raise CorepressError(f"{destination}: it exists already; choose another output or allow to overwrite it")
    parent = destination.absolute().parent
    if not parent.is_dir():
        raise CorepressError(f"{parent}: no such folder to write {destination.name} into")
    if not os.access(parent, os.W_OK):
        raise CorepressError(f"{parent}: no permission to write {destination.name} into it")


@contextlib.contextmanager
def replacing(destination: Path, *, overwrite: bool) -> Iterator[Path]:
    """Yields the path of a temporary sibling to write to; on success it becomes `destination` in one step.

    On any error, Ctrl-C included, the sibling is removed. Killed outright, a hidden sibling `.NAME.*.partial`
    may stay, but `destination` is what it was before.
    """
    check_destination(destination, overwrite=overwrite)
    parent = destination.absolute().parent
    partial = parent / f".{destination.name}.{uuid.uuid4().hex[:8]}.partial"
    try:
        yield partial
        _move(partial, destination)
    except OSError as error:
        reason = error.strerror or str(error)
        raise CorepressError(f"{destination}: can't write it: {reason}") from error
    finally:
        _remove(partial)


def _move(partial: Path, destination: Path) -> None:
    if not destination.is_dir():
        partial.replace(destination)
    elif not _exchange(partial, destination):
        # No atomic exchange here: the old package stays whole under a hidden name until the new one is in place.
        backup = partial.with_suffix(".old")
        destination.rename(backup)
        try:
            partial.rename(destination)
        except BaseException:
            backup.rename(destination)
            raise
        _remove(backup)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two paths in one step where the system can (Linux, macOS); afterwards `one` is the old `other`."""
    libc: Any = ctypes.CDLL(None, use_errno=True) if os.name == "posix" else None
    first, second = os.fsencode(one), os.fsencode(other)
    at_cwd, swap = -100, 2  # AT_FDCWD; RENAME_EXCHANGE on Linux and RENAME_SWAP on macOS are both 2
    if sys.platform == "linux" and hasattr(libc, "renameat2"):
        return bool(libc.renameat2(at_cwd, first, at_cwd, second, swap) == 0)
    if sys.platform == "darwin" and hasattr(libc, "renamex_np"):
        return bool(libc.renamex_np(first, second, swap) == 0)
    return False


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
