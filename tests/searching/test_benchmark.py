"""The command that measures how far a search goes: its quick part runs, and prints what it should."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "search.py"


@pytest.mark.slow
def test_the_quick_part_compares_a_search_with_others_at_the_same_bytes():
    for name in ("coremltools", "scipy", "sklearn"):
        pytest.importorskip(name)
    run = subprocess.run([sys.executable, SCRIPT, "--quick"], capture_output=True, text=True, check=True)
    rows = {
        way: next(line for line in run.stdout.splitlines() if way in line)
        for way in ("corepress, uniform", "AIMET", "corepress search")
    }
    sizes = {way: int(re.search(r"\d+,\d{3}", row)[0].replace(",", "")) for way, row in rows.items()}
    assert max(sizes.values()) == sizes["corepress, uniform"]  # which is the budget
    assert float(re.search(r"rank correlation\s+(\d\.\d+)", run.stdout)[1]) > 0.8
