"""Configurations of neural networks, and recipes for them: each weight gets what its rule says."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from corepress import recipe
from corepress.errors import ConfigError, Missed, UnsupportedError
from corepress.neural_network import load
from corepress.neural_network.config import NetworkConfig, NetworkLinearConfig, NetworkPaletteConfig
from corepress.neural_network.quantization_utils import compress_weights, quantize_weights
from tests.cli.test_cli import corepress, fails
from tests.formats.neural_network.networks import every_layer, inner_product, pipeline


@pytest.fixture
def old(tmp_path: Path) -> Path:
    path = tmp_path / "old.mlmodel"
    path.write_bytes(every_layer().SerializeToString())
    return path


@pytest.mark.parametrize("asked", [
    *(NetworkPaletteConfig(nbits=bits) for bits in range(1, 9)), NetworkPaletteConfig(nbits=3, mode="uniform"),
    *(NetworkLinearConfig(nbits=bits, mode="linear") for bits in range(1, 9)), NetworkLinearConfig(nbits=16),
    NetworkLinearConfig(nbits=5),
])  # fmt: skip
def test_one_configuration_for_all_is_quantize_weights(old: Path, asked) -> None:
    ours = compress_weights(old, NetworkConfig(asked))
    assert ours.spec == quantize_weights(old, *asked.asked()).spec


def test_a_name_goes_before_a_pattern_and_that_before_a_type(old: Path) -> None:
    config = NetworkConfig(
        None,
        {"innerProduct": NetworkPaletteConfig(nbits=8), "convolution": NetworkPaletteConfig(nbits=7)},
        {"*body": NetworkPaletteConfig(nbits=2), "ip": None, "ip.bias": NetworkLinearConfig(nbits=16)},
    )
    forms = {weight.name: (weight.form, weight.bits) for weight in compress_weights(old, config).weights()}
    assert forms["conv.weights"] == ("lut", 7) and forms["emb.weights"] == ("float32", 32)
    assert forms["ip.weights"] == ("float32", 32) and forms["ip.bias"] == ("float16", 16)
    assert forms["loop/body.weights"] == ("lut", 2) and forms["branch/then.weights"] == ("lut", 8)


def test_a_recipe_makes_what_its_steps_say(old: Path, tmp_path: Path) -> None:
    steps = {
        "steps": [
            {"palettize": {"bits": 4}, "ops": {"embedding": {"nbits": 5}}, "names": {"conv*": "skip"}},
            {"quantize": "skip", "names": {"conv.weights": {"nbits": 6, "mode": "linear"}}},
        ]
    }
    made = recipe.run(old, recipe.parse(steps, networks=True))
    forms = {weight.name: (weight.form, weight.bits) for weight in made.weights()}
    assert forms["conv.weights"] == ("linear", 6) and forms["emb.weights"] == ("lut", 5)
    assert forms["ip.weights"] == ("lut", 4) and forms["conv.bias"] == ("float32", 32)
    dense = recipe.run(made, recipe.parse({"steps": ["decompress"]}, networks=True))
    assert {weight.form for weight in dense.weights()} == {"float32"}
    text, out = tmp_path / "recipe.yaml", tmp_path / "small.mlmodel"
    text.write_text(
        "steps:\n  - palettize: {bits: 4}\n    ops: {embedding: {nbits: 5}}\n    names: {'conv*': skip}\n"
        "  - quantize: skip\n    names: {conv.weights: {nbits: 6, mode: linear}}\n"
    )
    corepress("compress", old, "-o", out, "--recipe", text, "--all-constants")
    assert load(out).spec == made.spec


def test_weights_in_pipelines_have_the_names_of_their_stages() -> None:
    weight = np.linspace(-1, 1, 36, dtype=np.float32).reshape(6, 6)
    spec = pipeline("pipeline", inner_product(weight, name="a"), inner_product(weight, name="a"))
    made = compress_weights(spec, NetworkConfig(None, {}, {"part1/a": NetworkPaletteConfig(nbits=1)}))
    kinds = [stage.neuralNetwork.layers[0].innerProduct.weights.WhichOneof for stage in made.pipeline.models]
    assert len(kinds) == 2
    raw = [len(stage.neuralNetwork.layers[0].innerProduct.weights.rawValue) for stage in made.pipeline.models]
    assert raw == [0, 5]


@pytest.mark.parametrize("steps,sentence", [
    ([{"prune": {"target_sparsity": 0.5}}], r"step 1 \(prune\): neural networks have no such weights"),
    ([{"palettize": {"nbits": 9}}], '"nbits" must be 1 to 8'),
    ([{"palettize": {"group_size": 4}}], "unknown key 'group_size'"),
    ([{"quantize": {"nbits": 1}}], '"linear_symmetric" needs 2 bits'),
    ([{"quantize": {}, "method": "gptq"}], "are not fitted to data"),
])  # fmt: skip
def test_what_networks_have_not_is_refused(steps, sentence) -> None:
    with pytest.raises(ConfigError, match=sentence):
        recipe.parse({"steps": steps}, networks=True)


def test_a_target_and_the_other_kind_of_model_are_refused(old: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="target is for ML programs"):
        recipe.parse({"target": "iOS18", "steps": [{"palettize": {}}]}, networks=True)
    with pytest.raises(UnsupportedError, match="it holds an ML program"):
        recipe.run("examples/digits.mlpackage", recipe.parse({"steps": [{"palettize": {}}]}, networks=True))
    text = tmp_path / "recipe.yaml"
    text.write_text("steps: [{palettize: {nbits: 4}}]")
    message = fails("compress", old, "-o", tmp_path / "o.mlmodel", "--recipe", text, "--target", "iOS18")
    assert "--target can't be used here: the model is a neural network" in message


def test_rules_without_effect_are_said(old: Path, caplog) -> None:
    steps = recipe.parse({"steps": [{"palettize": "skip", "names": {"hed": {"nbits": 4}}}]}, networks=True)
    with caplog.at_level(logging.WARNING):
        recipe.run(old, steps)
    assert 'step 1 (palettize), names: "hed" has no effect: nothing in the model matches it' in caplog.text
    with pytest.raises(ConfigError, match='"hed" has no effect'):
        recipe.run(old, steps, strict=True)
    with pytest.raises(Missed, match="no weight was compressed"):
        compress_weights(old, NetworkConfig(None), strict=True)


def test_a_recipe_for_another_network_is_one_sentence(old: Path, tmp_path: Path) -> None:
    text = tmp_path / "recipe.yaml"
    text.write_text("steps: [{palettize: skip, names: {hed: {nbits: 4}, tail: {nbits: 2}}}]")
    message = fails("compress", old, "-o", tmp_path / "o.mlmodel", "--recipe", text)
    assert f'{text} compresses nothing in old.mlmodel: it asks for "hed", "tail", where' in message
    assert not (tmp_path / "o.mlmodel").exists()
