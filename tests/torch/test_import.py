"""`import corepress.torch` costs little more than `import torch`."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

SCRIPT = """
import json, sys
import torch
before = set(sys.modules)
import corepress.torch
print(json.dumps(sorted(set(sys.modules) - before)))
"""
# What takes long to import, and only some uses need.
HEAVY = {
    "cattrs", "coremltools", "jinja2", "mpmath", "onnx", "rich", "safetensors", "scipy", "sklearn", "sympy", "torchao",
    "transformers", "yaml",
}  # fmt: skip
HEAVY_PARTS = (
    "torch._dynamo", "torch._functorch", "torch._inductor", "torch.distributed.fsdp", "torch.distributed.tensor",
    "torch.fx.experimental", "torch.onnx", "torch.testing",
)  # fmt: skip


@pytest.fixture(scope="module")
def imported() -> list[str]:
    """What `import corepress.torch` imports that `import torch` has not, in a process of its own."""
    ran = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    found: list[str] = json.loads(ran.stdout)
    return found


def test_it_imports_nothing_heavy(imported: list[str]) -> None:
    assert not [name for name in imported if name.split(".")[0] in HEAVY]
    assert not [name for name in imported if name.startswith(HEAVY_PARTS)]
    assert "corepress.torch.palettization" in imported
