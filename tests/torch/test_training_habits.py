"""What people do with a model while they train it does not disturb the methods that compress it."""

from __future__ import annotations

import copy
import io
import shutil
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from corepress.torch.metadata import PREFIX
from tests.torch.models import mlp
from tests.torch.test_distributed import palettizer, pruner, quantizer

pytestmark = pytest.mark.usefixtures("one_thread")

Methods = list[Any]
KINDS: dict[str, Callable[[nn.Module], Methods]] = {
    "pruner": pruner,
    "palettizer": palettizer,
    "palettizer of groups": lambda model: palettizer(model, granularity="per_grouped_channel", group_size=4),
    "quantizer": lambda model: quantizer(model, milestones=[0, 1, 4, 5]),
    "quantizer of learned scales": lambda model: quantizer(model, algorithm="learnable", milestones=[0, 1, 4, 5]),
    "pruner and palettizer": lambda model: pruner(model) + palettizer(model),
    "quantizer and pruner": lambda model: (first := quantizer(model)) + pruner(first[0]._model),
}
every_kind = pytest.mark.parametrize("kind", KINDS)
# To compile these takes long; `test_linear_quantizer.py` has a compiled quantizer, too.
LONG = ("quantizer", "quantizer of learned scales", "quantizer and pruner", "palettizer of groups")


def prepared(kind: str, seed: int = 0) -> tuple[nn.Module, Methods]:
    methods = KINDS[kind](mlp(seed).double())
    return methods[-1]._model, methods


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), 0.005, momentum=0.9)  # scales are small: faster, they pass below zero


def train(call: Any, model: nn.Module, methods: Methods, steps: range, optimizer: Any = None) -> Any:
    """`call`: what computes the answers of the model. Returns the optimiser."""
    optimizer = optimizer or sgd(model)
    for step in steps:
        dtype = next(model.parameters()).dtype
        x = torch.randn(8, 32, generator=torch.Generator().manual_seed(step), dtype=torch.float64).to(dtype)
        optimizer.zero_grad()
        (call(x).to(dtype) - x[:, :16]).square().mean().backward()
        optimizer.step()
        for method in methods:
            method.step()
    return optimizer


def assert_same(one: nn.Module, other: nn.Module, tolerance: float = 0.0) -> None:
    states = one.state_dict(), other.state_dict()
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, rtol=tolerance, atol=tolerance, msg=name)


def finalize(methods: Methods, model: nn.Module | None = None) -> nn.Module:
    """By the method that comes last: a quantizer keeps the zeros of a pruner."""
    last = next((each for each in methods if type(each).__name__ == "LinearQuantizer"), methods[-1])
    finished: nn.Module = last.finalize(model)
    return finished


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.slow) if kind in LONG else kind for kind in KINDS]
)
def test_a_compiled_model_learns_the_same(kind: str) -> None:
    """Forward and backward as graphs of basic operations, of which there are other ones than without."""
    (model, methods), (other, others) = prepared(kind), prepared(kind)
    torch._dynamo.reset()
    train(model, model, methods, range(6))
    train(torch.compile(other, backend="aot_eager"), other, others, range(6))
    assert_same(model, other, 1e-6)
    finished = (finalize(each).float() for each in (others, methods))  # what is quantized computes in float32 only
    x = torch.randn(4, 32)
    torch.testing.assert_close(*(each(x) for each in finished), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="the compiler of PyTorch needs one of C++")
@every_kind
def test_a_model_in_machine_code_learns_the_same(kind: str) -> None:
    (model, methods), (other, others) = prepared(kind), prepared(kind)
    torch._dynamo.reset()
    train(model, model, methods, range(6))
    train(torch.compile(other), other, others, range(6))
    assert_same(model, other, 1e-6)


@every_kind
def test_in_mixed_precision_the_weights_stay_exact(kind: str) -> None:
    """bfloat16 has 8 bits; what is learned differs by little more than that."""
    (model, methods), (exact, exacts) = prepared(kind), prepared(kind)
    model.float()

    def call(x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = model(x)
        assert y.dtype in (torch.bfloat16, torch.float32)
        return y

    train(call, model, methods, range(6))
    train(exact, exact, exacts, range(6))
    assert {value.dtype for value in model.parameters()} == {torch.float32}
    x = torch.randn(64, 32)
    expected, found = exact.eval()(x.double()), model.eval()(x)
    assert (found - expected).norm() < 0.05 * expected.norm()
    assert finalize(methods)(x).isfinite().all()


@every_kind
def test_a_model_of_bfloat16(kind: str) -> None:
    model, methods = prepared(kind)
    model.to(torch.bfloat16)
    train(model, model, methods, range(6))
    model.eval()
    x = torch.randn(64, 32)
    finished, expected = finalize(methods).float()(x), model(x.to(torch.bfloat16)).float()
    assert (finished - expected).norm() < 0.05 * expected.norm()


@every_kind
def test_a_copy_goes_on_by_itself(kind: str) -> None:
    model, methods = prepared(kind)
    optimizer = train(model, model, methods, range(3))
    before = copy.deepcopy(model)
    other, others, optimizers = copy.deepcopy((model, methods, optimizer))
    train(other, other, others, range(3, 6), optimizers)
    assert_same(model, before)
    train(model, model, methods, range(3, 6), optimizer)
    assert_same(model, other)
    with pytest.raises(AssertionError):
        assert_same(model, before)


@every_kind
@pytest.mark.parametrize("stop", [1, 3])
def test_a_training_resumes_from_a_file_bit_for_bit(kind: str, stop: int) -> None:
    model, methods = prepared(kind)
    optimizer = train(model, model, methods, range(stop))
    file = io.BytesIO()
    torch.save([model.state_dict(), optimizer.state_dict()], file)
    train(model, model, methods, range(stop, 6), optimizer)

    other, others = prepared(kind, seed=5)
    file.seek(0)
    states = torch.load(file, weights_only=True)
    optimizer = sgd(other)
    for target, state in zip((other, optimizer), states, strict=True):
        target.load_state_dict(state)
    train(other, other, others, range(stop, 6), optimizer)
    assert_same(model, other)
    assert_same(finalize(methods), finalize(others))


@every_kind
def test_averaged_weights_can_be_finalized(kind: str) -> None:
    model, methods = prepared(kind)
    optimizer = train(model, model, methods, range(5))  # when observers rest
    averaged = torch.optim.swa_utils.AveragedModel(model)
    for step in (5, 6):
        train(model, model, methods, range(step, step + 1), optimizer)
        averaged.update_parameters(model)
    finished = finalize(methods, averaged.module).float()
    assert any(f"{PREFIX}/" in name for name in finished.state_dict())
    x = torch.randn(64, 32)
    expected = averaged.eval()(x.double())
    assert (finished(x) - expected).norm() < 0.02 * expected.norm()


@pytest.mark.parametrize("name", ["pruner", "quantizer"])
def test_recomputed_activations_change_nothing(name: str) -> None:
    """But for moving averages, which move twice."""
    observers = {"activation_observer": "min_max", "weight_observer": "min_max"}
    pair = [(pruner(mlp().double()) if name == "pruner" else quantizer(mlp().double(), **observers)) for _ in range(2)]
    model, other = (methods[0]._model for methods in pair)
    train(model, model, pair[0], range(6))
    train(lambda x: checkpoint(other, x, use_reentrant=False), other, pair[1], range(6))
    assert_same(model, other)
