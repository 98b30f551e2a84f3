"""The table of operations is up to date, and its data are coremltools'."""

from __future__ import annotations

import subprocess
import sys

import pytest
from tools.operations_table import PAGE, page

import corepress.runtime.ops  # noqa: F401 - fills the registry
from corepress.runtime.opsets import BY_INTERPRETER, KNOWN
from corepress.runtime.registry import OPERATIONS


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text() == page(), "run `python -m tools.operations_table`"


def test_every_function_is_an_operation_of_mil() -> None:
    assert set(OPERATIONS) <= set(KNOWN)
    for name, known in OPERATIONS.items():
        assert known.group == KNOWN[name].group not in BY_INTERPRETER


def test_the_operation_sets_are_coremltools() -> None:
    ct = pytest.importorskip("coremltools")
    from coremltools.converters.mil.mil.ops.registry import SSAOpRegistry

    since = {
        name: max(min(variants), ct.target.iOS15).name
        for name, variants in SSAOpRegistry.core_ops.items()
        if not name.startswith("_")
    }
    # Neither is an operation of programs that are being built; files hold the second for the first.
    since |= {"coreml_update_state": "iOS18", "write_state": "iOS18"}
    assert {name: known.since for name, known in KNOWN.items()} == since


def test_the_runtime_needs_no_coremltools() -> None:
    script = "import sys, corepress.runtime.ops, corepress.runtime.opsets; print('coremltools' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "False"
