"""The examples of README.md run, and type checkers accept them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.process import python

ROOT = Path(__file__).parent.parent
EXAMPLES = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.S)
# What an example takes for granted.
GIVEN = {
    "PostTrainingPalettizer(model": "import torch\n\nmodel = torch.nn.Sequential(torch.nn.Linear(64, 64))\n",
    "tokenizer(sentences": """
from typing import Any

import numpy as np

sentences = ["one sentence"] * 64


def tokenizer(texts: list[str], max_length: int, **_: Any) -> dict[str, Any]:
    tokens = np.ones((len(texts), max_length), np.int64)
    return {"input_ids": tokens, "attention_mask": tokens}


""",
}
MISTAKES = """
import corepress as cto

cto.coreml.OpPalettizerConfig(mode="kmean", nbits=4)
cto.coreml.OpLinearQuantizerConfig(granularity="per_chanel")
cto.coreml.OpLinearQuantizerConfig(dtype="int5")
cto.coreml.palettize_weights("m.mlpackage", cto.coreml.OptimizationConfig(), joint_compresion=True)
"""
RIGHT = """
from pathlib import Path

import corepress as cto

config = cto.coreml.OptimizationConfig(cto.coreml.OpLinearQuantizerConfig("linear", "int4", "per_block"))
model = cto.coreml.linear_quantize_weights(Path("m.mlpackage"), config, joint_compression=True, target="iOS18")
model = cto.coreml.calibrated.palettize_weights(mlmodel=model, config=config, sample_data=[])
cto.coreml.experimental.OpActivationLinearQuantizerConfig(mode="linear")
print(cto.report("m.mlpackage").ratio, cto.report(model).to_json())
"""


def example(text: str) -> str:
    return next((given for mark, given in GIVEN.items() if mark in text), "") + text


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 2 and "import corepress as cto" in EXAMPLES[0]


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_an_example_runs(number: int, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "examples/digits.mlpackage", tmp_path / "model.mlpackage")
    done = python(example(EXAMPLES[number]), tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.slow  # mypy reads all of the package
def test_type_checkers_accept_the_examples_and_see_mistakes(tmp_path: Path) -> None:
    for number, text in enumerate(EXAMPLES):
        (tmp_path / f"example_{number}.py").write_text(example(text))
    (tmp_path / "right.py").write_text(RIGHT)
    (tmp_path / "mistakes.py").write_text(MISTAKES)
    (tmp_path / "mypy.ini").write_text(f"[mypy]\nstrict = True\nmypy_path = {ROOT / 'src'}\n")
    files = sorted(path.name for path in tmp_path.glob("*.py"))
    done = subprocess.run([sys.executable, "-m", "mypy", *files], capture_output=True, text=True, cwd=tmp_path)
    found = re.findall(r"^(\w+)\.py:(\d+): error: ", done.stdout, flags=re.M)
    assert sorted(set(found)) == [("mistakes", str(line)) for line in (4, 5, 6, 7)], done.stdout
