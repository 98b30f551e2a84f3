"""Bytes in the words of people: as they are shown, and as they are given."""

from __future__ import annotations

import math
import re

from corepress.errors import ConfigError

_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}


def size(count: float) -> str:
    """Such as "512 bytes", "181.53 kB" or "2.39 MB"."""
    if count < 1000:
        return f"{count:.0f} bytes"
    for unit in ("kB", "MB"):
        count /= 1000
        if round(count, 2) < 1000:  # 999,999 bytes are 1.00 MB, not 1000.00 kB
            return f"{count:.2f} {unit}"
    return f"{count / 1000:.2f} GB"


def bytes_of(size: int | str) -> int:
    """The bytes that a size means.

    Args:
        size: A number of bytes, or a text such as "10MB" (10,000,000 bytes), "10MiB" (10,485,760), "500 kB", "1.5 GB".

    Raises:
        ConfigError: For anything else.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([a-zA-Z]*)\s*", str(size))
    if found is None or found[2].lower() not in _UNITS:
        raise ConfigError(f'a size is a number of bytes, or such as "10MB" or "500kB", not {size!r}')
    number = math.floor(float(found[1]) * _UNITS[found[2].lower()])
    if number < 1:
        raise ConfigError(f"a size must be at least one byte, not {size!r}")
    return number
