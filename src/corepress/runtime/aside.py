"""Values of many runs of a program, of which those beyond a budget of memory wait in an unnamed temporary file.

The file consists of pages, which serve again once a value is let go of: it never holds more than waits in it.
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
    """A tensor in the file: what it is, and its pages."""

    shape: torch.Size
    dtype: torch.dtype
    pages: list[int]


class Store:
    """The memory and the file that the values of several runs share. `budget`: bytes; BUDGET by default."""

    def __init__(self, budget: int | None = None) -> None:
        self.left = BUDGET if budget is None else budget
        self._file: Any = None  # begun when it is needed
        self._free: list[int] = []
        self._end = 0

    def put(self, value: Any) -> Any:
        """The value, or what stands for it while it waits in the file."""
        if not isinstance(value, Tensor):
            return value
        if value.nbytes <= self.left or value.nbytes < _PAGE or value.device.type != "cpu":
            self.left -= value.nbytes
            return value
        data = value.detach().contiguous().view(-1).view(torch.uint8).numpy().data
        pages = [self._page() for _ in range(0, len(data), _PAGE)]
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(prefix="corepress-", buffering=0)  # noqa: SIM115 - kept open
            for number, page in enumerate(pages):
                self._file.seek(page * _PAGE)
                self._file.write(data[number * _PAGE : (number + 1) * _PAGE])
        except OSError as error:
            raise ResourceError(
                f"{tempfile.gettempdir()}: can't keep what the samples make there: {error.strerror} "
                "(set TMPDIR to a folder with more space, or give fewer samples)"
            ) from error
        return _Waiting(value.shape, value.dtype, pages)

    def get(self, kept: Any) -> Any:
        """The value for which `put` gave this."""
        if not isinstance(kept, _Waiting):
            return kept
        value = torch.empty(kept.shape, dtype=kept.dtype)
        data = value.view(-1).view(torch.uint8).numpy().data
        for number, page in enumerate(kept.pages):
            self._file.seek(page * _PAGE)
            self._file.readinto(data[number * _PAGE : (number + 1) * _PAGE])
        return value

    def let_go(self, kept: Any) -> None:
        if isinstance(kept, _Waiting):
            self._free += kept.pages
        elif isinstance(kept, Tensor):
            self.left += kept.nbytes

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
        return self._store.get(super().__getitem__(name))

    def __setitem__(self, name: str, value: Any) -> None:
        self._store.let_go(super().get(name))
        super().__setitem__(name, self._store.put(value))

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
