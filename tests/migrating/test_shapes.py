"""Flexible shapes stay flexible: Apple's runtime answers as ours does at both ends."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import corepress
from corepress import runtime
from corepress.errors import ConfigError
from tests.decoder import package as decoder

pytest.importorskip("coreai_torch")


class Pictures(nn.Module):
    """Pictures of any size, halved and grown again, and a mean over all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(11, 4, 3, padding=1)

    def forward(self, x):
        small = torch.relu(self.down(x))
        grown = nn.functional.interpolate(small, scale_factor=2.0, mode="bilinear")
        y = self.up(torch.cat([x, grown], 1))
        return y, y.mean((2, 3))


class Words(nn.Module):
    """Attention over words, whose places are counted from the length; shapes are computed of it."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(50, 16), nn.Embedding(40, 16)
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 8)

    def forward(self, ids, mask):
        length = ids.shape[1]
        x = self.words(ids) + self.places(torch.arange(length))
        q, k, v = (part.reshape(1, length, 4, 4).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        scores = q @ k.transpose(-1, -2) / 2 + (mask[:, None, None].float() - 1) * 1e4
        y = (torch.softmax(scores, -1) @ v).transpose(1, 2).reshape(1, length, 16)
        return self.out(y)


def converted(model: nn.Module, example: tuple[Any, ...], inputs: list[Any], path: Path) -> Path:
    """A module as a package for iOS18 in float32."""
    import coremltools as ct

    torch.manual_seed(0)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(model.eval(), example, check_trace=False)
        found = ct.convert(
            traced, inputs=inputs, minimum_deployment_target=ct.target.iOS18,
            compute_precision=ct.precision.FLOAT32, skip_model_load=True,
        )  # fmt: skip
    found.save(str(path))
    return path


def pictures(folder: Path, shape: Any) -> Path:
    import coremltools as ct

    return converted(Pictures(), (torch.zeros(1, 3, 16, 16),), [ct.TensorType("x", shape)], folder / "net.mlpackage")


def agree(package: Path, asset: Path, samples: list[dict[str, np.ndarray]]) -> None:
    ours, theirs = runtime.load(package), runtime.load(asset)
    for sample in samples:
        one, other = ours.predict(sample), theirs.predict(sample)
        for name, expected in one.items():
            assert other[name].shape == expected.shape
            np.testing.assert_allclose(other[name], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_range_of_sizes(tmp_path: Path) -> None:
    import coremltools as ct

    package = pictures(tmp_path, ct.Shape((1, 3, ct.RangeDim(8, 32, 16), ct.RangeDim(8, 64, 16))))
    assert corepress.migrate(package, tmp_path / "net.aimodel").notes == ()
    rng = np.random.default_rng(0)
    sizes = [(8, 8), (16, 16), (32, 64)]
    agree(package, tmp_path / "net.aimodel", [{"x": rng.normal(size=(1, 3, *size)).astype("f")} for size in sizes])
    with pytest.raises(ConfigError, match=r"must be 1x3x8\.\.32x8\.\.64"):
        runtime.load(tmp_path / "net.aimodel").predict({"x": np.zeros((1, 3, 4, 8), "f")})


def test_enumerated_sizes(tmp_path: Path) -> None:
    import coremltools as ct

    sizes = [(1, 3, 16, 16), (1, 3, 8, 8), (1, 3, 24, 32)]
    package = pictures(tmp_path, ct.EnumeratedShapes(sizes))
    assert corepress.migrate(package, tmp_path / "net.aimodel").notes == ()
    rng = np.random.default_rng(0)
    agree(package, tmp_path / "net.aimodel", [{"x": rng.normal(size=size).astype("f")} for size in sizes])
    with pytest.raises(ConfigError, match="1x3x16x16 or 1x3x8x8 or 1x3x24x32"):
        runtime.load(tmp_path / "net.aimodel").predict({"x": np.zeros((1, 3, 16, 8), "f")})


@pytest.mark.slow
def test_shapes_that_the_program_computes_of_a_length(tmp_path: Path) -> None:
    import coremltools as ct

    several = ct.RangeDim(1, 32, 12)
    inputs = [ct.TensorType(name, (1, several), dtype=np.int32) for name in ("ids", "mask")]
    example = torch.ones(1, 12, dtype=torch.int32), torch.ones(1, 12, dtype=torch.int32)
    package = converted(Words(), example, inputs, tmp_path / "words.mlpackage")
    assert corepress.migrate(package, tmp_path / "words.aimodel").notes == ()
    rng = np.random.default_rng(0)
    samples = [
        {"ids": rng.integers(0, 50, (1, n)).astype(np.int32), "mask": (np.arange(n)[None] < n - n // 3).astype("i4")}
        for n in (1, 5, 32)
    ]
    agree(package, tmp_path / "words.aimodel", samples)


@pytest.mark.slow
def test_a_decoder_with_a_cache_takes_steps_of_any_length(tmp_path: Path) -> None:
    package = decoder(tmp_path)
    assert corepress.migrate(package, tmp_path / "decoder.aimodel").notes == ()
    steps, done = [], 0
    for tokens in (5, 1, 1, 8, 2):
        done += tokens
        mask = np.triu(np.full((tokens, done), -1e4, np.float32), done - tokens + 1)[None, None]
        steps.append({"ids": np.arange(3, 3 + tokens, dtype=np.int32)[None], "mask": mask})
    ours, theirs = (runtime.load(path).run_sequence(steps) for path in (package, tmp_path / "decoder.aimodel"))
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(other["logits"], one["logits"], rtol=1e-4, atol=1e-4)


def test_a_length_that_operations_fix_is_said(tmp_path: Path) -> None:
    import coremltools as ct

    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.randn(1, 6, 8))

        def forward(self, x):
            return (x + self.table) * 2

    package = converted(
        Fixed(), (torch.zeros(1, 6, 8),), [ct.TensorType("x", (1, ct.RangeDim(2, 9, 6), 8))], tmp_path / "f.mlpackage"
    )
    (note,) = corepress.migrate(package, tmp_path / "f.aimodel").notes
    assert "input 'x' takes 1x6x8 only, of 1x2..9x8: " in note and "a length of 6 along axis 1 only" in note
    agree(package, tmp_path / "f.aimodel", [{"x": np.ones((1, 6, 8), "f")}])
