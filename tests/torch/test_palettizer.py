"""PostTrainingPalettizer, and what all methods owe the model that they are given."""

from __future__ import annotations

import copy
import logging

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from corepress.algorithms import kmeans1d
from corepress.torch.metadata import array_of, read_weight
from corepress.torch.parameters import parameters
from corepress.weights import Palettized, decompress
from tests.torch.models import compress, mlp, optimizer

MODES = [
    *({"n_bits": bits} for bits in (1, 2, 3, 4, 6, 8)),
    {"n_bits": 4, "enable_fast_kmeans_mode": False},
    {"n_bits": 4, "granularity": "per_grouped_channel", "group_size": 4},
    {"n_bits": 3, "granularity": "per_grouped_channel", "group_size": 8, "channel_axis": 1},
    {"n_bits": 4, "enable_per_channel_scale": True},
    {"n_bits": 4, "lut_dtype": "int8"},
    {"n_bits": 4, "lut_dtype": "uint8", "granularity": "per_grouped_channel", "group_size": 4},
    {"n_bits": 4, "cluster_dim": 2},
    {"n_bits": 4, "cluster_dim": 4, "channel_axis": 1},
]


def squared_error(model: nn.Module, compressed: nn.Module) -> float:
    pairs = zip(model.parameters(), compressed.parameters(), strict=True)
    return sum(float((a.double() - b.double()).detach().square().sum()) for a, b in pairs)


def mixed(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(8, 16, 3), nn.Flatten(), nn.Linear(256, 64), nn.Linear(64, 16))


@pytest.mark.parametrize("options", MODES, ids=str)
def test_the_squared_error_is_no_larger_than_that_of_coremltools(options) -> None:
    peer = pytest.importorskip("coremltools.optimize.torch.palettization")
    model = mixed()
    config = peer.PostTrainingPalettizerConfig.from_dict({"global_config": options})
    theirs = peer.PostTrainingPalettizer(copy.deepcopy(model), config).compress()
    ours = compress("palettize", model, **options)
    # Vectors are clustered by heuristics, here and there, and chance decides; scalars exactly.
    slack = 0.01 if options.get("cluster_dim") else 1e-6
    assert squared_error(model, ours) <= squared_error(model, theirs) * (1 + slack)


@pytest.mark.parametrize("k", [2, 16, 64, 256])
@pytest.mark.parametrize("spread", ["normal", "heavy tails", "an outlier", "tiny", "huge", "many zeros"])
def test_bins_are_nearly_optimal_and_entries_the_nearest(spread, k) -> None:
    rng = np.random.default_rng(k)
    rows = rng.normal(size=(2, 40_000)).astype(np.float32)
    rows *= {"tiny": np.float32(1e-30), "huge": np.float32(1e30)}.get(spread, np.float32(0.02))
    if spread == "heavy tails":
        rows = rng.standard_t(2, rows.shape).astype(np.float32)
    elif spread == "an outlier":
        rows[0, 7] = 50.0
    elif spread == "many zeros":
        rows[rng.random(rows.shape) < 0.7] = 0
        rows[0, :3] = -0.0
    importance = rng.random(rows.shape) if k == 16 else None
    exact_lut, exact = kmeans1d.quantize_rows(rows, k, importance)
    lut, indices = kmeans1d.quantize_rows(rows, k, importance, binned=True)

    def error(table, chosen):
        weights = 1.0 if importance is None else importance
        differences = np.take_along_axis(table.astype(np.float64), chosen.astype(int), axis=1) - rows
        return (weights * (differences / np.abs(rows).max()) ** 2).sum()

    assert error(lut, indices) <= error(exact_lut, exact) * 1.001
    nearest = np.abs(rows[:, :2000, None].astype(np.float64) - lut[:, None].astype(np.float64)).min(axis=2)
    chosen = np.take_along_axis(lut.astype(np.float64), indices[:, :2000].astype(int), axis=1)
    np.testing.assert_array_equal(np.abs(rows[:, :2000] - chosen), nearest)


def test_numbers_in_few_bins_are_clustered_exactly() -> None:
    rows = np.random.default_rng(0).uniform(1, 1.01, (1, 40_000)).astype(np.float32)
    results = [kmeans1d.quantize_rows(rows, 16, binned=binned) for binned in (False, True)]
    for exact, binned in zip(*results, strict=True):
        np.testing.assert_array_equal(exact, binned)


def test_a_palettized_module_is_what_its_buffers_say() -> None:
    palettizer = optimizer("palettize", mlp(), n_bits=2, granularity="per_grouped_channel", group_size=16)
    model = palettizer.compress()
    weight = read_weight(next(parameters(model)))
    assert isinstance(weight, Palettized) and weight.lut.shape == (4, 1, 4, 1)
    np.testing.assert_array_equal(decompress(weight), array_of(model[0].weight))
    row = palettizer.report()["0.weight"]
    assert row["#params"] == 2048 and row["stored_bytes"] == 2048 * 2 / 8 + 4 * 4 * 4
    assert row["error"] == pytest.approx(
        float((mlp()[0].weight - model[0].weight).detach().square().mean().sqrt()), rel=1e-4
    )
    assert "palettization_mode" in repr(palettizer.report())


@pytest.mark.parametrize("inplace", [True, False])
def test_inplace(inplace) -> None:
    model = mlp()
    before, storage = copy.deepcopy(model.state_dict()), model[0].weight.data_ptr()
    compressed = compress("palettize", model, inplace=inplace)
    assert (compressed is model) == inplace
    assert model[0].weight.data_ptr() == storage
    assert torch.equal(before["0.weight"], model[0].weight) != inplace
    assert isinstance(compressed[0].weight, nn.Parameter) and compressed[0].weight.requires_grad


@pytest.mark.parametrize("method", ["palettize", "quantize"])
def test_a_shared_weight_is_compressed_once_and_stays_shared(method) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(32, 16), nn.Linear(16, 32, bias=False)
            self.head.weight = self.embed.weight

    made = optimizer(method, Tied())
    model = made.compress()
    assert model.head.weight is model.embed.weight
    assert set(made.report()) == {"embed.weight", "head.weight"}
    forms = [read_weight(parameter) for parameter in parameters(model)]
    np.testing.assert_array_equal(decompress(forms[0]), decompress(forms[1]))
    np.testing.assert_array_equal(decompress(forms[0]), array_of(model.embed.weight))


@pytest.mark.parametrize("method", ["palettize", "quantize"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types_stay_what_they_are(method, dtype) -> None:
    model = mlp().to(dtype)
    compressed = compress(method, model)
    assert compressed[0].weight.dtype == dtype
    error = float((compressed[0].weight - model[0].weight).detach().double().square().mean().sqrt())
    assert 0 < error < 0.01
    form = read_weight(next(parameters(compressed)))
    rounded = torch.from_numpy(decompress(form)).to(dtype)
    assert torch.equal(rounded, compressed[0].weight)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("norm", [parametrizations.weight_norm, nn.utils.weight_norm, parametrizations.spectral_norm])
@pytest.mark.parametrize("used", [True, False])
def test_weights_that_are_computed_from_others_are_baked(norm, used) -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(norm(nn.Linear(16, 8))).eval(), torch.randn(2, 16)
    expected = model(x) if used else None
    compressed = compress("palettize", model, n_bits=8)
    expected = model(x) if expected is None else expected
    assert isinstance(compressed[0].weight, nn.Parameter)
    assert not any("original" in name or name.endswith(("_g", "_v")) for name in compressed.state_dict())
    torch.testing.assert_close(compressed(x), expected, atol=0.02, rtol=0)
    torch.testing.assert_close(model(x), expected)  # which still is what it was


def test_weights_that_can_not_be_compressed_are_counted_and_unchanged(caplog) -> None:
    model = mlp()
    with torch.no_grad():
        model[2].weight[3, 4] = torch.nan
    palettizer = optimizer("palettize", model, granularity="per_grouped_channel", group_size=64)
    compressed = palettizer.compress()
    assert set(palettizer.report()) == {"0.weight"}
    assert set(palettizer.report().skipped) == {"2.weight"}
    assert "2.weight: left as it is" in caplog.text
    torch.testing.assert_close(compressed[2].weight, model[2].weight, equal_nan=True)
    assert not any(name.startswith("2._COREML_") for name in compressed.state_dict())


def test_nan_of_a_whole_tensor_is_a_reason() -> None:
    model = mlp()
    nn.init.constant_(model[0].weight, torch.nan)
    palettizer = optimizer("palettize", model)
    palettizer.compress()
    assert "NaN" in palettizer.report().skipped["0.weight"]


def test_a_model_on_the_meta_device_is_left_alone() -> None:
    palettizer = optimizer("palettize", mlp().to("meta"))
    palettizer.compress()
    assert not palettizer.report()
    assert all("meta device" in reason for reason in palettizer.report().skipped.values())


@pytest.mark.parametrize("method", ["palettize", "quantize"])
@pytest.mark.parametrize("model", [nn.Identity(), nn.Sequential(nn.ReLU(), nn.LayerNorm(4))], ids=str)
def test_a_model_without_weights(method, model) -> None:
    made = optimizer(method, model)
    made.compress()
    assert not made.report() and not made.report().skipped
    assert repr(made.report()) == ""


def test_compressed_twice_is_a_reason_not_a_second_loss() -> None:
    once = compress("palettize", mlp())
    again = optimizer("quantize", once)
    twice = again.compress()
    assert torch.equal(once[0].weight, twice[0].weight)
    assert again.report().skipped["0.weight"] == "it is compressed already"


def test_the_same_model_for_any_number_of_threads(caplog) -> None:
    caplog.set_level(logging.WARNING)
    results = [optimizer("palettize", mixed(), n_bits=3, cluster_dim=2).compress(workers) for workers in (1, 2, 4)]
    for other in results[1:]:
        assert squared_error(results[0], other) == 0
    assert not caplog.records
