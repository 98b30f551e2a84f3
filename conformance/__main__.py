"""Run coremltools' own tests of `coremltools.optimize.coreml` against corepress.

    python -m conformance [--quick] [--wording] [any option of pytest]
    python -m conformance --operations [--quick]   # its tests of MIL operations, run by corepress.runtime
    python -m conformance --torch [--quick]        # its tests of `coremltools.optimize.torch`, against corepress.torch
    python -m conformance --neural-network         # its tests of `quantization_utils`, against corepress.neural_network

Exits with 0 only if every failure is listed in `expected.yaml`, or that of the option, such as `expected_torch.yaml`,
and every test listed there fails, with the text that is listed; and if every test file of the peer is run, or listed
there under `files_left_out`.
"""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from pathlib import Path

import pytest
import yaml

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
    "test/optimize/torch/smoke_test.py",
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
    "test/neural_network/test_simple_nn_inference.py",
)
OPERATIONS = ("converters/mil/mil/ops/tests",)
# Without the first, coremltools tests iOS16 only; with more threads each, the workers are in each other's way.
# There is INCLUDE_MIL_FP32_UNIT_TESTS too, but these tests expect fp16 even then, and fail for coremltools itself.
ENVIRONMENT = {"RUN_BACKWARD_COMPATIBILITY": "1", "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
# Only these are programs, and only these are as exact as what is expected.
FLOAT32_PROGRAMS = {"PYMIL_TEST_TARGETS": "mlprogram", "INCLUDE_MIL_FP32_UNIT_TESTS": "1"}


# The folders of each part, in which every test file is run or listed.
FOLDERS = {
    "": ("test/optimize/*.py", "test/optimize/api", "test/optimize/coreml", "optimize/coreml"),
    "--operations": OPERATIONS,
    "--torch": ("test/optimize/torch",),
    "--neural-network": ("test/neural_network",),
}


def unlisted(folder: Path, option: str, tests: tuple[str, ...]) -> list[str]:
    """The test files of the peer that are neither run nor listed as left out, and those that are listed but not there.

    `folder`: of coremltools. `tests`: what is run.
    """
    name = f"expected{option[1:].replace('-', '_')}.yaml"
    lists = yaml.safe_load(Path(__file__).with_name(name).read_text(encoding="utf-8"))
    left_out = {file for files in lists.get("files_left_out", {}).values() for file in files}
    run = tuple(test.partition("::")[0] for test in tests)
    files = set()
    for part in FOLDERS[option]:
        found = folder.glob(part) if part.endswith(".py") else (folder / part).rglob("*.py")
        files |= {file.relative_to(folder).as_posix() for file in found if re.match(r"test_|.*_test$", file.stem)}
    missing = {file for file in files if not any(file == part or file.startswith(f"{part}/") for part in run)}
    return sorted(missing ^ left_out)


def main(arguments: list[str]) -> int:
    here = Path(__file__).parent
    spec = importlib.util.find_spec("coremltools")
    assert spec is not None and spec.origin is not None, "coremltools is needed"
    folder = Path(spec.origin).parent
    operations = "--operations" in arguments
    os.environ.update(ENVIRONMENT | (FLOAT32_PROGRAMS if operations else {}))
    others = {"--operations": OPERATIONS, "--torch": TORCH, "--neural-network": NETWORKS}
    option, tests = next((each for each in others.items() if each[0] in arguments), ("", TESTS))
    if astray := unlisted(folder, option, tests):
        print(f"neither run nor listed as left out, or listed but not there or run: {', '.join(astray)}")
        return 1
    options = ["-p", "conformance.plugin", "-c", here / "pytest.ini", "--rootdir", folder, "-n", "2"]
    return pytest.main([str(part) for part in (*options, *arguments, *(folder / test for test in tests))])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
