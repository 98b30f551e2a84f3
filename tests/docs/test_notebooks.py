"""The notebooks of docs/tutorials run, and are committed with what they print."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parent.parent.parent / "docs/tutorials"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


# The quickest on every run; the others take minutes.
@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path) -> None:
    pytest.importorskip("nbclient")
    if "transformers" in path.read_text():
        pytest.importorskip("transformers")
    from tools.notebooks import run

    notebook = run(path)
    assert all(cell.execution_count for cell in notebook.cells if cell.cell_type == "code")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_committed_with_its_outputs(path: Path) -> None:
    cells: list[dict[str, Any]] = json.loads(path.read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert any(cell["outputs"] for cell in code)
    assert "/home/" not in path.read_text() and "/tmp/" not in path.read_text()


def test_each_guide_has_a_notebook() -> None:
    guides = {path.stem for path in (FOLDER.parent / "guides").glob("*.md")} - {"glossary"}
    assert guides == {path.stem for path in NOTEBOOKS}
