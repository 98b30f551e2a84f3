"""A copy that is compressed borrows the model's memory for a while: it never writes there, and gives all of it back."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from corepress.torch import rewrite
from corepress.torch.palettization import PostTrainingPalettizer, PostTrainingPalettizerConfig
from corepress.torch.quantization import PostTrainingQuantizer, PostTrainingQuantizerConfig

SETTINGS = {
    PostTrainingPalettizer: (PostTrainingPalettizerConfig, {"n_bits": 2}),
    PostTrainingQuantizer: (PostTrainingQuantizerConfig, {"weight_dtype": "int4"}),
}


class Net(nn.Module):
    """Plain, tied, half, bfloat16, frozen, non-contiguous, computed, unchosen and unfit weights."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.tied = nn.Linear(32, 32), nn.Linear(32, 32)
        self.tied.weight = self.first.weight
        self.halved, self.brain = nn.Linear(32, 32).half(), nn.Linear(32, 32).bfloat16()
        self.frozen = nn.Linear(32, 32).requires_grad_(False)
        self.conv = nn.Conv2d(8, 8, 3).to(memory_format=torch.channels_last)
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(32, 32))
        self.alone, self.nan = nn.Linear(32, 32), nn.Linear(32, 32)
        self.nan.weight.data[3, 4] = torch.nan


def compressed(method, model):
    config, settings = SETTINGS[method]
    names = {"alone": None}
    optimizer = method(model, config.from_dict({"global_config": settings, "module_name_configs": names}))
    return optimizer.compress(), optimizer


def spans(model) -> list[tuple[int, int]]:
    tensors = [*model.parameters(), *model.buffers()]
    return [(storage.data_ptr(), storage.nbytes()) for storage in (tensor.untyped_storage() for tensor in tensors)]


@pytest.mark.parametrize("method", SETTINGS)
def test_the_model_stays_as_it_is_and_shares_no_memory_with_its_copy(method) -> None:
    model = Net()
    before, places = copy.deepcopy(model.state_dict()), spans(model)
    mine, optimizer = compressed(method, model)
    assert spans(model) == places
    for name, value in model.state_dict().items():
        assert torch.equal(value.nan_to_num(9), before[name].nan_to_num(9)), name
    theirs = {start for start, _ in places}
    assert not any(start in theirs for start, size in spans(mine) if size)
    assert set(optimizer.report().skipped) == {"nan.weight"}
    assert torch.equal(mine.alone.weight, model.alone.weight) and not torch.equal(mine.first.weight, model.first.weight)
    assert mine.tied.weight is mine.first.weight
    for name, parameter in mine.named_parameters():
        if "normed" not in name:
            wanted = model.get_parameter(name)
            assert (parameter.dtype, parameter.requires_grad) == (wanted.dtype, wanted.requires_grad), name
    inplace = method(copy.deepcopy(model), optimizer._config).compress(inplace=True)
    for (name, one), (_, two) in zip(mine.named_parameters(), inplace.named_parameters(), strict=True):
        assert torch.equal(one.nan_to_num(9), two.nan_to_num(9)), name


@pytest.mark.parametrize("method", SETTINGS)
def test_so_it_is_when_the_work_is_interrupted(method, monkeypatch) -> None:
    model = Net()
    before, places = copy.deepcopy(model.state_dict()), {start for start, _ in spans(model)}
    put, done = rewrite._Modules.put, []

    def interrupted(*arguments):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(put(*arguments))

    monkeypatch.setattr(rewrite._Modules, "put", interrupted)
    config, settings = SETTINGS[method]
    optimizer = method(model, config.from_dict({"global_config": settings}))
    with pytest.raises(KeyboardInterrupt):
        optimizer.compress()
    assert all(torch.equal(a.nan_to_num(9), b.nan_to_num(9)) for a, b in zip(
        model.state_dict().values(), before.values(), strict=True))  # fmt: skip
    assert not any(start in places for start, size in spans(optimizer._model) if size)
