"""Bytes in the words of people."""

from __future__ import annotations

import pytest

from corepress.errors import ConfigError
from corepress.sizes import bytes_of, size


@pytest.mark.parametrize(
    "count,text",
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1.00 kB"),
        (181_531, "181.53 kB"),
        (999_994, "999.99 kB"),
        (999_996, "1.00 MB"),
        (2_390_000, "2.39 MB"),
        (999_999_999, "1.00 GB"),
        (5e12, "5000.00 GB"),
    ],
)
def test_sizes_are_shown(count: float, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(
    ("text", "count"),
    [("10MB", 10**7), ("10 MiB", 10 * 2**20), ("1.5kB", 1500), (".5GB", 5 * 10**8), (123, 123), ("77", 77), ("2b", 2)],
)
def test_sizes_are_read_with_their_units(text: str, count: int) -> None:
    assert bytes_of(text) == count


@pytest.mark.parametrize("text", ["", "MB", "-1MB", "10 potatoes", "1e9", "0", None, "nanMB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="size"):
        bytes_of(text)
