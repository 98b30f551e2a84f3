"""Hidden siblings that outputs are written to, `.NAME.*.partial`, and those that killed runs left behind.

A writer holds a lock (flock) on what it writes; the system lets go of it when the process ends, however it ends. So
what nobody holds is left over. Windows has no such lock: leftovers stay there.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from corepress.formats.renaming import exclusive

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

_ENDINGS = ("partial", "old")
_MARK_BYTES = len(".") + len(".01234567.partial")
_HASH_DIGITS = 8


def create(destination: Path, *, folder: bool) -> tuple[Path, int | None]:
    """A new, empty sibling of `destination` to write to, and the descriptor that holds its lock, which the caller
    closes; None where the system has no locks."""
    while True:
        path = destination.absolute().parent / f".{_stem(destination)}.{os.urandom(4).hex()}.partial"
        if folder:
            path.mkdir()
        else:
            path.touch(exist_ok=False)
        with contextlib.suppress(FileNotFoundError):  # another run swept it before it was locked
            lock = hold(path)
            if lock is None or os.path.samestat(os.fstat(lock), path.stat()):
                return path, lock
            os.close(lock)


def backup_of(partial: Path) -> Path:
    """Where the old content waits while `partial` takes its place, on systems that can't swap the two."""
    return partial.with_suffix(".old")


def hold(path: Path, *, wait: bool = True) -> int | None:
    """Lock a file or folder; the lock ends when the descriptor is closed. None where it can't be had."""
    if fcntl is None:
        return None
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def sweep(destination: Path) -> None:
    """Remove what killed runs left of `destination`; a backup that is the only whole copy is put back."""
    for path in _leftovers(destination):
        with contextlib.suppress(OSError):
            lock = hold(path, wait=False)
            if lock is None:
                continue
            try:
                if path.suffix == ".old" and not os.path.lexists(destination):
                    exclusive(path, destination)
                    log.warning("%s: an interrupted run had moved it away; it has been put back", destination)
                else:
                    remove(path)
            finally:
                os.close(lock)


def _leftovers(destination: Path) -> Iterator[Path]:
    name = re.compile(rf"\.{re.escape(_stem(destination))}\.[0-9a-f]{{8}}\.({'|'.join(_ENDINGS)})")
    with contextlib.suppress(OSError):
        yield from (path for path in destination.absolute().parent.iterdir() if name.fullmatch(path.name))


def _stem(destination: Path) -> str:
    """The name of `destination`, shortened where that of a partial would be longer than the system allows."""
    name = os.fsencode(destination.name)
    room = _longest_name(destination.absolute().parent) - _MARK_BYTES
    if len(name) <= room:
        return destination.name
    kept = name[: room - _HASH_DIGITS - 1].decode(errors="ignore")
    return f"{kept}~{hashlib.sha256(name).hexdigest()[:_HASH_DIGITS]}"


def _longest_name(folder: Path) -> int:
    try:
        return os.pathconf(folder, "PC_NAME_MAX")
    except (AttributeError, OSError, ValueError):
        return 255


def remove(path: Path) -> None:
    """Delete a file, or a folder with what is in it, read-only folders included; links are not followed."""
    if path.is_symlink() or not path.is_dir():
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        return
    shutil.rmtree(path, ignore_errors=True)
    if path.exists():
        for folder, _, _ in os.walk(path):
            with contextlib.suppress(OSError):
                Path(folder).chmod(0o700)
        shutil.rmtree(path, ignore_errors=True)
