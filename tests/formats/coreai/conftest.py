from __future__ import annotations

from pathlib import Path

import pytest

import corepress
from tests.formats.coreai.digits import DIGITS


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits as a Core AI model, which no test changes."""
    path = tmp_path_factory.mktemp("migrated") / "digits.aimodel"
    corepress.migrate(DIGITS, path)
    return path
