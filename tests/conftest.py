from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import packages

HAS_TORCH = importlib.util.find_spec("torch") is not None


@pytest.hookimpl(hookwrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[None]:
    """Without PyTorch (`make lowest`), test files that import it are skipped, and nothing else is."""
    outcome: Any = yield
    report = outcome.get_result()
    missing = ("No module named 'torch'", "needs PyTorch")
    if report.failed and not HAS_TORCH and any(text in str(report.longrepr) for text in missing):
        report.outcome = "skipped"
        report.longrepr = (str(collector.path), 0, "Skipped: needs PyTorch")


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
