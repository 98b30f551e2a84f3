"""The Python of the guides runs, each page from top to bottom."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
# What a page takes for granted.
GIVEN = {
    "research": """
import torch
from torch import nn

def new_model():
    return nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(512, 10),
    )

torch.manual_seed(0)
model = new_model().eval()
batches = [torch.randn(4, 3, 8, 8) for _ in range(5)]
labels = [torch.randint(0, 10, (4,)) for _ in range(5)]
""",
}
PAGES = sorted(path for path in (ROOT / "docs/guides").glob("*.md") if "```python" in path.read_text())
SLOW = ("research",)  # it trains, exports and converts; its notebook runs with the quick tests


@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=[pytest.mark.slow] * (page.stem in SLOW), id=page.stem) for page in PAGES]
)
def test_the_blocks_of_a_guide_run(page: Path, tmp_path: Path) -> None:
    for package in ("transformers", "safetensors", "torchao"):
        if package in page.read_text():
            pytest.importorskip(package)
    shutil.copytree(ROOT / "examples/digits.mlpackage", tmp_path / "given.mlpackage")
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.S)
    script = tmp_path / f"{page.stem}.py"
    script.write_text("\n".join([GIVEN.get(page.stem, ""), *blocks]))
    done = subprocess.run([sys.executable, "-W", "ignore", script], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
