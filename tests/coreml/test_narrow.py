"""Indices in fewer bits: the values stay. The oracles are these, and Apple's runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import corepress
import corepress.torch as cpt
from corepress import runtime
from corepress.coreml import (
    OpPalettizerConfig,
    OptimizationConfig,
    narrow_indices,
    palettize_weights,
)
from corepress.coreml.narrow import _narrow
from corepress.weights import Palettized, Quantized, Sparse, decompress

DIGITS = "examples/digits.mlpackage"
RNG = np.random.default_rng(0)


def tables(bits: int, used: int, kind: str = "float16") -> Palettized:
    indices = RNG.integers(0, used, (32, 48)).astype(np.uint8)
    indices.reshape(-1)[:used] = range(used)
    return Palettized(indices, (RNG.normal(size=(2, 1, 1 << bits, 1)) * 50).astype(kind))


def scaled(form: Palettized) -> Palettized:
    """The entries of its tables are integers with a scale each."""
    lut: Any = form.lut
    return Palettized(form.indices, Quantized(lut.astype(np.int8), RNG.random(lut.shape).astype(np.float16) + 0.5))


@pytest.mark.parametrize(("bits", "used", "expected"), [(4, 8, 3), (4, 9, 4), (8, 60, 6), (8, 17, 6), (6, 2, 1)])
@pytest.mark.parametrize("kind", ["tables", "integers", "scaled", "sparse"])
def test_a_form_takes_as_few_bits_as_its_indices_need(kind: str, bits: int, used: int, expected: int) -> None:
    inner = tables(bits, used, "int8" if kind == "integers" else "float16")
    form: Any = {
        "tables": inner,
        "integers": Quantized(inner, np.full((32, 1), 0.5, np.float16)),
        "scaled": scaled(inner),
        "sparse": Sparse(RNG.random((32, 48)) > 0.3, inner),
    }[kind]
    found = _narrow(form)
    assert type(found) is type(form) and (found is form) == (bits == expected)
    held = found.data if kind == "integers" else found.values if kind == "sparse" else found
    assert held.bits == expected
    np.testing.assert_array_equal(decompress(found), decompress(form))


def test_a_package_that_needs_its_bits_stays_as_it_is(caplog: Any) -> None:
    small = palettize_weights(DIGITS, OptimizationConfig(OpPalettizerConfig(nbits=4, weight_threshold=0)))
    found = narrow_indices(small)
    assert [weight.bits_per_weight for weight in found.weights()] == [w.bits_per_weight for w in small.weights()]
    assert "no weight is narrowed" in caplog.text


@pytest.mark.slow
def test_a_module_of_3_bits_has_3_in_its_core_ai_model(tmp_path: Path, caplog: Any) -> None:
    coreai_torch = pytest.importorskip("coreai_torch")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 32)).eval()
    fields = {"n_bits": 3, "granularity": "per_grouped_channel", "group_size": 16}
    config = cpt.palettization.PostTrainingPalettizerConfig.from_dict({"global_config": fields})
    small, x = cpt.palettization.PostTrainingPalettizer(model, config).compress(), torch.randn(4, 64)
    program = torch.export.export(cpt.for_coreai(small), (x,)).run_decompositions(coreai_torch.get_decomp_table())
    assert "narrow_indices makes 3 of them" in caplog.text
    converter = coreai_torch.TorchConverter().add_exported_program(program, input_names=["x"], output_names=["y"])
    converter.to_coreai().save_asset(tmp_path / "model.aimodel")
    found = narrow_indices(tmp_path / "model.aimodel").save(tmp_path / "small.aimodel")
    wide = corepress.load(tmp_path / "model.aimodel")
    bits = [[w.read().bits for w in one.weights() if w.compression] for one in (wide, found)]
    assert bits == [[4, 4], [3, 3]] and found.size() < wide.size()
    one, other = (runtime.load(path).predict({"x": x.numpy()})["y"] for path in (wide.path, found.path))
    np.testing.assert_array_equal(one, other)
