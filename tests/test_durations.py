"""Lengths of time as people write them."""

from __future__ import annotations

import pytest

from corepress.durations import seconds_of
from corepress.errors import ConfigError


@pytest.mark.parametrize(
    ("given", "seconds"), [("10m", 600), ("90 s", 90), ("1.5h", 5400), (30, 30), (0.5, 0.5), ("2min", 120), ("7", 7)]
)
def test_a_length_of_time(given, seconds):
    assert seconds_of(given) == seconds


@pytest.mark.parametrize("given", ["", "m", "10 days", "-3s", 0, "0m", "inf", float("nan"), True])
def test_what_is_no_length_of_time(given):
    with pytest.raises(ConfigError, match="a time is a number of seconds"):
        seconds_of(given)
