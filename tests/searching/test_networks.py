"""Older networks as something to search: values and sizes are those of the model that is made."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import corepress as cto
from corepress.engine import Skip
from corepress.errors import ConfigError
from corepress.formats.schema import Model as ModelProto
from corepress.neural_network import Model
from corepress.searching.networks import NetworkSubject
from tests.formats.neural_network.networks import inner_product, pipeline
from tests.runtime.networks.made import network

# What the lengths in front of messages may take more or less of, in a model of some messages within each other.
FRAMES = 16


def own(spec) -> Model:
    return Model(None, ModelProto.FromString(spec.SerializeToString()))


def net() -> Model:
    rng = np.random.default_rng(0)

    def build(b) -> None:
        b.add_convolution("conv", 8, 64, 3, 3, 1, 1, "valid", 1, rng.normal(size=(3, 3, 8, 64)), rng.normal(size=64),
                          True, input_name="x0", output_name="a")  # fmt: skip
        b.add_activation("relu", "RELU", "a", "b")
        b.add_flatten_to_2d("flat", "b", "c", axis=1)
        b.add_inner_product("ip", rng.normal(size=(10, 1024)), rng.normal(size=10), 1024, 10, True, "c", "y0")

    return own(network(build, (1, 8, 6, 6)))


def samples(count: int = 3) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(1)
    return [{"x0": rng.normal(size=(1, 8, 6, 6)).astype(np.float32)} for _ in range(count)]


def test_values_sizes_and_answers_are_those_of_the_model_that_is_made() -> None:
    model = net()
    before = model.spec.SerializeToString()
    subject = NetworkSubject(model)
    assert [item.name for item in subject.items] == ["conv.weights", "conv.bias", "ip.weights", "ip.bias"]
    assert [len(item.candidates) for item in subject.items] == [18, 2, 18, 2]
    for candidate in range(18):
        choice = (candidate, 0, 17 - candidate, 1)
        try:
            values = [subject.value((item, 0), chosen) for item, chosen in enumerate(choice)]
        except Skip:
            continue
        made = subject.make(choice)
        for weight, value in zip(made.weights(), values, strict=True):
            assert np.array_equal(weight.dense(), value.dense)
        saved = sum(subject.value((item, 0), 0).size for item in range(4)) - sum(value.size for value in values)
        assert abs(subject.size(model) - subject.size(made) - saved) <= FRAMES
        for item, value in enumerate(values):
            subject.put((item, 0), value.dense)
        (part,) = subject.parts(samples(1))
        (answer,) = part.outputs(part.samples[0])
        expected = subject.answer(subject.loaded(made), samples(1)[0])["y0"]
        assert np.array_equal(answer.detach().numpy().reshape(expected.shape), expected)
    assert model.spec.SerializeToString() == before


def test_gradients_reach_the_weights() -> None:
    subject = NetworkSubject(net())
    (part,) = subject.parts(samples(2))
    leaves = [leaf.requires_grad_() for copies in part.leaves.values() for leaf in copies]
    assert len(leaves) == 4
    (output,) = part.outputs(part.samples[0])
    gradients = torch.autograd.grad(output.sum(), leaves)
    assert all(gradient.abs().sum() > 0 for gradient in gradients)


def recurrent() -> Model:
    rng = np.random.default_rng(0)

    def gates(shape: tuple[int, ...]) -> list[np.ndarray]:
        return [rng.normal(size=shape) / 8 for _ in range(4)]

    def build(b) -> None:
        b.add_unilstm("lstm", gates((64, 64)), gates((64, 32)), gates((64,)), 64, 32, ["x0", "h0", "c0"],
                      ["a", "h1", "c1"], output_all=True)  # fmt: skip
        for name in ("h0", "c0"):
            b.add_load_constant_nd(name, name, np.zeros((1, 1, 64, 1, 1)), [1, 1, 64, 1, 1])
        b.add_inner_product("ip", rng.normal(size=(10, 64)), None, 64, 10, False, "a", "y0")

    spec = network(build, (5, 1, 32, 1, 1))
    layers = spec.neuralNetwork.layers
    lstm = type(layers[0]).FromString(layers[0].SerializeToString())
    del layers[0]
    layers.insert(2, lstm)
    return own(spec)


def test_the_gates_of_a_recurrence_are_chosen_together_and_gradients_reach_them() -> None:
    model = recurrent()
    subject = NetworkSubject(model)
    by_name = {item.name: item for item in subject.items}
    assert by_name["lstm.inputGateWeightMatrix"].shapes == ((256, 32),)
    assert len(by_name["lstm.inputGateWeightMatrix"].names) == 4
    data = [{"x0": np.random.default_rng(n).normal(size=(5, 1, 32, 1, 1)).astype(np.float32)} for n in range(20)]
    found = cto.search(model, data, bits=4, points=1)
    assert not any("no output depends" in note for note in found.notes)
    forms = {weight.name: (weight.form, weight.bits) for weight in found.model.weights()}
    gates = [name for name in forms if name.endswith("GateWeightMatrix") or name == "lstm.blockInputWeightMatrix"]
    assert len(gates) == 4 and len({forms[name] for name in gates}) == 1 and forms[gates[0]][0] != "float32"
    places = range(len(subject.items))
    choice = tuple(min(2, len(item.candidates) - 1) for item in subject.items)
    for item in places:
        subject.put((item, 0), subject.value((item, 0), choice[item]).dense)
    (part,) = subject.parts(data[:1])
    expected = subject.answer(subject.loaded(subject.make(choice)), data[0])["y0"]
    assert np.array_equal(part.outputs(data[0])[0].detach().numpy().reshape(expected.shape), expected)


def chain(size: int = 6) -> tuple[Model, np.ndarray]:
    """Two networks of a matrix each, one after the other, and that matrix."""
    weight = np.random.default_rng(0).normal(size=(size, size)).astype(np.float32)
    first, second = inner_product(weight, name="a"), inner_product(weight, name="a")
    for spec, names in ((first, ("data", "mid")), (second, ("mid", "out"))):
        spec.description.input[0].name, spec.description.output[0].name = names
        spec.description.input[0].type.multiArrayType.shape[:] = [size]
        layer = spec.neuralNetwork.layers[0]
        layer.input[0], layer.output[0] = names
    model = pipeline("pipeline", first, second)
    model.description.input.add().CopyFrom(first.description.input[0])
    while len(model.description.input) > 1:
        del model.description.input[0]
    return own(model), weight


def test_the_networks_of_a_pipeline_are_parts_and_a_later_one_sees_what_was_put_into_an_earlier() -> None:
    model, weight = chain()
    subject = NetworkSubject(model)
    assert [item.name for item in subject.items] == ["part0/a.weights", "part1/a.weights"]
    x = {"data": np.ones(6, np.float32)}
    parts = subject.parts([x])
    assert [list(part.leaves) for part in parts] == [[(0, 0)], [(1, 0)]]
    assert np.allclose(np.ravel(parts[1].samples[0]["mid"]), weight.sum(1), atol=1e-5)
    made = subject.make((1, 0))
    forms = [weight.form for weight in made.weights()]
    assert forms == ["float16", "float32"]


def test_the_networks_of_a_pipeline_are_searched_together() -> None:
    model, _ = chain(64)
    rng = np.random.default_rng(1)
    data = [{"data": rng.normal(size=64).astype(np.float32)} for _ in range(20)]
    found = cto.search(model, data, bits=5, points=1)
    assert [weight.name for weight in found.chosen.weights] == ["part0/a.weights", "part1/a.weights"]
    assert found.chosen.bits <= 5 and found.model.size() == found.chosen.size < model.size() / 5
    assert all(weight.bits <= 8 for weight in found.model.weights()) and found.chosen.quality["snr"] > 10


def test_what_can_not_be_searched_is_left_with_its_reason() -> None:
    model = net()
    model.spec.neuralNetwork.layers[0].isUpdatable = True
    subject = NetworkSubject(model)
    assert "updatable" in subject.left["conv.weights"]
    assert [item.name for item in subject.items] == ["ip.weights", "ip.bias"]
    with pytest.raises(ConfigError, match="forms='sparse': neural networks have no such weights"):
        NetworkSubject(model, forms=("sparse",))
