"""The GPU kernels give the products that dense weights give; natively on a GPU, else in Triton's interpreter."""

from __future__ import annotations

import os
import sys

import numpy as np
import pytest
import torch

from corepress.runtime.packed import Packed, pack
from corepress.runtime.packed import weight as chooser
from corepress.weights import Palettized, Quantized
from tests.runtime.packed.test_packed import palettized, quantized, rng
from tests.runtime.test_zoo import distance

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu":
    if "triton" not in sys.modules:  # which reads this as it is imported
        os.environ.setdefault("TRITON_INTERPRET", "1")
    if os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("needs a GPU, or Triton's interpreter", allow_module_level=True)
pytest.importorskip("triton")

from corepress.runtime.packed import gpu  # noqa: E402

LIMITS = {torch.float32: 1e-5, torch.float16: 1e-3}


def packed(weight: Palettized | Quantized) -> Packed:
    small = pack(weight, torch.float16 if weight.dtype == np.float16 else torch.float32)
    assert small is not None
    return small.to(DEVICE)


def check(weight: Palettized | Quantized) -> None:
    small, dense = packed(weight), torch.from_numpy(weight.decompress())
    for batch in (1, 3, 17):
        x = torch.from_numpy(rng.normal(size=(batch, small.columns))).to(small.dtype)
        found = gpu.multiply(small, x.to(DEVICE), small.dtype).cpu()
        assert found.shape == (batch, small.rows)
        expected = x.float() @ dense.float().T
        assert distance(found.float().numpy(), expected.numpy()) <= LIMITS[small.dtype]
    tile = torch.full((14, small.columns), torch.nan, dtype=small.dtype, device=DEVICE)
    gpu.spread(small, 5, tile)
    torch.testing.assert_close(tile.cpu(), dense[5:19], rtol=LIMITS[small.dtype], atol=LIMITS[small.dtype])


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("columns", [160, 37])
@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6, 8])
def test_palettized(bits, groups, columns, dtype) -> None:
    check(palettized(bits, groups, columns, dtype))


@pytest.mark.parametrize(("dtype", "offset"), [("float32", True), ("float16", False)])
@pytest.mark.parametrize(
    ("groups", "blocks", "columns"),
    [(1, 1, 37), (24, 1, 37), (24, 4, 64), (24, 4, 36), (6, 5, 35), (6, 3, 96), (6, 2, 256), (6, 37, 37)],
)
@pytest.mark.parametrize(("bits", "kind"), [(4, "int8"), (4, "uint8"), (8, "int8"), (8, "uint8")])
def test_quantized(bits, kind, groups, blocks, columns, offset, dtype) -> None:
    check(quantized(bits, kind, groups, blocks, columns, dtype, offset))


@pytest.mark.parametrize("blocks", [1, 2, 16])
@pytest.mark.parametrize("bits", [1, 3, 4, 8])
def test_a_palettized_weight_under_scales(bits, blocks) -> None:
    scale = rng.uniform(0.5, 2, (12, blocks)).astype(np.float32)
    check(Quantized(palettized(bits, 4, 64, "float32"), scale))


@pytest.mark.parametrize("bits", [1, 4, 6, 8])
def test_rows_longer_than_a_program_takes_at_a_time(bits) -> None:
    check(palettized(bits, 4, 8 * gpu._UNITS + 3, "float32"))


def test_many_rows_are_multiplied_tile_by_tile(monkeypatch) -> None:
    monkeypatch.setattr(gpu, "_TILE", 64 * 7)
    check(palettized(4, 4, 64, "float32"))


@pytest.mark.parametrize("batch", [0, 1, 2, 8, 9])
def test_a_layer_takes_the_kernels_on_a_gpu(batch, monkeypatch) -> None:
    monkeypatch.setattr(chooser, "_gpu_kernels", lambda device: gpu)
    small = packed(quantized(4, "int8", 24, 4, 64, "float16", True))
    x = torch.from_numpy(rng.normal(size=(batch, 2, 64))).half().to(DEVICE)
    bias = torch.ones(24, dtype=torch.float16, device=DEVICE)
    found = small(x.transpose(0, 1), bias)
    dense = small.dense(0, 24)
    expected = x.transpose(0, 1).float() @ dense.T + 1
    assert found.dtype == torch.float16 and found.shape == expected.shape
    torch.testing.assert_close(found.float(), expected, rtol=2e-3, atol=2e-3)
