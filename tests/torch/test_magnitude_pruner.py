"""Pruning while a model is trained: schedules, masks, what a prepared model can do, and what comes out."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import corepress
from corepress.errors import ConfigError, CorepressError
from corepress.runtime import load
from corepress.torch.pruning import (
    ConstantSparsityScheduler,
    MagnitudePruner,
    MagnitudePrunerConfig,
    ModuleMagnitudePrunerConfig,
    PolynomialDecayScheduler,
)
from corepress.torch.pruning.masks import magnitude_mask, n_m_mask
from corepress.weights import Sparse
from tests.torch.models import make, mlp


def pruner(model: nn.Module, **options) -> MagnitudePruner:
    return MagnitudePruner(model, MagnitudePrunerConfig.from_dict({"global_config": options}))


def train(model: nn.Module, method, steps: int, optimiser=None, seed: int = 0) -> None:
    optimiser = optimiser or torch.optim.SGD(model.parameters(), 0.1)
    random = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        x = torch.randn(8, 32, generator=random)
        optimiser.zero_grad()
        (model(x) - x[:, :16]).square().mean().backward()
        optimiser.step()
        method.step()


def test_defaults_are_those_of_the_peer() -> None:
    config = ModuleMagnitudePrunerConfig()
    assert config.scheduler == ConstantSparsityScheduler(begin_step=0)
    assert (config.initial_sparsity, config.target_sparsity, config.granularity) == (0.0, 0.5, "per_scalar")
    assert (config.block_size, config.n_m_ratio, config.dim, config.param_name) == (1, None, 1, "weight")
    assert MagnitudePrunerConfig().global_config == config


def test_a_polynomial_schedule_follows_its_formula() -> None:
    config = ModuleMagnitudePrunerConfig(
        scheduler={"update_steps": "range(2, 12, 3)", "power": 2}, initial_sparsity=0.2, target_sparsity=0.8
    )
    assert config.scheduler.update_steps.tolist() == [2, 5, 8, 11]
    sparsity, found = 0.2, []
    for step in range(1, 14):
        sparsity = config.scheduler.compute_sparsity(step, sparsity, config)
        found.append(sparsity)
    updates = [0.8 + (0.2 - 0.8) * (1 - i / 3) ** 2 for i in range(4)]
    expected = [0.2] + [updates[i] for i in range(4) for _ in range(3)]
    np.testing.assert_allclose(found, expected)
    assert PolynomialDecayScheduler([4]).compute_sparsity(4, 0.1, config) == 0.8
    assert PolynomialDecayScheduler(torch.tensor([1, 3])) == PolynomialDecayScheduler([1, 3], power=3)


def test_a_constant_schedule() -> None:
    config, schedule = ModuleMagnitudePrunerConfig(), ConstantSparsityScheduler(begin_step=3)
    assert [schedule.compute_sparsity(step, 0.1, config) for step in (1, 2, 3, 4)] == [0.1, 0.1, 0.5, 0.5]


@pytest.mark.parametrize("steps", [[], [[1]], [-1], [0.5], "range(", "1, 2", None, {"a": 1}])
def test_bad_steps_are_refused(steps) -> None:
    with pytest.raises(ConfigError, match="update_steps must be"):
        PolynomialDecayScheduler(steps)


@pytest.mark.parametrize(
    "options",
    [
        {"target_sparsity": 1.5}, {"granularity": "per_row"}, {"block_size": 0}, {"n_m_ratio": (3, 2)},
        {"n_m_ratio": (1, 2), "block_size": 2}, {"n_m_ratio": [1, 2], "granularity": "per_channel"}, {"dim": 2},
        {"scheduler": 3}, {"scheduler": {"begin": 3}}, {"targt_sparsity": 0.5},
    ],
    ids=str,
)  # fmt: skip
def test_bad_configurations_are_refused(options) -> None:
    with pytest.raises(ConfigError):
        MagnitudePrunerConfig.from_dict({"global_config": options})


# The peer's documentation has these examples.
def test_block_mask() -> None:
    weight = torch.tensor([[1.0, 3], [-6, -7], [0, 3], [-9, 2]])
    kept = weight * magnitude_mask(weight, 0.5, block_size=2)
    assert kept.tolist() == [[0, 3], [0, -7], [-0.0, 0], [-9, 0]]


def test_n_m_mask() -> None:
    weight = torch.tensor([[3.0, 4, 7, 6], [1, 8, -3, -8], [-2, -3, -4, 0], [5, 4, -3, -2]])
    kept = weight * n_m_mask(weight, 1, 2)
    assert kept.tolist() == [[0, 4, 7, 0], [0, 8, 0, -8], [0, -3, -4, 0], [5, 0, -3, 0]]
    assert torch.equal(n_m_mask(weight.T, 1, 2, dim=0), n_m_mask(weight, 1, 2).T)


def test_structured_masks() -> None:
    weight = torch.tensor([[[[2.0, -1]], [[-3, 2]]], [[[5, -2]], [[-1, -3]]]])
    assert (weight * magnitude_mask(weight, 0.5, granularity="per_channel")).flatten(1).tolist() == [
        [0, 0, 0, 0], [5, -2, -1, -3],
    ]  # fmt: skip
    assert (weight * magnitude_mask(weight, 0.5, granularity="per_kernel")).flatten(1).tolist() == [
        [0, 0, -3, 2], [5, -2, 0, 0],
    ]  # fmt: skip


CASES = [
    ((7, 5), {"target_sparsity": 0.3}),
    ((8, 6, 3, 3), {"target_sparsity": 0.77, "block_size": 3}),
    ((8, 6, 3, 3), {"target_sparsity": 0.4, "granularity": "per_kernel"}),
    ((8, 6, 3, 3), {"target_sparsity": 0.4, "granularity": "per_channel", "block_size": 2}),
    ((8, 6), {"target_sparsity": 1.0}),
    ((8, 6), {"target_sparsity": 0.0}),
    ((8, 10, 3), {"n_m_ratio": (3, 4)}),
    ((9, 6, 3, 3), {"n_m_ratio": (1, 4), "dim": 0}),
]


@pytest.mark.parametrize("shape, options", CASES, ids=str)
def test_masks_are_those_of_the_peer(shape, options) -> None:
    peer = pytest.importorskip("coremltools.optimize.torch.pruning")
    torch.manual_seed(1)
    kind = {2: nn.Linear, 3: nn.Conv1d, 4: nn.Conv2d}[len(shape)]
    module = kind(shape[1], shape[0], *shape[2:3])
    theirs = peer.MagnitudePruner(
        nn.Sequential(module), peer.MagnitudePrunerConfig.from_dict({"global_config": copy.deepcopy(options)})
    )
    ours = pruner(nn.Sequential(module), **options)
    models = theirs.prepare(), ours.prepare()
    theirs.step(), ours.step()
    x = torch.ones(1, shape[1], *shape[2:])
    models[0](x)  # its hook computes the weight
    assert torch.equal(models[0][0].weight, models[1][0].weight)
    assert ours.report()["0"]["unstructured_weight_sparsity"] == pytest.approx(
        theirs.report()["0"]["unstructured_weight_sparsity"]
    )


@pytest.mark.parametrize("options", [{}, {"n_m_ratio": (3, 4)}, {"block_size": 4}], ids=str)
def test_a_training_is_that_of_the_peer(options) -> None:
    """Bit for bit: masks change in the same steps, and values that come back are the same."""
    peer = pytest.importorskip("coremltools.optimize.torch.pruning")
    settings = {"target_sparsity": 0.75, "scheduler": {"update_steps": [2, 3, 5, 6]}, **options}
    trained = []
    for library, config in (
        (MagnitudePruner, MagnitudePrunerConfig),
        (peer.MagnitudePruner, peer.MagnitudePrunerConfig),
    ):
        method = library(mlp(), config.from_dict({"global_config": copy.deepcopy(settings)}))
        model = method.prepare()
        train(model, method, 9, torch.optim.Adam(model.parameters(), 0.01))
        trained.append(method.finalize())
    for layer in (0, 2):
        assert torch.equal(trained[0][layer].weight, trained[1][layer].weight)
        assert (trained[0][layer].weight == 0).float().mean() == 0.75


def test_only_what_is_under_the_mask_learns_and_what_is_not_stays() -> None:
    method = pruner(mlp(), target_sparsity=0.75)
    model = method.prepare()
    method.step()
    before = model[0].parametrizations.weight.original.detach().clone()
    mask = model[0].parametrizations.weight[0].mask.bool()
    assert mask.float().mean() == 0.25
    train(model, method, 3)
    after = model[0].parametrizations.weight.original
    assert torch.equal(after[~mask], before[~mask]) and not torch.equal(after[mask], before[mask])
    assert ((model[0].weight == 0) == ~mask).all()


def test_an_optimiser_made_before_still_trains_the_weights() -> None:
    model = mlp()
    optimiser = torch.optim.SGD(model.parameters(), 0.1)
    method = pruner(model)
    assert method.prepare(inplace=True) is model
    assert model[0].parametrizations.weight.original is optimiser.param_groups[0]["params"][0]
    weight = optimiser.param_groups[0]["params"][0]
    method.finalize(inplace=True)
    assert model[0].weight is weight and (weight == 0).float().mean() == 0


def test_training_resumes_bit_for_bit() -> None:
    options = {"scheduler": {"update_steps": [2, 4, 6, 8]}, "target_sparsity": 0.9}
    method = pruner(mlp(), **options)
    model = method.prepare()
    train(model, method, 3)
    state = copy.deepcopy(model.state_dict())
    train(model, method, 7, seed=1)

    again = pruner(mlp(seed=5), **options)
    other = again.prepare()
    other.load_state_dict(state)
    train(other, again, 7, seed=1)
    for key, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[key]), key
    assert (other[0].weight == 0).float().mean() == pytest.approx(0.9, abs=1e-3)
    train(other, again, 5)  # beyond the end of the schedule
    assert (other[0].weight == 0).float().mean() == pytest.approx(0.9, abs=1e-3)


def test_copies_autocast_and_compilation() -> None:
    method = pruner(mlp())
    model = method.prepare()
    method.step()
    x = torch.randn(4, 32)
    expected = model(x)
    assert torch.equal(copy.deepcopy(model)(x), expected)
    assert torch.equal(torch.compile(model, backend="eager")(x), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (model(x) - expected).abs().max() < 0.05


def test_a_finalized_copy_leaves_the_prepared_model_alone() -> None:
    method = pruner(mlp())
    model = method.prepare()
    method.step()
    finished = method.finalize()
    train(model, method, 1)
    assert isinstance(finished[0].weight, nn.Parameter) and (finished[0].weight == 0).float().mean() == 0.5
    assert (method.finalize(copy.deepcopy(model))[0].weight == 0).float().mean() == 0.5


def test_only_chosen_modules_are_pruned() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Embedding(8, 8), nn.Conv1d(8, 8, 1), nn.Linear(8, 8))
    config = MagnitudePrunerConfig.from_dict(
        {
            "global_config": {},
            "module_name_configs": {"3": None},
            "module_type_configs": {"Conv1d": {"n_m_ratio": [3, 4]}},
        }
    )
    method = MagnitudePruner(model, config)
    method.prepare()
    method.step()
    report = method.report()
    assert list(report) == ["0", "2", "global"]
    assert report["2"]["unstructured_weight_sparsity"] == 0.75
    assert report["global"]["unstructured_weight_sparsity"] == 0.625 and report["global"]["#params"] == 128


def test_what_does_not_fit_is_skipped_with_a_reason(caplog) -> None:
    method = pruner(nn.Sequential(nn.Conv1d(8, 8, 3), nn.Linear(8, 8)), granularity="per_layer")
    method.prepare()
    assert "0.weight" in caplog.text and "per_layer" in method.report().skipped["0.weight"]
    assert "1" in method.report()
    method = pruner(nn.Sequential(nn.Linear(8, 8)), param_name="bias")
    method.prepare()
    assert "parameter 'bias'" in method.report().skipped["0.weight"]


def test_misuse_is_named() -> None:
    method = pruner(mlp())
    for call in (method.step, method.finalize):
        with pytest.raises(CorepressError, match=r"call prepare\(\) before"):
            call()
    model = method.prepare()
    with torch.no_grad():
        model[2].parametrizations.weight.original[0, 0] = float("nan")
    with pytest.raises(CorepressError, match=r"2.weight holds infinities or NaN"):
        method.step()
    state = model.state_dict()
    state["0.parametrizations.weight.0._extra_state"] = torch.zeros(6)
    with pytest.raises(CorepressError, match=r"state of 0.weight is not that of a Mask"):
        model.load_state_dict(state)


@pytest.mark.parametrize("kind, target", [("Linear", "iOS16"), ("Conv2d", "iOS18")])
def test_a_pruned_model_converts(kind: str, target: str, tmp_path) -> None:
    pytest.importorskip("coremltools")
    from tests.torch.test_conversion import convert

    model, x = make(kind)
    method = pruner(model, target_sparsity=0.75)
    method.prepare()
    method.step()
    finished = method.finalize().eval()
    name = convert(finished, x, target, "trace", tmp_path / "model.mlpackage")
    package = corepress.load(tmp_path / "model.mlpackage")
    forms = [weight.read() for weight in package.weights()]
    assert any(isinstance(form, Sparse) and np.count_nonzero(form.mask) * 4 == form.mask.size for form in forms)
    (answer,) = load(package).predict({name: x.numpy()}).values()
    with torch.no_grad():
        np.testing.assert_allclose(answer, finished(x).numpy(), atol=1e-4)


def test_weight_norm_stays_below_the_mask() -> None:
    model = nn.Sequential(torch.nn.utils.parametrizations.weight_norm(nn.Linear(32, 16)))
    method = pruner(model)
    prepared = method.prepare()
    train(prepared, method, 2)
    seen: Tensor = prepared[0].weight
    finished = method.finalize()
    torch.testing.assert_close(finished[0].weight, seen)
    assert (finished[0].weight == 0).float().mean() == 0.5
