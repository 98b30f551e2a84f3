"""corepress: make machine-learning models small for Apple's Core ML, on any machine.

`import corepress as cto` replaces `import coremltools.optimize as cto`. Heavy parts are imported on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from corepress.errors import (
    ConfigError,
    CorepressError,
    DataError,
    FormatError,
    Missed,
    MissingDependencyError,
    OrderError,
    OutputError,
    ResourceError,
    UnsupportedError,
)
from corepress.version import __version__ as __version__

if TYPE_CHECKING:
    from corepress import coreml as coreml
    from corepress import neural_network as neural_network
    from corepress import runtime as runtime
    from corepress import torch as torch
    from corepress.augmenting.augment import augment as augment
    from corepress.description import Description as Description
    from corepress.description import describe as describe
    from corepress.formats.mlprogram import Model as Model
    from corepress.formats.opening import load as load
    from corepress.linting import Findings as Findings
    from corepress.linting import lint as lint
    from corepress.migrating.migrate import Migration as Migration
    from corepress.migrating.migrate import Prospect as Prospect
    from corepress.migrating.migrate import foresee_migration as foresee_migration
    from corepress.migrating.migrate import migrate as migrate
    from corepress.refining.refine import refine as refine
    from corepress.refining.result import Refinement as Refinement
    from corepress.reports import Report as Report
    from corepress.reports import report as report
    from corepress.reports.comparison import Comparison as Comparison
    from corepress.reports.comparison import compare as compare
    from corepress.searching.result import Result as Result
    from corepress.searching.search import search as search
    from corepress.split import hold_back as hold_back
    from corepress.tokenizing.builtin import texts as texts
    from corepress.tokenizing.tokenize import tokenize as tokenize
    from corepress.verification import Verification as Verification
    from corepress.verification import verify as verify

__all__ = [
    "Comparison",
    "ConfigError",
    "CorepressError",
    "DataError",
    "Description",
    "Findings",
    "FormatError",
    "Migration",
    "Missed",
    "MissingDependencyError",
    "Model",
    "OrderError",
    "OutputError",
    "Prospect",
    "Refinement",
    "Report",
    "ResourceError",
    "Result",
    "UnsupportedError",
    "Verification",
    "compare",
    "coreml",
    "describe",
    "foresee_migration",
    "hold_back",
    "lint",
    "load",
    "migrate",
    "neural_network",
    "refine",
    "report",
    "runtime",
    "search",
    "texts",
    "tokenize",
    "torch",
    "verify",
]

_LAZY = {
    "augment": "corepress.augmenting.augment",
    "Comparison": "corepress.reports.comparison",
    "compare": "corepress.reports.comparison",
    "Model": "corepress.formats.mlprogram",
    "load": "corepress.formats.opening",
    "Description": "corepress.description",
    "describe": "corepress.description",
    "Findings": "corepress.linting",
    "lint": "corepress.linting",
    "Migration": "corepress.migrating.migrate",
    "Prospect": "corepress.migrating.migrate",
    "foresee_migration": "corepress.migrating.migrate",
    "migrate": "corepress.migrating.migrate",
    "Refinement": "corepress.refining.result",
    "refine": "corepress.refining.refine",
    "Report": "corepress.reports",
    "report": "corepress.reports",
    "Result": "corepress.searching.result",
    "search": "corepress.searching.search",
    "hold_back": "corepress.split",
    "texts": "corepress.tokenizing.builtin",
    "tokenize": "corepress.tokenizing.tokenize",
    "Verification": "corepress.verification",
    "verify": "corepress.verification",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    if name in ("coreml", "neural_network", "runtime", "targets", "torch"):
        return importlib.import_module(f"corepress.{name}")
    raise AttributeError(f"module 'corepress' has no attribute {name!r}")
