"""Weight files: a 64-byte header, then for each blob a 64-byte record and its data, all aligned to 64 bytes.

Layout (little-endian), version 2 of Core ML's storage format, read off files that coremltools 9.0 writes:

    header  u32 number of blobs, u32 version (2), 56 bytes zero
    record  u32 sentinel 0xDEADBEEF, u32 data type, u64 bytes of data, u64 offset of the data,
            u64 unused bits in its last byte, 32 bytes zero

A program refers to a blob by the offset of its record. Nothing in a file is believed before it is checked, and nothing
is read that needs no believing: coremltools 7 left the number of unused bits unset, and the zero bytes as well, where
the type fills its bytes; the number of blobs serves nobody.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from corepress.errors import FormatError, UnsupportedError
from corepress.formats.dtypes import BY_BLOB, DType
from corepress.formats.mistaken import refuse_pointer

ALIGNMENT = 64
VERSION = 2
SENTINEL = 0xDEADBEEF
_HEADER = struct.Struct("<II56x")
_RECORD = struct.Struct("<IIQQQ32x")
_CHUNK = 1 << 20


class BlobRecord(NamedTuple):
    """Where the data of one blob lies: checked against the file."""

    dtype: DType
    offset: int
    nbytes: int
    padding_bits: int


class BlobFile:
    """A weight file, read through a memory map."""

    def __init__(self, path: Path):
        self.path = path
        try:
            with path.open("rb") as file:
                self.size = file.seek(0, 2)
                if self.size < _HEADER.size:
                    raise FormatError(f"{path}: the weight file is truncated ({self.size} bytes)")
                # Private, not read-only: nobody writes, but PyTorch warns of arrays that it could not write to.
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        except OSError as error:
            raise FormatError(f"{path}: can't read the weight file: {error.strerror}") from error
        refuse_pointer(path, self._map[: _HEADER.size])
        _, version = _HEADER.unpack_from(self._map, 0)
        if version != VERSION:
            raise UnsupportedError(f"{path}: weight file of version {version}; corepress reads version {VERSION}")

    def record(self, offset: int) -> BlobRecord:
        """The record at `offset`, after all its claims have been checked."""
        where = f"{self.path}: blob at offset {offset}"
        if offset % ALIGNMENT or offset < _HEADER.size or offset + _RECORD.size > self.size:
            raise FormatError(f"{where}: the offset is outside the file ({self.size} bytes) or not aligned")
        sentinel, kind, nbytes, start, padding = _RECORD.unpack_from(self._map, offset)
        if sentinel != SENTINEL:
            raise FormatError(f"{where}: no blob starts here (bad sentinel)")
        if kind not in BY_BLOB:
            raise UnsupportedError(f"{where}: unknown data type {kind}")
        dtype = BY_BLOB[kind]
        if not dtype.sub_byte:
            padding = 0
        if start % ALIGNMENT or start < offset + _RECORD.size or start + nbytes > self.size:
            raise FormatError(f"{where}: its data ({nbytes} bytes at {start}) is outside the file, truncated?")
        if padding >= 8 or padding > nbytes * 8 or (nbytes * 8 - padding) % dtype.bits:
            raise FormatError(f"{where}: {nbytes} bytes with {padding} unused bits don't hold whole {dtype.name}s")
        return BlobRecord(dtype, start, nbytes, padding)

    def data(self, record: BlobRecord) -> NDArray[np.uint8]:
        """The stored bytes, as a view of the memory map."""
        return np.frombuffer(self._map, np.uint8, record.nbytes, record.offset)

    def release(self, record: BlobRecord) -> None:
        """Tell the system that the pages of this blob are no longer needed, so that memory does not grow."""
        if not hasattr(self._map, "madvise"):
            return
        start = record.offset // mmap.PAGESIZE * mmap.PAGESIZE
        self._map.madvise(mmap.MADV_DONTNEED, start, record.offset + record.nbytes - start)

    def copy_to(self, file: BinaryIO) -> None:
        """Write the whole weight file, as it was when it was opened."""
        for chunk in chunks_of(np.frombuffer(self._map, np.uint8)):
            file.write(chunk.data)

    def check_overlaps(self, offsets: Iterable[int]) -> None:
        """Refuse a file in which two of the blobs at `offsets` share bytes without being the same blob."""
        spans = []
        for offset in set(offsets):
            record = self.record(offset)
            spans += [(offset, offset + _RECORD.size, offset), (record.offset, record.offset + record.nbytes, offset)]
        spans.sort()
        for (_, end, one), (start, _, other) in pairwise(spans):
            if start < end:
                raise FormatError(f"{self.path}: blobs at offsets {one} and {other} overlap")


class PendingBlob(NamedTuple):
    """Data that is in no weight file yet: `nbytes` at `offset` of `file`, a temporary one (see `spill.py`)."""

    dtype: DType
    offset: int
    nbytes: int
    padding_bits: int
    file: Any


def place(sizes: Iterable[int]) -> tuple[list[int], int]:
    """Where blobs of these sizes lie in a weight file: the offsets of their records, and the size of the file."""
    offsets, end = [], _HEADER.size
    for size in sizes:
        offset = end + -end % ALIGNMENT
        offsets.append(offset)
        end = offset + _RECORD.size + size
    return offsets, end


def write_blobs(file: BinaryIO, blobs: Iterable[tuple[BlobRecord | PendingBlob, Iterable[Any]]], count: int) -> None:
    """Write a weight file of `count` blobs, each with its bytes given as buffers, as a stream. They lie where `place`
    says."""
    file.write(_HEADER.pack(count, VERSION))
    position = _HEADER.size
    for blob, chunks in blobs:
        gap = -position % ALIGNMENT
        start = position + gap + _RECORD.size
        file.write(bytes(gap) + _RECORD.pack(SENTINEL, blob.dtype.blob, blob.nbytes, start, blob.padding_bits))
        for chunk in chunks:
            file.write(chunk)
        position = start + blob.nbytes


def chunks_of(data: NDArray[np.uint8]) -> Iterable[NDArray[np.uint8]]:
    """`data` in pieces small enough to keep the resident set flat while it is copied."""
    return (data[start : start + _CHUNK] for start in range(0, data.size, _CHUNK))
