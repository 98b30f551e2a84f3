"""SKMPalettizer: sensitivities, and k-means weighed by them."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from corepress.algorithms.palettize import palettize
from corepress.errors import ConfigError, CorepressError
from corepress.torch.metadata import array_of, read_weight
from corepress.torch.palettization import SKMPalettizer, SKMPalettizerConfig
from corepress.torch.palettization.fisher import factored
from corepress.torch.parameters import parameters


def loss_fn(model, sample):
    return nn.functional.mse_loss(model(sample[0]), sample[1])


def model_of(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Dropout(0.0), nn.ReLU(), nn.Linear(16, 4))


def samples(count: int = 5):
    generator = torch.Generator().manual_seed(1)
    return [tuple(torch.randn(6, size, generator=generator) for size in (8, 4)) for _ in range(count)]


def skm(model: nn.Module, count: int = 128, **options) -> SKMPalettizer:
    config = SKMPalettizerConfig.from_dict({"global_config": options, "calibration_nsamples": count})
    return SKMPalettizer(model, config)


def by_hand(model: nn.Module, data) -> dict[str, torch.Tensor]:
    model = copy.deepcopy(model)
    sums = {name: torch.zeros_like(value) for name, value in model.named_parameters()}
    for sample in data:
        names, values = zip(*model.named_parameters(), strict=True)
        for name, grad in zip(names, torch.autograd.grad(loss_fn(model, sample), values), strict=True):
            sums[name] += grad**2
    return {name: value / value.max() for name, value in sums.items()}


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_sensitivities_are_sums_of_squared_gradients(workers) -> None:
    model = model_of().eval()
    found = skm(model, count=3).compute_sensitivity(samples(), loss_fn, num_sensitivity_workers=workers)
    expected = by_hand(model, samples(3))
    assert list(found) == list(expected)
    for name, value in found.items():
        seen = expected[name] > 0
        torch.testing.assert_close(value[seen], expected[name][seen].clamp(min=1e-12), rtol=1e-4, atol=1e-7)
        assert value.max() == 1 and value.min() >= 1e-12


def test_sensitivities_are_those_of_coremltools() -> None:
    peer = pytest.importorskip("coremltools.optimize.torch.palettization")
    model = model_of().eval()
    theirs = peer.SKMPalettizer(copy.deepcopy(model)).compute_sensitivity(samples(), loss_fn)
    ours = skm(model).compute_sensitivity(iter(samples()), loss_fn)
    assert list(ours) == list(theirs)
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("training", [True, False])
def test_the_model_stays_as_it_was(training) -> None:
    model = model_of().train(training)
    model[4].eval()
    model[0].weight.grad = torch.ones(16, 8)
    model[4].bias.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())

    def loss_that_meddles(model, sample):
        loss = loss_fn(model, sample)
        model.train()
        return loss

    with torch.no_grad():
        found = skm(model).compute_sensitivity(samples(), loss_that_meddles)
    assert "4.bias" in found  # though it is not trained
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert [module.training for module in model] == [training, training, training, training, False]
    assert torch.equal(model[0].weight.grad, torch.ones(16, 8)) and model[4].weight.grad is None
    assert not model[4].bias.requires_grad


@pytest.mark.parametrize("options", [{}, {"granularity": "per_grouped_channel", "group_size": 4}], ids=str)
def test_a_scalar_lut_is_the_optimum_of_the_weighted_error(options, tmp_path) -> None:
    model, path = model_of(), tmp_path / "sensitivity.pt"
    palettizer = skm(model, n_bits=2, **options)
    sensitivity = palettizer.compute_sensitivity(samples(), loss_fn, path)
    saved = torch.load(path, weights_only=True)
    assert all(torch.equal(saved[name], value) for name, value in sensitivity.items())
    compressed = palettizer.compress(sensitivity_path=path)
    for before, after in zip(parameters(model), parameters(compressed), strict=True):
        worth = array_of(sensitivity[before.key])
        best = palettize(array_of(before.value), 2, group_size=options.get("group_size", 0), importance=worth)
        np.testing.assert_array_equal(array_of(after.value), best.decompress())
        np.testing.assert_array_equal(read_weight(after).lut, best.lut)


def test_factored_sensitivities_are_exact_where_rows_and_columns_are_independent(tmp_path) -> None:
    generator = torch.Generator().manual_seed(0)
    row, column = torch.rand(6, 1, generator=generator) + 0.1, torch.rand(1, 8, generator=generator) + 0.1
    torch.testing.assert_close(factored(row * column), row * column)
    noisy = row * column * torch.randn(400, 6, 8, generator=generator).square().mean(0)
    assert (factored(noisy) - row * column).square().sum() < 0.5 * (noisy - row * column).square().sum()

    model, path = model_of(), tmp_path / "sensitivity.pt"
    palettizer = skm(model, n_bits=2, factored_sensitivity=True)
    sensitivity = palettizer.compute_sensitivity(samples(), loss_fn, path)
    compressed = palettizer.compress(sensitivity_path=path)
    for before, after in zip(parameters(model), parameters(compressed), strict=True):
        best = palettize(array_of(before.value), 2, importance=array_of(factored(sensitivity[before.key])))
        np.testing.assert_array_equal(array_of(after.value), best.decompress())


@pytest.mark.parametrize("options", [{"n_bits": 2}, {"n_bits": 2, "cluster_dim": 2}], ids=str)
def test_the_weighted_error_is_no_larger_than_that_of_coremltools(options, tmp_path) -> None:
    peer = pytest.importorskip("coremltools.optimize.torch.palettization")
    model, path = model_of(), tmp_path / "sensitivity.pt"
    sensitivity = skm(model).compute_sensitivity(samples(), loss_fn, path)
    config = peer.SKMPalettizerConfig.from_dict({"global_config": options})
    theirs = peer.SKMPalettizer(copy.deepcopy(model), config).compress(sensitivity_path=str(path))
    ours = skm(model, **options).compress(sensitivity_path=path)

    def error(compressed: nn.Module) -> float:
        total = 0.0
        for name in ("0.weight", "4.weight"):
            worth = sensitivity[name].double()
            if options.get("cluster_dim"):  # a vector weighs as a whole
                worth = worth.reshape(-1, 2, worth.shape[1]).mean(1).repeat_interleave(2, 0)
            difference = compressed.get_parameter(name) - model.get_parameter(name)
            total += float((worth * difference.detach().double().square()).sum())
        return total

    # Vectors are clustered by heuristics, here and there, and chance decides; scalars exactly.
    slack = 0.01 if options.get("cluster_dim") else 1e-6
    assert error(ours) <= error(theirs) * (1 + slack)


def test_a_shared_weight_has_one_sensitivity_under_any_of_its_names(tmp_path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8, bias=False), nn.ReLU(), nn.Linear(8, 8, bias=False))
    model[2].weight = model[0].weight
    data = [(torch.randn(4, 8), torch.randn(4, 8))]
    found = skm(model).compute_sensitivity(data, loss_fn)
    assert list(found) == ["0.weight"]
    torch.save({"2.weight": found["0.weight"]}, tmp_path / "other_name.pt")
    compressed = skm(model, n_bits=1).compress(sensitivity_path=tmp_path / "other_name.pt")
    assert compressed[0].weight is compressed[2].weight
    assert compressed[0].weight.unique().numel() == 2


def test_weight_norm_is_baked_before_its_sensitivity_is_found() -> None:
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(8, 4)))
    palettizer = skm(model, n_bits=1)
    assert set(palettizer.compute_sensitivity(samples(), loss_fn)) == {"0.weight", "0.bias"}
    assert nn.utils.parametrize.is_parametrized(model[0])
    assert palettizer.compress(samples(), loss_fn)[0].weight.unique().numel() == 2


def loss_without_model(model, sample):
    return sample[0].sum()


def test_what_can_not_work_says_so(tmp_path, caplog) -> None:
    palettizer = skm(model_of())
    with pytest.raises(CorepressError, match="no samples"):
        palettizer.compress(iter(()), loss_fn)
    with pytest.raises(ConfigError, match="dataloader"):
        palettizer.compress()
    with pytest.raises(CorepressError, match=r"gradient of 0\.weight is not finite"):
        palettizer.compute_sensitivity([(torch.full((2, 8), torch.nan), torch.ones(2, 4))], loss_fn)
    with pytest.raises(CorepressError, match="scalar tensor"):
        palettizer.compute_sensitivity(samples(), loss_without_model)
    with pytest.raises(CorepressError, match="picklable"):
        palettizer.compute_sensitivity(samples(), lambda m, s: loss_fn(m, s), num_sensitivity_workers=2)
    with pytest.raises(CorepressError, match="no parameters"):
        skm(nn.ReLU()).compute_sensitivity(samples(), loss_fn)
    (tmp_path / "no.pt").write_bytes(b"nothing of the kind")
    with pytest.raises(CorepressError, match="not a file of sensitivities"):
        palettizer.compress(sensitivity_path=tmp_path / "no.pt")
    torch.save({"other.weight": torch.ones(2)}, tmp_path / "other.pt")
    with pytest.raises(CorepressError, match="none of the sensitivities"):
        palettizer.compress(sensitivity_path=tmp_path / "other.pt")
    palettizer.compute_sensitivity(samples(), loss_fn, fsdp_auto_wrap_policy=object())
    assert "fsdp_auto_wrap_policy is not needed" in caplog.text


def test_a_weight_without_a_fitting_sensitivity_is_left_alone(tmp_path) -> None:
    torch.save({"0.weight": torch.ones(3)}, tmp_path / "odd.pt")
    palettizer = skm(model_of())
    palettizer.compress(sensitivity_path=tmp_path / "odd.pt")
    assert set(palettizer.report().skipped) == {"0.weight", "4.weight"} and not palettizer.report()
