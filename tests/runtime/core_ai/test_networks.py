"""Whole networks as Core AI models, run by Apple's runtime and by ours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import corepress
from corepress import runtime
from corepress.formats.coreai import library
from corepress.formats.coreai.words import plain_name
from tests.decoder import summing
from tests.runtime.core_ai.made import Calls, both, converted, same
from tests.runtime.zoo import NETWORKS

pytest.importorskip("coreai_torch")
# ELU is the one that Apple's converter has nothing for.
_ZOO = sorted(set(NETWORKS) - {"unet"})


@pytest.mark.slow
@pytest.mark.parametrize("name", _ZOO)
def test_networks_answer_the_same(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, inputs = NETWORKS[name]()
    path = converted(network, list(inputs.values()), tmp_path / "one.aimodel")
    same(path, {f"x{i}": value.numpy() for i, value in enumerate(inputs.values())})


@pytest.mark.slow
def test_float16_agrees_as_far_as_it_can(tmp_path: Path) -> None:
    """Each runtime rounds after every operation, by 2^-11 of the largest number, and there are a dozen of them."""
    corepress.migrate("examples/digits.mlpackage", tmp_path / "one.aimodel")
    image = np.random.default_rng(0).random((1, 1, 8, 8)).astype("f2")
    [(exact, found)] = both(tmp_path / "one.aimodel", {"image": image})
    assert exact.dtype == found.dtype == np.float16
    assert np.abs(exact.astype("f4") - found).max() <= 8 * 2**-11 * np.abs(exact).max()


def branching(x: Tensor) -> Tensor:
    return torch.cond(x.sum() > 0, lambda x: x * 2, lambda x: x - torch.ones(4), (x,))


def looping(x: Tensor, count: Tensor) -> Tensor:
    return torch.ops.higher_order.while_loop(  # type: ignore[no-any-return]
        lambda x, count: (count > 0).all(), lambda x, count: (x * 1.5 + 1, count - 1), (x, count), ()
    )[0]


def test_branches(tmp_path: Path) -> None:
    path = converted(Calls(branching), [torch.ones(4)], tmp_path / "one.aimodel")
    for sign in (1, -1):
        same(path, {"x0": np.arange(4, dtype="f4") * sign})


def test_loops(tmp_path: Path) -> None:
    path = converted(Calls(looping), [torch.ones(4), torch.tensor([3.0])], tmp_path / "one.aimodel")
    for count in (0, 1, 5):
        same(path, {"x0": np.arange(4, dtype="f4"), "x1": np.array([count], "f4")})


def test_loops_that_count_whole_numbers(tmp_path: Path) -> None:
    """PyTorch is the oracle: coreai-core 1.0.0b3 ends such a loop after its second round."""
    given = [torch.arange(4.0), torch.tensor([5], dtype=torch.int32)]
    path = converted(Calls(looping), given, tmp_path / "one.aimodel")
    found = runtime.load(path, precision="float32").predict({"x0": given[0], "x1": given[1]})
    np.testing.assert_allclose(found["y0"], looping(*given), rtol=1e-6)


def test_flexible_shapes(tmp_path: Path) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.MultiheadAttention(8, 2, batch_first=True)
            self.last = nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.inner(x, x, x, need_weights=False)[0]).flatten(1)

    torch.manual_seed(0)
    sizes = ({1: torch.export.Dim("length", min=2, max=50)},)
    path = converted(Net(), [torch.randn(1, 7, 8)], tmp_path / "one.aimodel", dynamic_shapes=sizes)
    for length in (2, 7, 31):
        given = np.random.default_rng(length).standard_normal((1, length, 8)).astype("f4")
        same(path, {"x0": given})


def test_lengths_are_computed(tmp_path: Path) -> None:
    def made(x: Tensor) -> tuple[Tensor, ...]:
        n = x.shape[1]
        y = x.unsqueeze(2).expand(1, n, n, 8).sum(2) + torch.arange(n).float()[None, :, None]
        y = y.permute(0, 2, 1)
        weighed = (y[..., None, :] * torch.ones(1, 8, 3, 1)).sum(2).squeeze(0)
        return weighed, F.interpolate(x[None], scale_factor=2.0, mode="bilinear"), y[0, :, -1]

    sizes = (({1: torch.export.Dim("length", min=2, max=50)},),)
    path = converted(Calls(made), [torch.randn(1, 7, 8)], tmp_path / "one.aimodel", dynamic_shapes=sizes)
    seen = {plain_name(operation.name) for operation in library.operations(library.load(path))}
    assert seen >= {"get_shape", "range", "expand_dims", "shrink_dims"}
    for length in (2, 31):
        same(path, {"x0": np.random.default_rng(length).standard_normal((1, length, 8)).astype("f4")})


@pytest.mark.slow
def test_states_are_carried(tmp_path: Path) -> None:
    corepress.migrate(summing(tmp_path), tmp_path / "one.aimodel", precision="float32")
    theirs, ours = (runtime.load(tmp_path / "one.aimodel", weights=kind) for kind in ("ahead_of_time", "streamed"))
    states = [theirs.make_state(), ours.make_state()]
    for token in (3, 5, 9):
        given = {"ids": np.array([[token]], np.int32)}
        one, other = (model.predict(given, state) for model, state in zip((theirs, ours), states, strict=True))
        np.testing.assert_allclose(other["logits"], one["logits"], rtol=1e-4, atol=1e-5)
    for one, other in zip(states[0].values(), states[1].values(), strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-5)
        assert np.abs(np.asarray(one)).max() > 0


def test_an_image_goes_in_as_its_package_takes_it(tmp_path: Path) -> None:
    """What `kept.py` notes of inputs serves our runtime, too."""
    corepress.migrate("examples/digits.mlpackage", tmp_path / "one.aimodel")
    program = runtime.load(tmp_path / "one.aimodel", precision="float32")
    assert [one.name for one in program.interface.inputs] == ["image"]
    assert isinstance(program, runtime.Program)
