"""Words are typed: a checker takes those that a configuration takes, and no others."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
from corepress.torch.layerwise_compression import ModuleGPTQConfig, ModuleLUTGPTQConfig
from corepress.torch.palettization import ModuleDKMPalettizerConfig, ModulePostTrainingPalettizerConfig
from corepress.torch.pruning import ModuleMagnitudePrunerConfig
from corepress.torch.quantization import ModuleLinearQuantizerConfig, ModulePostTrainingQuantizerConfig

ModulePostTrainingPalettizerConfig(n_bits=4, granularity="per_grouped_channel", group_size=4, lut_dtype="int8")
ModulePostTrainingQuantizerConfig(granularity="per_channel", quantization_scheme="affine")
ModuleLinearQuantizerConfig(algorithm="learnable", weight_observer="min_max", quantization_scheme="symmetric")
ModuleGPTQConfig(granularity="per_block", block_size=32)
ModuleLUTGPTQConfig(granularity="per_tensor")
ModuleMagnitudePrunerConfig(granularity="per_kernel")
ModuleDKMPalettizerConfig(palett_mode="gsm")
"""
WRONG = """
ModulePostTrainingPalettizerConfig(granularity="per_channel")
ModulePostTrainingQuantizerConfig(quantization_scheme="afine")
ModuleLinearQuantizerConfig(weight_observer="max")
ModuleMagnitudePrunerConfig(granularity="per_block")
ModuleDKMPalettizerConfig(palett_mode="soft")
"""


@pytest.mark.slow
def test_a_checker_knows_the_words(tmp_path) -> None:
    pytest.importorskip("mypy")
    path = tmp_path / "example.py"
    path.write_text(CODE + WRONG)
    command = [sys.executable, "-m", "mypy", "--follow-imports=silent", str(path)]
    told = subprocess.run(command, capture_output=True, text=True).stdout
    lines = {int(line.split(":")[1]) for line in told.splitlines() if "error:" in line}
    first = CODE.count("\n") + 2
    assert lines == set(range(first, first + 5)), told
