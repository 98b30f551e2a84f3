"""Values of many runs of a program, of which those beyond a budget of memory wait in an unnamed temporary file.

The file consists of pages, which serve again once a value is let go of: it never holds more than waits in it. Values
that are smaller than a page share one.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from corepress.errors import ResourceError

BUDGET = 1 << 29  # bytes of values in memory
_PAGE = 1 << 14


class _Waiting(NamedTuple):
    """A tensor in the file: what it is, and its pages. `begin`: its place in a page that it shares; else -1."""

    shape: torch.Size
    dtype: torch.dtype
    pages: tuple[int, ...]
    begin: int = -1


class Store:
    """The memory and the file that the values of several runs share. `budget`: bytes; BUDGET by default."""

    def __init__(self, budget: int | None = None) -> None:
        self.left = BUDGET if budget is None else budget
        self._file: Any = None  # begun when it is needed
        self._free: list[int] = []
        self._end = 0
        # Of pages that values share, how many are in each; the one that is being filled, and how far it is.
        self._sharing: dict[int, int] = {}
        self._filling, self._buffer, self._filled = -1, bytearray(), 0

    def put(self, value: Any) -> Any:
        """The value, or what stands for it while it waits in the file."""
        if not isinstance(value, Tensor) or not value.nbytes:
            return value
        if value.nbytes <= self.left or value.device.type != "cpu":
            # A part of a larger tensor would keep the whole of it.
            own = value.untyped_storage().nbytes() <= value.nbytes
            self.left -= value.nbytes
            return value if own else value.clone()
        data = value.detach().contiguous().view(-1).view(torch.uint8).numpy().data
        if len(data) < _PAGE:
            return _Waiting(value.shape, value.dtype, *self._share(data))
        pages = tuple(self._page() for _ in range(0, len(data), _PAGE))
        for number, page in enumerate(pages):
            self._write(page, data[number * _PAGE : (number + 1) * _PAGE])
        return _Waiting(value.shape, value.dtype, pages)

    def get(self, kept: Any) -> Any:
        """The value for which `put` gave this."""
        if not isinstance(kept, _Waiting):
            return kept
        value = torch.empty(kept.shape, dtype=kept.dtype)
        data = value.view(-1).view(torch.uint8).numpy().data
        if kept.pages[0] == self._filling:
            data[:] = self._buffer[kept.begin : kept.begin + len(data)]
            return value
        for number, page in enumerate(kept.pages):
            self._file.seek(page * _PAGE + max(kept.begin, 0))
            self._file.readinto(data[number * _PAGE : (number + 1) * _PAGE])
        return value

    def let_go(self, kept: Any) -> None:
        if isinstance(kept, Tensor):
            self.left += kept.nbytes
        elif isinstance(kept, _Waiting) and kept.begin < 0:
            self._free += kept.pages
        elif isinstance(kept, _Waiting):
            (page,) = kept.pages
            self._sharing[page] -= 1
            if not self._sharing[page] and page != self._filling:
                self._free.append(page)

    def _share(self, data: memoryview) -> tuple[tuple[int, ...], int]:
        """Put a small value beside others: into which page, and where in it."""
        if self._filling < 0 or self._filled + len(data) > _PAGE:
            if self._filling >= 0 and self._sharing[self._filling]:
                self._write(self._filling, memoryview(self._buffer))
            elif self._filling >= 0:
                self._free.append(self._filling)
            self._filling, self._buffer, self._filled = self._page(), bytearray(_PAGE), 0
            self._sharing[self._filling] = 0
        begin, self._filled = self._filled, self._filled + len(data)
        self._buffer[begin : self._filled] = data
        self._sharing[self._filling] += 1
        return (self._filling,), begin

    def _write(self, page: int, data: memoryview) -> None:
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(prefix="corepress-", buffering=0)  # noqa: SIM115 - kept open
            self._file.seek(page * _PAGE)
            self._file.write(data)
        except OSError as error:
            raise ResourceError(
                f"{tempfile.gettempdir()}: can't keep what the samples make there: {error.strerror} "
                "(set TMPDIR to a folder with more space, or give fewer samples)"
            ) from error

    def _page(self) -> int:
        if self._free:
            return self._free.pop()
        self._end += 1
        return self._end - 1


class Values(dict[str, Any]):
    """The values of one run by name, as a dictionary that keeps them in a store."""

    def __init__(self, store: Store, values: Mapping[str, Any]):
        super().__init__()
        self._store = store
        for name, value in values.items():
            self[name] = value

    def __getitem__(self, name: str) -> Any:
        return self.made(super().__getitem__(name))

    def __setitem__(self, name: str, value: Any) -> None:
        self._store.let_go(super().get(name))
        super().__setitem__(name, self.kept(value))

    def kept(self, value: Any) -> Any:
        """What stands for a value."""
        return self._store.put(value)

    def made(self, kept: Any) -> Any:
        """The value for which something stands."""
        return self._store.get(kept)

    def in_memory(self) -> Iterator[tuple[str, Tensor]]:
        """The tensors that don't wait elsewhere, with their names."""
        return ((name, kept) for name, kept in super().items() if isinstance(kept, Tensor))

    def pop(self, name: str, default: Any = None) -> Any:
        """Let go of a value; unlike that of a dictionary, it is not given back."""
        self._store.let_go(super().pop(name, None))
        return default

    def __iter__(self) -> Iterator[str]:
        # With an iterator of its own, `dict(values)` asks for each value instead of taking what stands for it.
        return iter(list(super().keys()))

    def __or__(self, other: Any) -> Any:
        return dict(self) | other


class Row(Sequence[Any]):
    """Values in order, which a store keeps."""

    def __init__(self, store: Store):
        self._store = store
        self._kept: list[Any] = []

    def append(self, value: Any) -> None:
        self._kept.append(self._store.put(value))

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, number: Any) -> Any:
        return self._store.get(self._kept[number])
