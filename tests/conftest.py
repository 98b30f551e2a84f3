from __future__ import annotations

import gc
import importlib.util
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import packages

# Not everywhere installed: `make lowest` has no PyTorch, and coremltools has no wheel for Windows and Linux on ARM.
OPTIONAL = {"torch": "PyTorch", "torchao": "torchao", "coremltools": "coremltools"}
OPTIONAL |= {"altair": "Altair", "vl_convert": "vl-convert", "jinja2": "Jinja2"}
OPTIONAL |= {"sklearn": "scikit-learn", "kmeans1d": "kmeans1d"}  # need a compiler where there is no wheel
MISSING = {module: name for module, name in OPTIONAL.items() if importlib.util.find_spec(module) is None}


def skip_what_is_missing(report: Any, path: Path) -> None:
    """Where an optional package is not installed, what fails for its want alone is skipped; nothing else is."""
    for module, name in MISSING.items():
        if report.failed and any(
            text in str(report.longrepr) for text in (f"No module named '{module}", f"needs {name}:")
        ):
            report.outcome = "skipped"
            report.longrepr = (str(path), 0, f"Skipped: needs {name}")


@pytest.hookimpl(hookwrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[None]:
    outcome: Any = yield
    skip_what_is_missing(outcome.get_result(), collector.path)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    outcome: Any = yield
    skip_what_is_missing(outcome.get_result(), item.path)


@pytest.fixture(autouse=True)
def _only_what_is_new_is_searched_for_garbage() -> None:
    """coremltools searches for garbage after each conversion. Among all that PyTorch and coremltools have loaded this
    takes half a second; what a test finds loaded is left out of it.
    """
    gc.collect()
    gc.freeze()


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


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Small models only wait for more threads of PyTorch, ten times as long where tests run in parallel."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
