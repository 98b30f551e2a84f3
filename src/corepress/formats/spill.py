"""New weight data that waits to be saved: kept in an unnamed temporary file, so that memory does not grow.

Forked processes share the parent's file for what was in it, at offsets of their own copy of the list; what each of them
adds goes to a file of its own.
"""

from __future__ import annotations

import os
import tempfile
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corepress.errors import FormatError, ResourceError
from corepress.formats.blobs import PendingBlob
from corepress.formats.dtypes import DType

_CHUNK = 1 << 20


class Spill:
    """An append-only store of blobs, safe to use from several threads and in forked processes. Models made from one
    another share it."""

    def __init__(self) -> None:
        self._blobs: list[PendingBlob] = []
        self._file: Any = None  # begun when it is needed
        self._end = 0
        self._lock = threading.Lock()
        _OPEN.add(self)

    def append(self, dtype: DType, data: NDArray[np.uint8], padding_bits: int) -> int:
        """Store packed bytes; returns the number by which the blob is found."""
        try:
            with self._lock:
                if self._file is None:
                    self._file = tempfile.TemporaryFile(prefix="corepress-", buffering=0)  # noqa: SIM115 - kept open
                blob = PendingBlob(dtype, self._end, data.size, padding_bits, self._file)
                number = len(self._blobs)
                self._blobs.append(blob)
                self._end += data.size
            self._write(blob.file, data.data, blob.offset)
        except OSError as error:
            raise ResourceError(
                f"{tempfile.gettempdir()}: can't keep compressed weights there: {error.strerror} "
                "(set TMPDIR to a folder with more space)"
            ) from error
        return number

    def __getitem__(self, number: int) -> PendingBlob:
        if number >= len(self._blobs):
            raise FormatError(f"no blob has the offset {number:#x}")
        return self._blobs[number]

    def read(self, blob: PendingBlob) -> NDArray[np.uint8]:
        """The bytes of a blob, as an array of their own."""
        data = np.empty(blob.nbytes, np.uint8)
        position = 0
        for chunk in self.chunks(blob):
            data[position : position + len(chunk)] = np.frombuffer(chunk, np.uint8)
            position += len(chunk)
        return data

    def chunks(self, blob: PendingBlob) -> Iterator[bytes]:
        """The bytes of a blob, piece by piece."""
        end = blob.offset + blob.nbytes
        for start in range(blob.offset, end, _CHUNK):
            size = min(_CHUNK, end - start)
            chunk = self._read(blob.file, size, start)
            if len(chunk) < size:
                raise ResourceError("the temporary file that keeps compressed weights was cut short")
            yield chunk

    # Positions are given with each call where the system can: the file's own position is shared with forked processes.

    def _write(self, file: Any, data: memoryview, offset: int) -> None:
        while data:
            if hasattr(os, "pwrite"):
                written = os.pwrite(file.fileno(), data, offset)
            else:
                with self._lock:
                    file.seek(offset)
                    written = file.write(data)
            data, offset = data[written:], offset + written

    def _read(self, file: Any, count: int, offset: int) -> bytes:
        if hasattr(os, "pread"):
            return os.pread(file.fileno(), count, offset)
        with self._lock:
            file.seek(offset)
            return bytes(file.read(count))


# Every store of this process: in a forked one each begins a file of its own, with a lock that no thread holds.
_OPEN: weakref.WeakSet[Spill] = weakref.WeakSet()


def _begin_anew() -> None:
    for spill in _OPEN:
        spill._file, spill._end, spill._lock = None, 0, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)
