"""Batches that a module can't take are one sentence, with their shapes, wherever a module is run for a caller."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import corepress as cto
from corepress.errors import ConfigError
from corepress.torch.calls import Call
from corepress.torch.layerwise_compression import LayerwiseCompressor, LayerwiseCompressorConfig
from corepress.torch.palettization import SKMPalettizer, SKMPalettizerConfig
from corepress.torch.quantization import (
    LinearQuantizer,
    LinearQuantizerConfig,
    PostTrainingQuantizer,
    PostTrainingQuantizerConfig,
)

NARROW = [torch.zeros(4, 32)] * 20


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rows, self.words = nn.Linear(64, 64), nn.Embedding(10, 64)

    def forward(self, x: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        return self.rows(x) + self.words(ids)


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def searched(batches: Any) -> Any:
    return cto.torch.search(model(), batches, bits=4)


def layerwise(batches: Any, **settings: Any) -> Any:
    given = {"global_config": {"algorithm": "gptq", "weight_dtype": "uint4"}, "calibration_nsamples": 8, **settings}
    return LayerwiseCompressor(model(), LayerwiseCompressorConfig.from_dict(given)).compress(batches, "cpu")


def with_original(batches: Any) -> Any:
    return layerwise(batches, match_original=True)


def by_sensitivity(batches: Any) -> Any:
    config = SKMPalettizerConfig.from_dict({"global_config": {"n_bits": 4}, "calibration_nsamples": 8})
    return SKMPalettizer(model(), config).compress(batches, lambda module, batch: module(batch).square().mean())


def activation_aware(batches: Any) -> Any:
    settings = {"global_config": {"weight_dtype": "int4", "activation_aware_scale": True}}
    return PostTrainingQuantizer(model(), PostTrainingQuantizerConfig.from_dict(settings)).compress(dataloader=batches)


@pytest.mark.parametrize("work", [searched, layerwise, with_original, by_sensitivity, activation_aware])
def test_a_batch_of_the_wrong_width_is_named_with_its_shape(work: Callable[[Any], Any]) -> None:
    with pytest.raises(ConfigError, match="float32 4x32: mat1 and mat2 shapes cannot be multiplied") as caught:
        work(NARROW)
    assert isinstance(caught.value.__cause__, RuntimeError)  # for those who look for a mistake in their module


@pytest.mark.parametrize(("batch", "sentence"), [
    (torch.zeros(4, 64), "'x' float32 4x64: .*missing 1 required positional argument: 'ids'"),
    ((torch.zeros(4, 64), torch.zeros(4)), "'x' float32 4x64, 'ids' float32 4: Expected tensor"),
    ({"x": torch.zeros(4, 64), "idz": torch.zeros(4)}, "'idz' float32 4: .*unexpected keyword argument 'idz'"),
    ((torch.zeros(4, 64), torch.full((4,), 99)), "'ids' int64 4: index out of range"),
    (("text", 3), r"'x' \(str\), 'ids' \(int\): "),
    ((torch.zeros(1), torch.zeros(1), torch.zeros(())), "'0' float32 1, '1' float32 1, '2' float32 scalar: .*takes"),
])  # fmt: skip
def test_inputs_have_the_names_of_the_module(batch: Any, sentence: str) -> None:
    with pytest.raises(ConfigError, match=f"the model can't be run on a batch of .*{sentence}"):
        Call.of(batch).answer(Two())


def test_too_little_memory_is_no_fault_of_the_batch() -> None:
    class Large(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    with pytest.raises(RuntimeError, match="can't allocate memory"):
        Call.of(torch.zeros(1)).answer(Large())


def test_what_does_not_fit_is_no_traceback(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    LinearQuantizer(model(), LinearQuantizerConfig.from_dict({"global_config": {}})).prepare(torch.zeros(1, 32))
    assert "example_inputs do not fit the model" in caplog.text
    assert "Traceback" not in capfd.readouterr().err
