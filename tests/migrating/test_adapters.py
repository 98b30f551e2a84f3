"""A model with low-rank adapters (LoRA): one function for each, as Apple's guide makes them, or adapters as inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import corepress
from corepress import runtime
from corepress.coreml import OpPalettizerConfig, OptimizationConfig, palettize_weights
from tests.migrating.test_shapes import converted

pytest.importorskip("coreai_torch")
WIDTH, RANK = 64, 4


class Adapted(nn.Module):
    """Two layers, each of which adds a product of two narrow matrices."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(0)  # the layers themselves are the same
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(2))
        torch.manual_seed(seed)
        self.down = nn.ParameterList(torch.randn(RANK, WIDTH) * 0.1 for _ in range(2))
        self.up = nn.ParameterList(torch.randn(WIDTH, RANK) * 0.1 for _ in range(2))

    def forward(self, x):
        for layer, down, up in zip(self.layers, self.down, self.up, strict=True):
            x = torch.relu(layer(x) + nn.functional.linear(nn.functional.linear(x, down), up))
        return x


class Given(Adapted):
    """The same, with adapters that are given with each prediction."""

    def forward(self, x, down, up):
        for number, layer in enumerate(self.layers):
            x = torch.relu(layer(x) + x @ down[number].T @ up[number].T)
        return x


def adapters(folder: Path, path: Path) -> Path:
    """One package with a function for each of two adapters, which share the layers."""
    import coremltools as ct

    description = ct.utils.MultiFunctionDescriptor()
    for seed, name in ((1, "formal"), (2, "friendly")):
        inputs = [ct.TensorType("x", (1, WIDTH))]
        one = converted(Adapted(seed), (torch.zeros(1, WIDTH),), inputs, folder / f"{name}.mlpackage")
        description.add_function(str(one), src_function_name="main", target_function_name=name)
    description.default_function_name = "formal"
    ct.utils.save_multifunction(description, str(path))
    return path


def compared(package: Path, asset: Path, sample: dict[str, Any], function: str | None = None) -> np.ndarray:
    """What the functions of both answer, which is the same."""
    [ours], [theirs] = (runtime.load(path, function=function).predict(sample).values() for path in (package, asset))
    np.testing.assert_allclose(theirs, ours, rtol=1e-4, atol=1e-5)
    return np.asarray(theirs)


@pytest.mark.parametrize("small", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_function_for_each_adapter(small: bool, tmp_path: Path) -> None:
    package = adapters(tmp_path, tmp_path / "adapters.mlpackage")
    if small:
        config = OptimizationConfig(OpPalettizerConfig(nbits=4, weight_threshold=RANK * WIDTH))
        package = palettize_weights(package, config).save(tmp_path / "small.mlpackage").path
    found = corepress.migrate(package, tmp_path / "net.aimodel")
    assert found.functions == ("formal", "friendly") and found.notes == ()
    assert found.compressed == (2 if small else 0)
    x = {"x": np.random.default_rng(0).standard_normal((1, WIDTH)).astype("f")}
    formal, friendly = (compared(package, found.path, x, name) for name in found.functions)
    assert np.abs(formal - friendly).max() > 0.1
    # What both share is written once.
    dense = 4 * (2 * WIDTH * WIDTH) if not small else 2 * WIDTH * WIDTH // 2
    assert dense < (found.path / "main.mlirb").stat().st_size < 2 * dense + 4 * 8 * RANK * WIDTH + 20_000


@pytest.mark.slow
def test_adapters_as_inputs(tmp_path: Path) -> None:
    import coremltools as ct

    shapes = {"x": (1, WIDTH), "down": (2, RANK, WIDTH), "up": (2, WIDTH, RANK)}
    example = tuple(torch.zeros(shape) for shape in shapes.values())
    inputs = [ct.TensorType(name, shape) for name, shape in shapes.items()]
    package = converted(Given(0), example, inputs, tmp_path / "given.mlpackage")
    found = corepress.migrate(package, tmp_path / "given.aimodel")
    assert found.notes == ()
    x, answers = np.random.default_rng(0).standard_normal((1, WIDTH)).astype("f"), []
    for seed in (1, 2):
        adapted = Adapted(seed)
        down, up = (torch.stack(list(part)).detach().numpy() for part in (adapted.down, adapted.up))
        answers.append(compared(package, found.path, {"x": x, "down": down, "up": up}))
        with torch.no_grad():
            np.testing.assert_allclose(answers[-1], adapted(torch.from_numpy(x)).numpy(), rtol=1e-4, atol=1e-4)
    assert np.abs(answers[0] - answers[1]).max() > 0.1
