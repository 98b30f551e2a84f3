"""Lengths of time in the words of people: "10m" is ten minutes."""

from __future__ import annotations

import re

from corepress.errors import ConfigError

_UNITS = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600}


def seconds_of(duration: float | str) -> float:
    """The seconds that a length of time means.

    Args:
        duration: A number of seconds, or a text such as "90s", "10m" or "1.5h".

    Raises:
        ConfigError: For anything else, and for no time at all.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([a-zA-Z]*)\s*", str(duration))
    if found is None or found[2].lower() not in _UNITS or not float(found[1]):
        raise ConfigError(f'a time is a number of seconds above 0, or such as "90s", "10m" or "1h", not {duration!r}')
    return float(found[1]) * _UNITS[found[2].lower()]
