from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import Any

import pytest
from tools.browser import browser as running
from tools.browser import chromium


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A headless Chromium."""
    if chromium() is None:
        pytest.skip("there is no Chromium on this machine (Debian's package chromium)")
    if importlib.util.find_spec("playwright") is None:
        pytest.skip("Playwright is not installed")
    with running() as started:
        yield started
