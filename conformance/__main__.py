"""Run coremltools' own tests of `coremltools.optimize.coreml` against corepress.

    python -m conformance [--quick] [--wording] [any option of pytest]

Exits with 0 only if every failure is listed in `expected.yaml`, and every test listed there fails.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import pytest

TESTS = (
    "test/optimize/coreml/test_post_training_quantization.py",
    "test/optimize/coreml/test_passes.py",
    "test/optimize/api/test_optimize_api.py",
    "test/api/test_api_visibilities.py::TestApiVisibilities::test_optimize_coreml",
    "test/ml_program/test_utils.py::TestBisectModel::test_compressed_model",
    "optimize/coreml/experimental/test_post_training_quantization.py",
)
# Without the first, coremltools tests iOS16 only; with more threads each, the workers are in each other's way.
# There is INCLUDE_MIL_FP32_UNIT_TESTS too, but these tests expect fp16 even then, and fail for coremltools itself.
ENVIRONMENT = {"RUN_BACKWARD_COMPATIBILITY": "1", "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}


def main(arguments: list[str]) -> int:
    here = Path(__file__).parent
    spec = importlib.util.find_spec("coremltools")
    assert spec is not None and spec.origin is not None, "coremltools is needed"
    folder = Path(spec.origin).parent
    os.environ.update(ENVIRONMENT)
    options = ["-p", "conformance.plugin", "-c", here / "pytest.ini", "--rootdir", folder, "-n", "2"]
    return pytest.main([str(part) for part in (*options, *arguments, *(folder / test for test in TESTS))])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
