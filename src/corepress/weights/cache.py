"""Compiled kernels on disk, safe for several processes that compile at once; to be imported beside numba.

numba numbers the files of a kernel's versions (one for each combination of argument types) as its index tells, and
reads the index before it writes: two processes can give one number to two versions, and the index then names a file
that holds the code for other types. Nothing checks that, and results are silently wrong. With the process in the name
of the file, the worst that a race can do is to lose an entry, which is compiled again.
"""

from __future__ import annotations

import os
from typing import Any

from numba.core.caching import IndexDataCacheFile

_data_name: Any = getattr(IndexDataCacheFile, "_data_name", None)


def _own_data_name(self: Any, number: int) -> str:
    name: str = _data_name(self, number)
    return f"{os.getpid()}-{name}"


if _data_name is not None and _data_name.__module__ != __name__:
    IndexDataCacheFile._data_name = _own_data_name
