from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import packages


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A package for a target and dtype, made once for the session. Tests never write to it."""
    folder = tmp_path_factory.mktemp("packages")
    made: dict[tuple[str, str, int], Path] = {}

    def get(target: str = "iOS18", dtype: str = "float16", seed: int = 0) -> Path:
        key = (target, dtype, seed)
        if key not in made:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                logging.getLogger("coremltools").setLevel(logging.ERROR)
                made[key] = packages.make_package(folder, *key)
        return made[key]

    return get
