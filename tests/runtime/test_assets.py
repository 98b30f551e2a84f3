"""What Apple's runtime says of itself stays off the standard error stream."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import corepress
from corepress import runtime

pytest.importorskip("coreai_torch")


def test_nothing_is_said_while_a_model_is_loaded_and_run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    corepress.migrate("examples/digits.mlpackage", tmp_path / "digits.aimodel")
    capfd.readouterr()
    runtime.load(tmp_path / "digits.aimodel").predict({"image": np.zeros((1, 1, 8, 8), np.float32)})
    assert capfd.readouterr() == ("", "")
