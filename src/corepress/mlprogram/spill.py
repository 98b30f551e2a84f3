"""New weight data that waits to be saved: kept in an unnamed temporary file, so that memory does not grow."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corepress.errors import CorepressError, FormatError
from corepress.mlprogram.blobs import PendingBlob
from corepress.mlprogram.dtypes import DType

_CHUNK = 1 << 20


class Spill:
    """An append-only store of blobs, safe to use from several threads. Models made from one another share it."""

    def __init__(self) -> None:
        self._file: Any = None
        self._end = 0
        self._lock = threading.Lock()
        self._blobs: list[PendingBlob] = []

    def append(self, dtype: DType, data: NDArray[np.uint8], padding_bits: int) -> int:
        """Store packed bytes; returns the number by which the blob is found."""
        with self._lock:
            try:
                if self._file is None:
                    self._file = tempfile.TemporaryFile(prefix="corepress-")  # noqa: SIM115 - lives as long as self
                self._file.seek(self._end)
                self._file.write(data)
            except OSError as error:
                raise CorepressError(
                    f"{tempfile.gettempdir()}: can't keep compressed weights there: {error.strerror} "
                    "(set TMPDIR to a folder with more space)"
                ) from error
            self._blobs.append(PendingBlob(dtype, self._end, data.size, padding_bits))
            self._end += data.size
            return len(self._blobs) - 1

    def __getitem__(self, number: int) -> PendingBlob:
        if number >= len(self._blobs):
            raise FormatError(f"no blob has the offset {number:#x}")
        return self._blobs[number]

    def read(self, blob: PendingBlob) -> NDArray[np.uint8]:
        """The bytes of a blob, as an array of their own."""
        data = np.empty(blob.nbytes, np.uint8)
        with self._lock:
            self._file.seek(blob.offset)
            self._file.readinto(data.data)
        return data

    def chunks(self, blob: PendingBlob) -> Iterator[bytes]:
        """The bytes of a blob, piece by piece."""
        for start in range(0, blob.nbytes, _CHUNK):
            with self._lock:
                self._file.seek(blob.offset + start)
                yield self._file.read(min(_CHUNK, blob.nbytes - start))
