"""Renames that Python's library lacks: to a name that must be free, and of two paths into each other."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from pathlib import Path
from typing import Any

# The numbers of <linux/fs.h> and of macOS's <stdio.h>.
_AT_FDCWD = -100
_LINUX = {"exclusive": 1, "exchange": 2}
_MACOS = {"exclusive": 4, "exchange": 2}
# What a system or file system answers that has no such rename.
_UNKNOWN = frozenset({errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM})


def exclusive(old: Path, new: Path) -> None:
    """Rename `old` to `new`; FileExistsError where `new` exists, which then stays as it is.

    Where the system has no such rename: a file is linked to its new name, a folder renamed by the ordinary call,
    which may replace an empty folder but nothing else.
    """
    if _special(old, new, "exclusive"):
        return
    if os.name == "nt" or old.is_dir():
        try:
            old.rename(new)
        except OSError as error:
            if os.path.lexists(new):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(new)) from error
            raise
        return
    try:
        new.hardlink_to(old)
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        if os.path.lexists(new):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(new)) from None
        old.rename(new)
        return
    old.unlink()


def exchange(one: Path, other: Path) -> bool:
    """Swap two paths in one step, where the system can (Linux, macOS); afterwards `one` is the old `other`."""
    return _special(one, other, "exchange")


def _special(old: Path, new: Path, kind: str) -> bool:
    """True where the system did it, False where it can't; any other failure is raised."""
    libc: Any = ctypes.CDLL(None, use_errno=True) if os.name == "posix" else None
    first, second = os.fsencode(old), os.fsencode(new)
    if sys.platform == "linux" and hasattr(libc, "renameat2"):
        result = libc.renameat2(_AT_FDCWD, first, _AT_FDCWD, second, _LINUX[kind])
    elif sys.platform == "darwin" and hasattr(libc, "renamex_np"):
        result = libc.renamex_np(first, second, _MACOS[kind])
    else:
        return False
    number = ctypes.get_errno()
    if result != 0 and number not in _UNKNOWN:
        raise OSError(number, os.strerror(number), str(new))
    return bool(result == 0)
