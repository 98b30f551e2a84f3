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
WITHOUT_TORCH = ("No module named 'torch'", "needs PyTorch")


def skip_without_torch(report: Any, path: Path) -> None:
    """Where PyTorch is not installed (`make lowest`), what fails for its want alone is skipped; nothing else is."""
    if not HAS_TORCH and report.failed and any(text in str(report.longrepr) for text in WITHOUT_TORCH):
        report.outcome = "skipped"
        report.longrepr = (str(path), 0, "Skipped: needs PyTorch")


@pytest.hookimpl(hookwrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[None]:
    outcome: Any = yield
    skip_without_torch(outcome.get_result(), collector.path)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    outcome: Any = yield
    skip_without_torch(outcome.get_result(), item.path)


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
