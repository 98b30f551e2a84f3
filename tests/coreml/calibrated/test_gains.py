"""What fitting leaves of a layer's error, foretold: beside packages that were compressed, and run."""

from __future__ import annotations

import numpy as np
import pytest

from corepress import load as load_model
from corepress.coreml import OpPalettizerConfig, OptimizationConfig, calibrated, palettize_weights
from corepress.coreml.methods import METHODS
from tests.packages import inputs


@pytest.fixture
def samples():
    """Inputs whose first, x, lies nearly in a space of few dimensions, as activations do."""
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(8, 64)) / 3
    found = []
    for seed in range(64):
        x = rng.normal(size=(1, 8)) @ mix + rng.normal(size=(1, 64)) * 0.1
        found.append({**inputs(seed), "x": x.astype(np.float16)})
    return found


def test_it_is_the_error_of_the_fitted_package_over_that_of_the_plain_one(package, samples, monkeypatch):
    from corepress.coreml.calibrated import calibration
    from corepress.coreml.calibrated import gains as module
    from corepress.coreml.calibrated.gains import Tried, gains
    from corepress.runtime import load

    for place in (calibration, module):  # all vectors count alike, as they do in the noise below
        monkeypatch.setattr(place, "of_vectors", lambda *_: {})

    path, config = package("iOS18"), OpPalettizerConfig(nbits=2)
    weight = next(own for own in load_model(path).weights() if own.name.startswith("dense") and len(own.shape) == 2)
    method = METHODS["palettize"]
    actions = {"2 bits": (method.action.on(weight, config, True), method.fitted["lut-gptq"].on(weight, config, True))}
    found = gains(load(path, precision="float32"), samples, [Tried(weight, actions)])

    judged, learnt = samples[::4], [own for number, own in enumerate(samples) if number % 4]
    only = OptimizationConfig(op_name_configs={weight.name: config})
    noises = []
    for small in (calibrated.palettize_weights(path, only, learnt, held_back=0), palettize_weights(path, only)):
        programs = [load(model, precision="float32") for model in (path, small)]
        output = next(name for name in programs[0].predict(judged[0]) if "dense" in name)
        pairs = [[program.predict(sample)[output] for program in programs] for sample in judged]
        noises.append(sum(float(np.square(one - other).sum()) for one, other in pairs))
    assert found[weight.function, weight.output]["2 bits"] == pytest.approx(noises[0] / noises[1], rel=1e-3)
    assert noises[0] < noises[1] / 2


def test_what_no_layer_multiplies_or_looks_up_has_none(package, samples):
    from corepress.coreml.calibrated.gains import Tried, gains
    from corepress.runtime import load

    path, config = package("iOS18"), OpPalettizerConfig(nbits=4)
    weight = next(own for own in load_model(path).weights() if own.name.startswith("shift"))
    method = METHODS["palettize"]
    actions = {"4 bits": (method.action.on(weight, config, True), method.fitted["lut-gptq"].on(weight, config, True))}
    assert gains(load(path, precision="float32"), samples, [Tried(weight, actions)]) == {}
