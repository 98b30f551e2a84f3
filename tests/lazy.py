"""Packages that are slow to import are imported when a test uses them, so that collecting tests takes seconds.

`ct = lazy("coremltools")` stands in place of `import coremltools as ct` at the top of a file, and
`KMeans = lazy("sklearn.cluster", "KMeans")` in place of `from sklearn.cluster import KMeans`.
`tests/test_collection.py` has the list of these packages.
"""

from __future__ import annotations

import importlib
from typing import Any


class Lazy:
    """A module, or a function or class of it; each attribute and call goes to what it stands for."""

    def __init__(self, module: str, name: str | None):
        self._module, self._name = module, name

    def _meant(self) -> Any:
        module = importlib.import_module(self._module)
        return module if self._name is None else getattr(module, self._name)

    def __getattr__(self, name: str) -> Any:
        if name.startswith(("__", "_mock")):  # pytest looks at all that a file holds, to see what is a test
            raise AttributeError(name)
        return getattr(self._meant(), name)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self._meant()(*arguments, **named)


def lazy(module: str, name: str | None = None) -> Any:
    return Lazy(module, name)
