"""Steps of a recipe that learn from samples, on different weights, are fitted in one pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import corepress
from corepress import recipe
from tests.packages import saved

RNG = np.random.default_rng(5)
TWO, INT4 = {"nbits": 2, "weight_threshold": 0}, {"dtype": "int4", "weight_threshold": 0}


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four linear layers with activations between them."""
    import coremltools as ct
    from coremltools.converters.mil.mil import Builder as mb
    from coremltools.converters.mil.mil import types

    @mb.program(input_specs=[mb.TensorSpec((1, 64), types.fp32)], opset_version=ct.target.iOS18)
    def program(x):
        for name in ("first", "second", "third"):
            x = mb.relu(x=mb.linear(x=x, weight=(RNG.normal(size=(64, 64)) / 8).astype(np.float32), name=name))
        return mb.linear(x=x, weight=(RNG.normal(size=(32, 64)) / 8).astype(np.float32), name="last")

    return saved(program, tmp_path_factory.mktemp("passes") / "net.mlpackage")


def samples(count: int, seed: int) -> list[dict[str, np.ndarray]]:
    rng, mix = np.random.default_rng(seed), np.random.default_rng(9).normal(size=(12, 64))
    return [{"x": (rng.normal(size=(1, 12)) @ mix).astype(np.float32)} for _ in range(count)]


def made(package: Path, *steps: dict[str, Any], held_back: float = 0) -> corepress.Model:
    found: corepress.Model = recipe.run(
        package, recipe.parse({"steps": list(steps)}), sample_data=samples(300, 0), held_back=held_back
    )
    return found


def palettize(*names: str, method: str = "lut-gptq", **more: Any) -> dict[str, Any]:
    return {"palettize": "skip", "names": dict.fromkeys(names, TWO), "method": method, **more}


def quantize(*names: str, **more: Any) -> dict[str, Any]:
    return {"quantize": "skip", "names": dict.fromkeys(names, INT4), "method": "gptq", **more}


def values(model: corepress.Model) -> list[np.ndarray]:
    return [weight.dense() for weight in model.weights()]


def forms(model: corepress.Model) -> list[str]:
    return [weight.compression for weight in model.weights() if len(weight.shape) == 2]


@pytest.mark.parametrize("held_back", [0, 0.2])
def test_two_steps_are_as_one_with_the_names_of_both(package, held_back) -> None:
    one = made(package, palettize("first", "second", "third", "last"), held_back=held_back)
    two = made(package, palettize("second", "last"), palettize("first", "third"), held_back=held_back)
    for a, b in zip(values(one), values(two), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_later_layer_makes_up_for_the_form_of_another_step(package) -> None:
    """Of two passes the second one takes what the first one left for the truth."""
    steps = palettize("first", "third"), quantize("second", "last")
    together = made(package, *steps)
    apart = made(package, steps[0])
    apart = recipe.run(apart, recipe.parse({"steps": [steps[1]]}), sample_data=samples(300, 0), held_back=0)
    assert forms(together) == forms(apart) == ["palettized", "quantized", "palettized", "quantized"]
    found = [corepress.verify(package, model, samples(100, 1)).worst.snr for model in (together, apart)]
    assert found[0] > found[1] + 1


def test_steps_that_learn_otherwise_are_passes_of_their_own(package, caplog) -> None:
    """By other evidence, from more samples, on what may be the same weights."""
    for second in (palettize("second", method="skm"), quantize("second", augment=8), quantize("first", "second")):
        first = {"prune": "skip", "names": {"first": {"target_sparsity": 0.5}}, "method": "sparsegpt"}
        model = made(package, first, second)
        assert forms(model)[1] in ("palettized", "quantized") and forms(model)[0]


def test_a_step_that_compresses_nothing_is_named(package, caplog) -> None:
    idle = {"quantize": "skip", "names": {"last": {"dtype": "int4"}}, "method": "gptq"}  # it is small
    model = made(package, palettize("first"), idle)
    assert forms(model) == ["palettized", "", "", ""]
    assert any("step 2 (quantize): no weight was compressed" in message for message in caplog.messages)
    assert not any("step 1" in message for message in caplog.messages)
