"""Observers, rounding and its gradients, against their formulas."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from corepress.torch.quantization.fake_quantize import FakeQuantize, LearnableFakeQuantize
from corepress.torch.quantization.quantization_config import ObserverType


@pytest.mark.parametrize("axis", [None, 0, 1])
@pytest.mark.parametrize("kind", ObserverType)
def test_observers_follow_their_formula(kind, axis) -> None:
    rng = np.random.default_rng(0)
    batches = [rng.normal(size=(4, 3, 5)).astype(np.float32) * scale for scale in (1, 3, 0.5)]
    fake_quant = FakeQuantize(kind, channel_axis=axis, shape=(4, 3, 5))
    axes = tuple(a for a in range(3) if a != axis)
    low, high = (f(batches[0], axis=axes, keepdims=axis is not None) for f in (np.min, np.max))
    for batch in batches:
        fake_quant(torch.from_numpy(batch))
        least, most = (f(batch, axis=axes, keepdims=axis is not None) for f in (np.min, np.max))
        if kind is ObserverType.min_max:
            low, high = np.minimum(low, least), np.maximum(high, most)
        else:
            kept = {"moving_average_min_max": 0.99, "ema_min_max": 0.9}[kind.value]
            low, high = kept * low + (1 - kept) * least, kept * high + (1 - kept) * most
    np.testing.assert_allclose(fake_quant.min_val, low, rtol=1e-5)
    np.testing.assert_allclose(fake_quant.max_val, high, rtol=1e-5)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
def test_rounding_follows_the_formula_and_gradients_pass_inside_the_range(bits, signed, symmetric) -> None:
    torch.manual_seed(0)
    fake_quant = FakeQuantize(ObserverType.min_max, bits=bits, signed=signed, symmetric=symmetric)
    fake_quant(torch.tensor([-1.0, 2.0]))
    fake_quant.observer_enabled = False
    low = -(2 ** (bits - 1)) if signed else 0
    high = low + 2**bits - 1
    scale = 2.0 / ((high - low) / 2) if symmetric else 3.0 / (high - low)
    middle = 0 if signed else 128 if bits == 8 else 7
    zero = middle if symmetric else low - round(-1.0 / scale)
    np.testing.assert_allclose(fake_quant.scale, scale, rtol=1e-6)
    assert fake_quant.zero_point == zero

    x = (4 * torch.randn(1000)).requires_grad_()
    y = fake_quant(x)
    levels = torch.round(x.detach() / fake_quant.scale) + zero
    expected = (levels.clamp(low, high) - zero) * fake_quant.scale
    torch.testing.assert_close(y.detach(), expected, rtol=1e-6, atol=1e-7)
    assert torch.equal((fake_quant.integers(x) - 0.0), levels.clamp(low, high))
    y.backward(torch.arange(1000.0))
    inside = (levels >= low) & (levels <= high)
    assert torch.equal(x.grad, torch.where(inside, torch.arange(1000.0), 0)) and inside.any() and not inside.all()


def test_a_batch_with_nan_leaves_the_range_alone() -> None:
    fake_quant = FakeQuantize(ObserverType.ema_min_max)
    for batch in (torch.tensor([float("nan"), 1.0]), torch.tensor([-1.0, 2.0]), torch.tensor([float("inf"), 1.0])):
        fake_quant(batch)
    assert (fake_quant.min_val, fake_quant.max_val) == (-1, 2)


@pytest.mark.parametrize("symmetric", [True, False])
def test_learned_scales_have_the_values_and_gradients_of_coremltools(symmetric) -> None:
    peer = pytest.importorskip("coremltools.optimize.torch.quantization.modules.learnable_fake_quantize")
    observers = pytest.importorskip("torch.ao.quantization")
    torch.manual_seed(0)
    x = torch.randn(200)
    scheme = torch.per_tensor_symmetric if symmetric else torch.per_tensor_affine
    theirs = peer.LearnableFakeQuantize(observers.MovingAverageMinMaxObserver, torch.quint8, scheme)
    ours = LearnableFakeQuantize(ObserverType.moving_average_min_max, symmetric=symmetric)
    for module in (theirs, ours):
        module(x)
    theirs.disable_observer()
    ours.observer_enabled = False
    for module in (theirs, ours):
        module(1.5 * x).square().sum().backward()
    torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(ours.scale.grad, theirs.scale.grad.reshape(()))
    if not symmetric:
        torch.testing.assert_close(ours.zero_point.grad, theirs.zero_point.grad.reshape(()))


def observe_apart(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=2)
    together, alone = (FakeQuantize(ObserverType.min_max) for _ in range(2))
    alone.synchronize = False
    for fake_quant in (together, alone):
        fake_quant(torch.tensor([-1.0, 1.0]) * (rank + 1))
    torch.save([together.max_val, alone.max_val], Path(folder, str(rank)))
    dist.destroy_process_group()


@pytest.mark.slow
def test_processes_observe_together_unless_told_not_to(tmp_path) -> None:
    mp.spawn(observe_apart, (str(tmp_path),), nprocs=2)
    assert torch.load(tmp_path / "0") == [2, 1] and torch.load(tmp_path / "1") == [2, 2]
