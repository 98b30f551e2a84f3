"""Arrays that lie against a page which nobody may touch: a kernel that reads or writes past one ends the process."""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray


def guarded(array: NDArray[Any], *, before: bool = False) -> NDArray[Any]:
    """A copy of an array that ends where an unreadable page begins (`before`: begins where one ends)."""
    if sys.platform == "win32":
        pytest.skip("guard pages are made by mprotect")
    page = mmap.PAGESIZE
    inside = -(-max(array.nbytes, 1) // page) * page
    room = mmap.mmap(-1, inside + page)
    buffer = np.frombuffer(room, np.uint8)
    start = page if before else inside - array.nbytes
    _protect(buffer.ctypes.data + (0 if before else inside), page)
    copy = buffer[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


class _GuardedNumPy:
    """NumPy, but for new arrays, which are guarded."""

    def __getattr__(self, name: str) -> Any:
        made = getattr(np, name)
        return (lambda *args: guarded(made(*args))) if name in ("empty", "zeros") else made


@contextmanager
def guarding(*modules: ModuleType) -> Iterator[None]:
    """What these modules allocate for their kernels, results and scratch, is guarded, too."""
    with pytest.MonkeyPatch.context() as patch:
        for module in modules:
            patch.setattr(module, "np", _GuardedNumPy())
        yield


def _protect(address: int, size: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(size), 0):
        raise OSError(ctypes.get_errno(), "mprotect")
