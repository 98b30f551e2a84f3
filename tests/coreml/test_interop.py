"""An `MLModel` in, an `MLModel` out: and what is left of it on the disk."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.lazy import lazy

ct = lazy("coremltools")

SCRIPT = """
import sys
import corepress.coreml as cto
model = ct.models.MLModel(sys.argv[1], skip_model_load=True)
config = cto.OptimizationConfig(cto.OpLinearQuantizerConfig())
for _ in range(2):
    model = cto.linear_quantize_weights(model, config)
model.save(sys.argv[2])
"""


@pytest.mark.slow
def test_nothing_temporary_stays(package, tmp_path) -> None:
    (tmp_path / "temporary").mkdir()
    environment = {**os.environ, "TMPDIR": str(tmp_path / "temporary")}
    command = [sys.executable, "-c", SCRIPT, str(package()), str(tmp_path / "out.mlpackage")]
    subprocess.run(command, check=True, env=environment, capture_output=True)
    assert (tmp_path / "out.mlpackage/Manifest.json").is_file()
    assert not list((tmp_path / "temporary").glob("*corepress*"))
