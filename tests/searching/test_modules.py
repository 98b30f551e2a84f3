"""PyTorch modules as something to search: its values are what our compressors then make, bit for bit."""

from __future__ import annotations

import copy
import re

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from corepress.engine import Skip
from corepress.errors import ConfigError
from corepress.searching.modules import ModuleSubject, compressed
from corepress.torch.calls import named, samples_of
from corepress.torch.metadata import array_of
from corepress.torch.palettization import PostTrainingPalettizer, PostTrainingPalettizerConfig
from tests.torch.models import KINDS, make


def choices(subject: ModuleSubject):
    """Each candidate of the first item, with the others dense."""
    for candidate in range(len(subject.items[0].candidates)):
        yield (candidate, *(0 for _ in subject.items[1:]))


def tied() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(48, 32), nn.Linear(32, 32), nn.Linear(32, 48, bias=False))
    model[2].weight = model[0].weight
    return model.eval()


@pytest.mark.parametrize("kind", KINDS)
def test_values_and_sizes_are_those_of_the_compressed_module(kind) -> None:
    model, x = make(kind)
    before = copy.deepcopy(model.state_dict())
    subject = ModuleSubject(model)
    (item,) = subject.items
    dense = subject.size(model)
    tried = 0
    for choice in choices(subject):
        places = [(0, tensor) for tensor in range(len(item.shapes))]
        try:
            values = [subject.value(place, choice[0]) for place in places]
        except Skip:
            continue
        made = subject.make(choice)
        held = {key: array_of(value) for key, value in made.state_dict().items()}
        for value in values:
            assert any(
                array.shape == value.dense.shape and np.array_equal(array, value.dense) for array in held.values()
            )
        originals = sum(subject.original(place).nbytes for place in places)
        assert subject.size(made) == dense - originals + sum(value.size for value in values)
        for place, value in zip(places, values, strict=True):
            subject.put(place, value.dense)
        (sample,) = samples_of([x])
        (part,) = subject.parts([sample])
        with torch.no_grad():
            expected = made(x).numpy()
            assert np.array_equal(part.outputs(sample)[0].numpy(), expected)
        assert np.array_equal(subject.answer(subject.loaded(made), sample)["output"], expected)
        tried += 1
    assert tried > 10
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_the_recipe_is_read_by_the_compressors_themselves() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 8))
    subject = ModuleSubject(model, forms=("palettized",))
    choice = (3, 7)
    recipe = subject.recipe(choice)
    assert list(recipe) == ["palettize"] and list(recipe["palettize"]["module_name_configs"]) == ["0", "2"]
    ours = PostTrainingPalettizer(model, PostTrainingPalettizerConfig.from_dict(recipe["palettize"])).compress()
    made = subject.make(choice).state_dict()
    assert made.keys() == ours.state_dict().keys()
    assert all(torch.equal(value, made[key]) for key, value in ours.state_dict().items())
    assert all(torch.equal(value, made[key]) for key, value in compressed(model, recipe).state_dict().items())


def test_a_module_in_two_forms_is_made_by_two_compressors() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32))
    subject = ModuleSubject(model)
    labels = [candidate.label for candidate in subject.items[0].candidates]
    choice = (labels.index("palettized 2 bits"), labels.index("quantized int4"))
    made = subject.make(choice)
    assert len(made[0].weight.unique()) == 4
    assert np.array_equal(array_of(made[2].weight), subject.value((1, 0), choice[1]).dense)


def test_tied_weights_are_one_item_that_counts_once() -> None:
    model = tied()
    subject = ModuleSubject(model)
    assert [item.names for item in subject.items] == [("0", "2"), ("1",)]
    assert subject.size(model) == 4 * (48 * 32 + 32 * 32 + 32)
    made = subject.make((1, 0))
    assert made[0].weight.data_ptr() == made[2].weight.data_ptr()
    assert subject.size(made) == subject.value((0, 0), 1).size + 4 * (32 * 32 + 32)


def test_names_that_are_patterns_of_others_stand_for_themselves_alone() -> None:
    model = nn.Module()
    model.a = nn.ModuleDict({"b": nn.Linear(8, 8)})
    model.a_b = nn.Linear(8, 8)
    names = [item.names[0] for item in ModuleSubject(model).items]
    assert [[re.fullmatch(name, known) is not None for known in ("a.b", "a_b")] for name in names] == [
        [True, False],
        [False, True],
    ]


def test_what_is_compressed_already_or_no_matrix_is_left_out_and_counted_as_it_is() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 8))
    config = PostTrainingPalettizerConfig.from_dict({"module_name_configs": {"0": {"n_bits": 2}}})
    half = PostTrainingPalettizer(model, config).compress()
    subject = ModuleSubject(half)
    assert [item.name for item in subject.items] == ["2.weight"]
    assert subject.left == {"0.weight": "it is compressed already"}
    assert subject.size(half) == 32 * 32 // 4 + 4 * 4 + 4 * (32 + 8 * 32 + 8)


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor, *, scale: Tensor) -> dict[str, Tensor]:
        y = self.layer(x)
        return {"plain": y, "scaled": y * scale, "pair": (y + 1, y + 2)}


def test_samples_are_tensors_tuples_or_dictionaries_and_outputs_are_named() -> None:
    x, scale = torch.randn(2, 4), torch.tensor(2.0)
    assert samples_of([x])[0].keys() == {"0"} and samples_of([(x, x)])[0].keys() == {"0", "1"}
    subject = ModuleSubject(Two())
    loaded = subject.loaded(None)
    by_name, mixed = (subject.answer(loaded, sample) for sample in ({"x": x, "scale": scale}, {"0": x, "scale": scale}))
    assert list(by_name) == ["plain", "scaled", "pair.0", "pair.1"]
    assert all(np.array_equal(by_name[name], mixed[name]) for name in by_name)
    assert list(named((x, [x]), "output")) == ["0", "1.0"] and list(named(x, "output")) == ["output"]
    only = ModuleSubject(Two(), outputs=lambda answer: answer["scaled"])
    assert list(only.answer(loaded, {"x": x, "scale": scale})) == ["output"]


def test_a_part_is_differentiated_and_gradients_reach_the_leaves() -> None:
    model = tied()
    subject = ModuleSubject(model)
    (part,) = subject.parts(samples_of([torch.arange(4)]))
    leaves = [leaf.requires_grad_() for copies in part.leaves.values() for leaf in copies]
    (output,) = part.outputs(part.samples[0])
    gradients = torch.autograd.grad(output.square().sum(), leaves)
    for gradient, parameter in zip(gradients, (model[0].weight, model[1].weight), strict=True):
        (expected,) = torch.autograd.grad(model(torch.arange(4)).square().sum(), [parameter])
        assert torch.allclose(gradient, expected, rtol=1e-5, atol=1e-6)


def test_bad_forms_and_outputs_are_refused() -> None:
    with pytest.raises(ConfigError, match="forms='sparse': modules have no such weights"):
        ModuleSubject(nn.Linear(4, 4), forms=("sparse",))
    with pytest.raises(ConfigError, match="returns no tensor"):
        none = ModuleSubject(nn.Linear(4, 4), outputs=lambda answer: 3)
        none.answer(none.loaded(None), samples_of([torch.zeros(1, 4)])[0])
