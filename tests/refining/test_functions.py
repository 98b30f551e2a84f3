"""Several functions of a package learn together, and the stages of a pipeline from what those before them give."""

from __future__ import annotations

import numpy as np
import pytest

import corepress
import corepress.coreml as cto
from corepress.errors import ConfigError
from tests import structures
from tests.cli.test_cli import corepress as corepress_cli
from tests.coreml.calibrated.test_functions import package

CONFIG = cto.OptimizationConfig(cto.OpPalettizerConfig(nbits=2, weight_threshold=0))
# What a function sees differs, so that a shared weight which learns from one alone gets worse for the other.
SEEN = {"prefill": np.r_[np.ones(32), np.zeros(32)] + 0.02, "decode": np.r_[np.zeros(32), np.ones(32)] + 0.02}


def inputs(name, count, seed):
    random = np.random.default_rng(seed)
    return [{"x": (random.normal(size=(1, 64)) * SEEN[name]).astype(np.float32)} for _ in range(count)]


def of_both(count, seed=0):
    return {name: inputs(name, count, seed) for name in SEEN}


@pytest.fixture(scope="module")
def functions(tmp_path_factory):
    path = package(tmp_path_factory.mktemp("functions"))
    small = cto.palettize_weights(path, CONFIG).save(path.parent / "small.mlpackage")
    return path, small.path


def snr(original, model, name):
    return corepress.verify(original, model, inputs(name, 40, 9), function=name).worst.snr


def test_a_shared_weight_learns_from_all_functions(functions, tmp_path):
    original, small = functions
    both = corepress.refine(original, small, of_both(200), test_data=of_both(20, 5), steps=80)
    one = corepress.refine(original, small, inputs("prefill", 200, 0), function="prefill", steps=80)
    start, together, alone = (
        {name: snr(original, model, name) for name in SEEN} for model in (small, both.model, one.model)
    )
    assert all(together[name] > start[name] + 0.5 for name in SEEN)
    assert together["decode"] > alone["decode"] + 1
    assert {row.name.partition("/")[0] for row in both.after.rows} == {*SEEN}
    # The weight is shared as before: one blob.
    names = [weight.key for weight in both.model.weights() if weight.compression and "shared" in weight.name]
    assert len(names) == 2 and names[0] == names[1]
    assert both.model.save(tmp_path / "better.mlpackage").size() == corepress.load(small).size()


def test_on_the_command_line_each_function_has_a_folder(functions, tmp_path):
    original, small = functions
    for name, given in of_both(20).items():
        (tmp_path / "data" / name).mkdir(parents=True)
        np.savez(tmp_path / "data" / name / "samples.npz", x=np.stack([sample["x"] for sample in given]))
    command = ["refine", original, small, "-o", tmp_path / "better.mlpackage", "--data", tmp_path / "data"]
    done = corepress_cli(*command, "--steps", 3)
    assert "prefill/" in done.stdout and "decode/" in done.stdout


def test_the_stages_of_a_pipeline_learn(tmp_path):
    path = structures.pipeline(tmp_path)
    small = cto.palettize_weights(path, CONFIG)
    (feature,) = corepress.runtime.load(path).interface.inputs
    random = np.random.default_rng(0)
    samples = [{feature.name: random.normal(size=feature.shape).astype(feature.dtype)} for _ in range(80)]
    found = corepress.refine(path, small, samples[:60], test_data=samples[60:], steps=60)
    assert found.after.worst.snr > found.before.worst.snr + 1
    before, after = (
        [weight.dense() for weight in model.weights() if weight.compression] for model in (small, found.model)
    )
    changed = [not np.array_equal(one, other) for one, other in zip(before, after, strict=True)]
    assert all(changed) and len({weight.function for weight in small.weights()}) == 2
    found.model.save(tmp_path / "better.mlpackage")


def test_samples_that_do_not_fit_are_refused(functions):
    original, small = functions
    with pytest.raises(ConfigError, match="other"):
        corepress.refine(original, small, {"other": inputs("decode", 4, 0)})
    with pytest.raises(ConfigError, match="of several functions; leave the function out"):
        corepress.refine(original, small, of_both(4), function="decode")
    with pytest.raises(ConfigError, match=r"decode.*is empty"):
        corepress.refine(original, small, {"decode": []})
