"""A refined package: nearer to its original on samples that were held back, of the same size and form."""

from __future__ import annotations

import numpy as np
import pytest

import corepress
import corepress.coreml as cto
from corepress.engine import Stopped
from corepress.errors import ConfigError
from corepress.refining.training import Training
from corepress.weights import decompress
from tests import structures
from tests.lazy import lazy
from tests.oracle import peer_weights
from tests.test_readme import ROOT

packages = lazy("tests.packages")
DIGITS = ROOT / "examples/digits.mlpackage"
IMAGES = np.load(ROOT / "examples/digits_test.npz")["images"][:, None]
SAMPLES = [{"image": image} for image in IMAGES[:60]]
TEST = [{"image": image} for image in IMAGES[60:100]]


def configuration(name):
    palettized = cto.OpPalettizerConfig
    quantized = cto.OpLinearQuantizerConfig
    return {
        "tables": ("palettize_weights", palettized(nbits=2)),
        "tables of groups": ("palettize_weights", palettized(nbits=2, granularity="per_grouped_channel", group_size=4)),
        "vectors": ("palettize_weights", palettized(nbits=4, cluster_dim=2)),
        "channels": ("linear_quantize_weights", quantized(dtype="int4", granularity="per_channel")),
        "bytes": ("linear_quantize_weights", quantized()),
        "blocks": ("linear_quantize_weights", quantized(dtype="int4", granularity="per_block", block_size=8)),
        "offsets": ("linear_quantize_weights", quantized(dtype="uint4", mode="linear")),
        "sparse": ("prune_weights", cto.OpMagnitudePrunerConfig(target_sparsity=0.7)),
    }[name]  # fmt: skip


def compressed(name, model=DIGITS, target="iOS18"):
    function, config = configuration(name)
    return getattr(cto, function)(model, cto.OptimizationConfig(config), target=target)


def shapes(model):
    """All that must stay: each operation with its names, types and shapes."""
    found = []
    for node in corepress.formats.mlprogram.program.nodes(model.spec):
        outputs = [(output.name, output.type.SerializeToString()) for output in node.op.outputs]
        found.append((node.type, node.name, outputs, sorted(node.operands)))
    return found


@pytest.mark.parametrize(
    "name", ["tables", "blocks", "sparse", *(
        pytest.param(name, marks=pytest.mark.slow) for name in ("tables of groups", "vectors", "channels", "offsets")
    )],
)  # fmt: skip
def test_a_refined_package_answers_better_and_has_the_same_form(name, tmp_path):
    small = compressed(name)
    better = corepress.refine(DIGITS, small, SAMPLES, test_data=TEST, steps=30)
    assert better.improved and better.after.worst.snr > better.before.worst.snr + 0.3
    sizes = [model.save(tmp_path / f"{i}.mlpackage").size() for i, model in enumerate((small, better.model))]
    assert sizes[0] == sizes[1]
    assert shapes(better.model) == shapes(small)
    values = peer_weights(tmp_path / "1.mlpackage")
    for weight in better.model.weights():
        np.testing.assert_array_equal(weight.dense(), values[weight.output])


@pytest.mark.parametrize("name", ["tables", "bytes", "sparse"])
def test_ios16_holds_its_parameters_as_attributes(name, tmp_path):
    path = packages.make_package(tmp_path, "iOS16", dtype="float32")
    function, config = configuration(name)
    small = getattr(cto, function)(path, cto.OptimizationConfig(config))
    samples = [packages.inputs(seed) for seed in range(10)]
    better = corepress.refine(path, small, samples, steps=10, augment=False)
    assert better.improved and not better.frozen
    better.model.save(tmp_path / "better.mlpackage")
    values = peer_weights(tmp_path / "better.mlpackage")
    for weight in better.model.weights():
        np.testing.assert_array_equal(weight.dense(), values[weight.output])


def test_the_same_seed_gives_the_same_bytes():
    small = compressed("tables")
    models = [corepress.refine(DIGITS, small, SAMPLES, steps=4, seed=seed).model for seed in (3, 3, 4)]
    values = [[weight.dense().tobytes() for weight in model.weights()] for model in models]
    assert values[0] == values[1] != values[2]


@pytest.mark.parametrize("rate", [0.02, 30.0])
def test_what_was_held_back_never_gets_worse(rate, monkeypatch):
    """Rates at which all falls to pieces give the start back."""
    for name in ("LATENT_RATE", "RATE", "LATENT_WAY", "WAY"):
        monkeypatch.setattr(f"corepress.refining.training.{name}", rate)
    small = compressed("tables")
    found = corepress.refine(DIGITS, small, SAMPLES, steps=10, augment=False)
    assert found.loss[1] <= found.loss[0]
    assert found.after.worst.snr >= found.before.worst.snr
    if not found.improved:
        for one, other in zip(small.weights(), found.model.weights(), strict=True):
            np.testing.assert_array_equal(one.dense(), other.dense())


def test_a_calibrated_function_refines_at_last():
    config = cto.OptimizationConfig(cto.OpMagnitudePrunerConfig(target_sparsity=0.8))
    small = cto.calibrated.prune_weights(DIGITS, config, iter(SAMPLES), refine=5)
    other = corepress.refine(DIGITS, cto.calibrated.prune_weights(DIGITS, config, SAMPLES), SAMPLES, steps=5).model
    for one, two in zip(small.weights(), other.weights(), strict=True):
        np.testing.assert_array_equal(one.dense(), two.dense())
    with pytest.raises(ConfigError, match="it must be a number of steps"):
        cto.calibrated.prune_weights(DIGITS, config, SAMPLES, refine="soon")


def test_biases_learn_too():
    small = compressed("tables")
    better = corepress.refine(DIGITS, small, SAMPLES, steps=10).model
    biases = [(one, other) for one, other in zip(small.weights(), better.weights(), strict=True) if len(one.shape) == 1]
    assert len(biases) == 5 and all((one.dense() != other.dense()).any() for one, other in biases)


@pytest.mark.slow
def test_rates_that_are_too_large_become_smaller(monkeypatch):
    """Instead of going on from where all fell to pieces, it goes back to the best state, and on with a third."""
    for name in ("LATENT_RATE", "RATE", "LATENT_WAY", "WAY"):
        monkeypatch.setattr(f"corepress.refining.training.{name}", 3.0)
    small = compressed("tables")
    found = corepress.refine(DIGITS, small, SAMPLES, steps=40)
    for name in ("_TOO_MUCH", "_TOO_MUCH_AT_FIRST"):
        monkeypatch.setattr(f"corepress.refining.training.{name}", np.inf)
    without = corepress.refine(DIGITS, small, SAMPLES, steps=40)
    assert found.improved and found.loss[1] < 0.5 * min(found.loss[0], without.loss[1])


def test_after_it_went_back_it_starts_with_small_steps(monkeypatch):
    """Those of Adam are largest at first: what fell to pieces by them would do so again, with a third of the rates."""
    rates, step = [], Training.step

    def seen(self, done, part, rate):
        rates.append(rate)
        return step(self, done, part, rate)

    monkeypatch.setattr(Training, "step", seen)
    for name in ("LATENT_RATE", "RATE", "LATENT_WAY", "WAY"):
        monkeypatch.setattr(f"corepress.refining.training.{name}", 30.0)
    corepress.refine(DIGITS, compressed("tables"), SAMPLES, steps=40, augment=False)
    back = next(number for number, rate in enumerate(rates) if rate < 1)
    assert rates[0] == 1 and rates[back] < 0.05
    again = next((n for n in range(back + 1, len(rates)) if rates[n] < rates[n - 1]), len(rates))
    assert rates[back:again] == sorted(rates[back:again]) and max(rates[back:]) <= 1 / 3


def test_before_anything_is_gained_a_smaller_rise_is_too_much(monkeypatch):
    """What was fitted lies near to a best state, from which large steps only lead away; later a rise may be passing."""
    rates, step, losses = [], Training.step, iter([1.0, 1.2, 0.9, *[1.2] * 30])

    def seen(self, done, part, rate):
        rates.append(rate)
        return step(self, done, part, rate)

    monkeypatch.setattr(Training, "step", seen)
    monkeypatch.setattr(Training, "error", lambda self: next(losses))
    corepress.refine(DIGITS, compressed("tables"), SAMPLES, steps=20)
    assert rates[0] == 1 and 1 / 9 < rates[-1] <= 1 / 3


def test_the_inputs_stay_as_they_are():
    small = compressed("tables")
    before = [decompress(weight.read()).copy() for weight in small.weights()]
    corepress.refine(DIGITS, small, SAMPLES, steps=2)
    for weight, value in zip(small.weights(), before, strict=True):
        np.testing.assert_array_equal(decompress(weight.read()), value)


def test_a_refinement_that_is_stopped_keeps_the_best():
    def stop(done, total, name):
        if done == 8:
            raise KeyboardInterrupt

    with pytest.raises(Stopped) as stopped:
        corepress.refine(DIGITS, compressed("tables"), SAMPLES, steps=20, progress=stop)
    found = stopped.value.result
    assert found.ended == "stopped" and found.improved
    assert found.after.worst.snr > found.before.worst.snr


def test_time_ends_it():
    found = corepress.refine(DIGITS, compressed("tables"), SAMPLES, time=0.5)
    assert found.ended == "time" and found.steps > 0


def test_the_numbers_say_on_what_they_were_measured():
    small = compressed("tables")
    assert corepress.refine(DIGITS, small, SAMPLES, test_data=TEST, steps=1).basis == "40 samples of test_data"
    assert "held back" in corepress.refine(DIGITS, small, SAMPLES, steps=1).basis
    few = corepress.refine(DIGITS, small, SAMPLES[:3], steps=1)
    assert "proves little" in few.basis and "too few" in few.notes[0]


def other_digits(folder):
    """The digits with one more operation."""
    model = corepress.load(DIGITS).copy()
    for node in corepress.formats.mlprogram.program.nodes(model.spec):
        if node.type == "relu":
            node.op.type = "sigmoid"
            break
    return model


def test_what_cannot_be_refined_is_refused(tmp_path):
    small = compressed("tables")
    with pytest.raises(ConfigError, match="nothing of it is compressed"):
        corepress.refine(DIGITS, DIGITS, SAMPLES)
    with pytest.raises(ConfigError, match="is empty"):
        corepress.refine(DIGITS, small, [])
    with pytest.raises(ConfigError, match="NaN"):
        corepress.refine(DIGITS, small, [{"image": np.full((1, 1, 8, 8), np.nan, "f4")}])
    with pytest.raises(ConfigError, match="operations are not those of the original"):
        corepress.refine(other_digits(tmp_path), small, SAMPLES)
    with pytest.raises(ConfigError, match="inputs are not those"):
        corepress.refine(packages.make_package(tmp_path, "iOS18"), small, SAMPLES)
    with pytest.raises(ConfigError, match="a time is"):
        corepress.refine(DIGITS, small, SAMPLES, time="soon")
    with pytest.raises(ConfigError, match="steps=0"):
        corepress.refine(DIGITS, small, SAMPLES, steps=0)


def test_weights_learn_around_activations_of_8_bits(tmp_path):
    config = cto.OptimizationConfig(cto.experimental.OpActivationLinearQuantizerConfig())
    rounded = cto.experimental.linear_quantize_activations(DIGITS, config, SAMPLES)
    small = cto.palettize_weights(rounded, cto.OptimizationConfig(cto.OpPalettizerConfig(nbits=3)))
    better = corepress.refine(DIGITS, small, SAMPLES, test_data=TEST, steps=20)
    assert better.improved and better.after.worst.snr > better.before.worst.snr + 1
    assert shapes(better.model) == shapes(small)


def test_sequences_carry_a_state(tmp_path):
    path = structures.stateful(tmp_path)
    config = cto.OptimizationConfig(cto.OpPalettizerConfig(nbits=2))
    small = cto.palettize_weights(path, config)
    (feature,) = corepress.runtime.load(path).interface.inputs
    random = np.random.default_rng(0)
    samples = [[{feature.name: random.normal(size=feature.shape).astype("f2")} for _ in range(3)] for _ in range(20)]
    found = corepress.refine(path, small, samples, steps=20)
    assert found.improved and found.after.worst.snr > found.before.worst.snr
    assert not any("new samples" in note for note in found.notes)  # they are made, of sequences too


def test_samples_that_need_much_memory_are_taken_a_few_at_a_time(monkeypatch):
    from corepress.refining import student as module
    from corepress.runtime import load

    program = load(DIGITS, precision="float32")
    whole = [count for _, count in module.Batched(program).batches(SAMPLES[:8], 8)]
    monkeypatch.setattr(module, "_ROOM", 3 * _computed(program))
    some = module.Batched(program)
    assert (whole, [count for _, count in some.batches(SAMPLES[:8], 8)]) == ([8], [3, 3, 2])
    monkeypatch.setattr(module, "_ROOM", 1)
    assert [count for _, count in module.Batched(program).batches(SAMPLES[:3], 8)] == [1, 1, 1]
    small = compressed("tables")
    refinement = corepress.refine(DIGITS, small, SAMPLES, steps=10)
    assert refinement.loss[1] < refinement.loss[0]


def _computed(program):
    """Bytes of all values that a program computes of a sample."""
    sizes = []
    program.predict(SAMPLES[0], observe=lambda _, value: sizes.append(value.nbytes))
    return sum(sizes)
