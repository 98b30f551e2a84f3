"""`LinearQuantizer.prepare(example_inputs)`: what says which values are real, and what has to be run for that."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from corepress.torch.quantization import LinearQuantizer, LinearQuantizerConfig


class Net(nn.Module):
    """Integers and real numbers meet: a shape, a count, indices, a mask."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.embedding = nn.Conv2d(3, 8, 3), nn.Embedding(10, 8)
        self.head = nn.Linear(8, 8)

    def forward(self, image: Tensor, ids: Tensor) -> Tensor:
        x = self.conv(image).flatten(2).mean(-1)
        words = self.embedding(ids)
        count = ids.size(0) + ids.shape[1] * 2
        later = (ids + 1) * 2
        best = x.argmax(-1) + 1
        keep = (x > 0) * 2
        return self.head(x) + words.sum(1) * count + later.sum() + best.sum() + keep


IMAGE, IDS = torch.randn(2, 3, 8, 8), torch.randint(10, (2, 5))


def rounded(given, model=None) -> list[str]:
    """The names of the values that are rounded."""
    quantizer = LinearQuantizer(model or Net(), LinearQuantizerConfig())
    prepared = quantizer.prepare(given)
    found = [module.members for module in prepared.modules() if hasattr(module, "members")]
    return sorted(name for members in found for name in members)


GIVEN = {
    "tensors": (IMAGE, IDS),
    "a list": [IMAGE, IDS],
    "arrays": (IMAGE.numpy(), IDS.numpy()),
    "shapes": ([2, 3, 8, 8], (2, 5)),
    "sizes": (IMAGE.shape, IDS.shape),
    "mixed": (IMAGE, [2, 5]),
    "names": {"ids": IDS, "image": IMAGE.shape},
    "other shapes": ([1, 3, 32, 32], [7, 1]),
    "a meta tensor": (IMAGE.to("meta"), IDS.to("meta")),
}


@pytest.mark.parametrize("given", GIVEN.values(), ids=GIVEN)
def test_whatever_tells_the_types_will_do(given, caplog) -> None:
    wanted = rounded((IMAGE, IDS))
    assert "conv" in wanted and not {"add", "add_1", "mul", "add_2", "ids", "argmax", "gt"} & set(wanted)
    with caplog.at_level(logging.WARNING):
        assert rounded(given) == wanted
    assert not caplog.records


@pytest.mark.parametrize(
    "given", [[2, 3, 8, 8], torch.Size([2, 3, 8, 8]), (2, 3, 8, 8), IMAGE, IMAGE.numpy(), (IMAGE,), None]
)
def test_one_input_may_be_a_shape_alone_or_nothing(given, caplog) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4))
    with caplog.at_level(logging.WARNING):
        assert rounded(given, model) == rounded((IMAGE,), model)
    assert not caplog.records


def test_without_any_inputs_operations_tell_most() -> None:
    class Sized(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.embedding = nn.Conv2d(3, 8, 3), nn.Embedding(10, 8)

        def forward(self, x: Tensor, ids: Tensor) -> Tensor:
            b, c = x.size(0), x.shape[1] * 2
            y = self.conv(x) + self.conv(x * 2)
            return y.view(b, c + 2, -1) + self.embedding(ids).sum() * (y.argmax() + 1)

    wanted = rounded((IMAGE, IDS), Sized())
    assert {"conv", "add"} <= set(wanted) and not {"mul", "add_1", "add_2"} & set(wanted)
    assert rounded(None, Sized()) == wanted


def test_types_are_found_without_computing(monkeypatch) -> None:
    ran = []
    forward = nn.Conv2d._conv_forward

    def watched(self, x, *arguments):
        ran.append(type(x).__name__)
        return forward(self, x, *arguments)

    monkeypatch.setattr(nn.Conv2d, "_conv_forward", watched)
    rounded((IMAGE, IDS))
    assert ran == ["FakeTensor"]


def test_what_depends_on_values_is_run_where_there_are_some(caplog) -> None:
    class Choosing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[x > 0] if x.sum().item() > -1e9 else x.long()

    model = nn.Sequential(nn.Linear(4, 4), Choosing())
    config = LinearQuantizerConfig.from_dict({"non_traceable_module_names": ["1"]})
    with caplog.at_level(logging.WARNING):
        LinearQuantizer(model, config).prepare((torch.randn(2, 4),))
    assert not caplog.records


def test_inputs_that_do_not_fit_are_told_and_the_model_is_prepared_all_the_same(caplog) -> None:
    wanted = rounded((IMAGE, IDS))
    with caplog.at_level(logging.WARNING):
        assert rounded((torch.randn(1), IDS)) == wanted
    assert "example_inputs do not fit the model (conv: " in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        rounded(([7, 7], [2, 5]))
    assert "do not fit" in caplog.text


def test_nothing_of_the_model_changes(caplog) -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.calls.add_(1)
            return self.norm(self.conv(x))

    model = Counting().train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = torch.get_rng_state()
    for given in (IMAGE, list(IMAGE.shape), None):
        LinearQuantizer(model).prepare(given)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state) and np.isfinite(float(model.calls))
