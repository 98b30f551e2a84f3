"""Run coremltools' own tests of `coremltools.optimize.coreml` against corepress.

    python -m conformance [--quick] [--wording] [any option of pytest]
    python -m conformance --operations [--quick]   # its tests of MIL operations, run by corepress.runtime
    python -m conformance --torch [--quick]        # its tests of `coremltools.optimize.torch`, against corepress.torch
    python -m conformance --neural-network         # its tests of `quantization_utils`, against corepress.neural_network

Exits with 0 only if every failure is listed in `expected.yaml`, or that of the option, such as `expected_torch.yaml`,
and every test listed there fails.
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
TORCH = (
    "test/optimize/torch/test_api_surface.py",
    "test/optimize/torch/test_base_optimizer.py",
    "test/optimize/torch/conversion",
    "test/optimize/torch/layerwise_compression",
    "test/optimize/torch/palettization/test_palettization_api.py",
    "test/optimize/torch/palettization/test_palettizer.py",
    "test/optimize/torch/palettization/test_post_training_palettization.py",
    "test/optimize/torch/palettization/test_sensitive_k_means.py",
    "test/optimize/torch/pruning",
    "test/optimize/torch/quantization/test_coreml_quantizer.py",
    "test/optimize/torch/quantization/test_post_training_quantization.py",
    "test/optimize/torch/quantization/test_quantizer.py",
    "test/optimize/torch/test_utils/test_metadata_utils.py",
    "test/optimize/torch/test_utils/test_report_utils.py",
)
NETWORKS = (
    "test/neural_network/test_quantization.py",
    "test/neural_network/test_nn_builder.py",
    "test/neural_network/test_numpy_nn_layers.py",
)
OPERATIONS = ("converters/mil/mil/ops/tests",)
# Without the first, coremltools tests iOS16 only; with more threads each, the workers are in each other's way.
# There is INCLUDE_MIL_FP32_UNIT_TESTS too, but these tests expect fp16 even then, and fail for coremltools itself.
ENVIRONMENT = {"RUN_BACKWARD_COMPATIBILITY": "1", "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
# Only these are programs, and only these are as exact as what is expected.
FLOAT32_PROGRAMS = {"PYMIL_TEST_TARGETS": "mlprogram", "INCLUDE_MIL_FP32_UNIT_TESTS": "1"}


def main(arguments: list[str]) -> int:
    here = Path(__file__).parent
    spec = importlib.util.find_spec("coremltools")
    assert spec is not None and spec.origin is not None, "coremltools is needed"
    folder = Path(spec.origin).parent
    operations = "--operations" in arguments
    os.environ.update(ENVIRONMENT | (FLOAT32_PROGRAMS if operations else {}))
    others = {"--operations": OPERATIONS, "--torch": TORCH, "--neural-network": NETWORKS}
    tests = next((tests for option, tests in others.items() if option in arguments), TESTS)
    options = ["-p", "conformance.plugin", "-c", here / "pytest.ini", "--rootdir", folder, "-n", "2"]
    return pytest.main([str(part) for part in (*options, *arguments, *(folder / test for test in tests))])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
