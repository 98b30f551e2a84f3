"""The metrics that docs/search.md shows are measured by `corepress search --metric`."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from corepress.cli.searching import function_in
from tests.cli.test_cli import corepress

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the page takes the example and its images to be."""
    (text,) = re.findall(r"```python\n(import numpy as np\n.*?def accuracy.*?)```", _page(), flags=re.S)
    (tmp_path / "metric.py").write_text(text)
    shutil.copy(ROOT / "examples/digits_test.npz", tmp_path / "images.npz")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _page() -> str:
    return (ROOT / "docs/search.md").read_text()


def test_they_measure_what_they_say(folder: Path) -> None:
    from corepress import runtime

    model: Any = runtime.load(ROOT / "examples/digits.mlpackage")
    test = np.load("images.npz")
    assert 95 < function_in("metric.py:accuracy")(model) <= 100
    sample = {"image": test["images"][:1]}
    outputs = model.predict(sample)
    scores = sorted(outputs["logits"].ravel().tolist())
    assert function_in("metric.py:certainty")(outputs, sample) == pytest.approx(scores[-1] - scores[-2])


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["accuracy", "certainty"])
def test_a_search_runs_by_them(folder: Path, metric: str) -> None:
    options = ["--max-drop", 0.5, "--metric", f"metric.py:{metric}", "--points", 1, "--forms", "palettized"]
    done = corepress(
        "search",
        ROOT / "examples/digits.mlpackage",
        "-o",
        "small.mlpackage",
        "--data",
        "images.npz",
        *options,
        cwd=folder,
    )
    assert metric in done.stdout and (folder / "small.mlpackage").is_dir()
