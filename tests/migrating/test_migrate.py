"""Core AI models that are made of packages: Apple's own runtime runs them, and answers as ours does."""

from __future__ import annotations

import gc
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import corepress
from corepress import runtime
from corepress.coreml import (
    OpLinearQuantizerConfig,
    OpMagnitudePrunerConfig,
    OpPalettizerConfig,
    OptimizationConfig,
    linear_quantize_weights,
    palettize_weights,
    prune_weights,
)
from corepress.errors import ConfigError, FormatError, OutputError, UnsupportedError
from corepress.runtime.load import interface
from tests.decoder import summing
from tests.packages import saved
from tests.structures import classifier, multifunction, pipeline

pytest.importorskip("coreai_torch")
DIGITS = "examples/digits.mlpackage"
GROUPS = {"granularity": "per_grouped_channel", "group_size": 16}
BLOCKS = {"granularity": "per_block", "block_size": 32}


def palettized(**fields: Any) -> Any:
    return palettize_weights, OpPalettizerConfig(weight_threshold=0, **fields)


def quantized(**fields: Any) -> Any:
    return linear_quantize_weights, OpLinearQuantizerConfig(weight_threshold=0, **fields)


def pruned(**fields: Any) -> Any:
    return prune_weights, OpMagnitudePrunerConfig(weight_threshold=0, target_sparsity=0.5, **fields)


# What is done to the weight of a layer, in order.
FORMS = {
    **{f"palettized_{bits}": [palettized(nbits=bits)] for bits in (1, 2, 3, 4, 6, 8)},
    "groups": [palettized(nbits=4, **GROUPS)],
    "int8_tables": [palettized(nbits=4, lut_dtype="int8", **GROUPS)],
    "vectors": [palettized(nbits=4, cluster_dim=2)],
    "scaled_channels": [palettized(nbits=4, enable_per_channel_scale=True)],
    "eight_bits": [quantized(dtype="int8")],
    "uint8_with_offsets": [quantized(dtype="uint8", mode="linear")],
    "int4_blocks": [quantized(dtype="int4", **BLOCKS)],
    "uint4_blocks_with_offsets": [quantized(dtype="uint4", mode="linear", **BLOCKS)],
    "sparse": [pruned()],
    "sparse_palettized": [pruned(), palettized(nbits=4)],
    "sparse_groups": [pruned(), palettized(nbits=4, **GROUPS)],
    "sparse_int8": [pruned(), quantized(dtype="int8")],
}


def layers(folder: Path) -> Path:
    """A linear layer for each form, with an output of its own: given the unit matrix, it answers with its weight."""
    import coremltools as ct
    from coremltools.converters.mil.mil import Builder as mb
    from coremltools.converters.mil.mil import types

    rng = np.random.default_rng(0)

    @mb.program(input_specs=[mb.TensorSpec((64, 64), types.fp16)], opset_version=ct.target.iOS18)
    def program(x):
        return tuple(
            mb.linear(x=x, weight=rng.normal(size=(64, 64)).astype(np.float16), name=name) for name in [*FORMS, "dense"]
        )

    return saved(program, folder / "layers.mlpackage")


def test_weights_of_every_form_are_the_same_numbers_and_stay_compressed(tmp_path: Path) -> None:
    model: Any = corepress.load(layers(tmp_path))
    for step in range(2):
        for name, steps in FORMS.items():
            if step < len(steps):
                compress, config = steps[step]
                rules = OptimizationConfig(op_name_configs={name: config})
                model = compress(model, rules, joint_compression=step > 0)
    dense = {weight.name.partition("_weight")[0]: weight.dense() for weight in model.weights() if weight.size > 64}
    found = corepress.migrate(model, tmp_path / "layers.aimodel")
    assert found.compressed == len(FORMS) and found.notes == ()
    answers = runtime.load(tmp_path / "layers.aimodel").predict({"x": np.eye(64, dtype=np.float16)})
    assert len(answers) == len(FORMS) + 1
    for name, answer in answers.items():
        # Apple's runtime subtracts offsets after it multiplied, and rounds both to float16: 255 steps are 6 here.
        tolerance = 4 * 2**-11 * 6 if "offsets" in name else 0
        np.testing.assert_allclose(answer, dense[name].T, rtol=0, atol=tolerance, err_msg=name)
    size = sum(path.stat().st_size for path in (tmp_path / "layers.aimodel").iterdir())
    assert size < model.size() + 64 * len(FORMS) + 20_000
    assert size < 0.6 * 64 * 64 * 2 * len(FORMS)


def test_a_package_of_float16_answers_in_float16(tmp_path: Path) -> None:
    found = corepress.migrate(DIGITS, tmp_path / "digits.aimodel")
    assert found == corepress.migrating.migrate.Migration(tmp_path / "digits.aimodel", ("main",), 0, ())
    images = np.load("examples/digits_test.npz")["images"][:20, None]
    samples = [{"image": image.astype(np.float16)} for image in images]
    verified = corepress.verify(DIGITS, tmp_path / "digits.aimodel", samples)
    # Each of a few layers rounds to 11 bits.
    assert verified.worst.snr > 45 and verified.worst.top1 == 1


def test_types_can_be_chosen(tmp_path: Path) -> None:
    corepress.migrate(DIGITS, tmp_path / "digits.aimodel", precision="float32")
    sample = {"image": np.load("examples/digits_test.npz")["images"][:1]}
    exact = runtime.load(DIGITS, precision="float32").predict(sample)["logits"]
    answer = runtime.load(tmp_path / "digits.aimodel").predict(sample)["logits"]
    assert answer.dtype == np.float32
    # The package's answer is float16.
    np.testing.assert_allclose(answer, exact, rtol=2**-11, atol=1e-4)


def test_a_state_goes_from_step_to_step(tmp_path: Path) -> None:
    package = summing(tmp_path)
    corepress.migrate(package, tmp_path / "summing.aimodel")
    steps = [{"ids": np.array([[word]], np.int32)} for word in (3, 14, 15, 92, 65)]
    ours, theirs = (runtime.load(path).run_sequence(steps) for path in (package, tmp_path / "summing.aimodel"))
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(other["logits"], one["logits"], rtol=1e-4, atol=1e-4)
    # The numbers do depend on the words before.
    assert not np.allclose(theirs[1]["logits"], runtime.load(package).run_sequence(steps[1:2])[0]["logits"], atol=1e-2)
    with pytest.raises(ConfigError, match="stateful"):
        runtime.load(tmp_path / "summing.aimodel").predict(steps[0])


@pytest.mark.slow
def test_functions_with_states_of_the_same_names(tmp_path: Path) -> None:
    import coremltools as ct

    package = summing(tmp_path)
    description = ct.utils.MultiFunctionDescriptor()
    for name in ("first", "second"):
        description.add_function(str(package), src_function_name="main", target_function_name=name)
    description.default_function_name = "first"
    several = tmp_path / "several.mlpackage"
    ct.utils.save_multifunction(description, str(several))
    corepress.migrate(several, tmp_path / "several.aimodel")
    steps = [{"ids": np.array([[word]], np.int32)} for word in (3, 14)]
    ours, *theirs = (
        runtime.load(path, function=name).run_sequence(steps)
        for path, name in ((several, "first"), *((tmp_path / "several.aimodel", name) for name in ("first", "second")))
    )
    for found in theirs:
        np.testing.assert_allclose(found[1]["logits"], ours[1]["logits"], rtol=1e-4, atol=1e-4)


def test_functions_keep_their_names(tmp_path: Path) -> None:
    from tests.coreml.calibrated.test_functions import package

    several = package(tmp_path)
    found = corepress.migrate(several, tmp_path / "several.aimodel")
    assert found.functions == ("decode", "prefill")
    sample = {"x": np.random.default_rng(0).normal(size=(1, 64)).astype(np.float32)}
    for name in found.functions:
        ours, theirs = (
            runtime.load(path, function=name).predict(sample) for path in (several, tmp_path / "several.aimodel")
        )
        (one,), (other,) = ours.values(), theirs.values()
        np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-4)
    with pytest.raises(ConfigError, match="there is no function 'train'; it has decode, prefill"):
        runtime.load(tmp_path / "several.aimodel", function="train")


def test_weights_that_functions_share_are_written_once(tmp_path: Path) -> None:
    package = multifunction(tmp_path)
    corepress.migrate(package, tmp_path / "both.aimodel")
    size = sum(path.stat().st_size for path in (tmp_path / "both.aimodel").iterdir())
    weight = 64 * 64 * 2
    assert weight < size < 2 * weight
    sample = {"x": np.random.default_rng(0).normal(size=(1, 64)).astype(np.float16)}
    for name in ("first", "second"):
        ours, theirs = (
            runtime.load(path, function=name).predict(sample) for path in (package, tmp_path / "both.aimodel")
        )
        (one,), (other,) = ours.values(), theirs.values()
        np.testing.assert_allclose(other, one, rtol=2**-8, atol=2**-6)


def test_a_pipeline_becomes_one_function(tmp_path: Path) -> None:
    package = pipeline(tmp_path)
    small = palettize_weights(package, OptimizationConfig(OpPalettizerConfig(nbits=4, weight_threshold=0)))
    small.save(tmp_path / "small.mlpackage")
    found = corepress.migrate(tmp_path / "small.mlpackage", tmp_path / "pipeline.aimodel")
    assert found.functions == ("main",) and found.compressed == 2
    assert corepress.verify(tmp_path / "small.mlpackage", tmp_path / "pipeline.aimodel").worst.snr > 50


def test_a_classifier_gives_its_label_and_its_probabilities(tmp_path: Path) -> None:
    package = classifier(tmp_path)
    found = corepress.migrate(package, tmp_path / "classifier.aimodel")
    assert [note for note in found.notes if "'classLabel'" in note and "metadata" in note]
    sample = {"x": np.random.default_rng(0).normal(size=(1, 64)).astype(np.float32)}
    ours, theirs = (runtime.load(path).predict(sample) for path in (package, tmp_path / "classifier.aimodel"))
    assert list(theirs) == list(ours) and theirs["classLabel"] == ours["classLabel"]
    assert theirs["classLabel_probs"] == pytest.approx(ours["classLabel_probs"], rel=1e-4, abs=1e-6)
    assert corepress.verify(package, tmp_path / "classifier.aimodel").ok


def obstructed(folder: Path) -> Path:
    """Operations that can't be brought over: two that coreai-torch has nothing for, one that has no fixed shape."""
    import coremltools as ct
    from coremltools.converters.mil.mil import Builder as mb
    from coremltools.converters.mil.mil import types

    @mb.program(input_specs=[mb.TensorSpec((4, 8), types.fp32)], opset_version=ct.target.iOS18)
    def program(x):
        scattered = mb.scatter_along_axis(
            data=x, indices=np.zeros((2, 8), np.int32), updates=np.ones((2, 8), np.float32), axis=0, mode="max",
            name="largest",
        )  # fmt: skip
        noise = mb.random_normal(shape=[4, 8], mean=0.0, stddev=1.0, seed=-1, name="noise")
        kept = mb.non_maximum_suppression(
            boxes=mb.reshape(x=mb.add(x=scattered, y=noise), shape=[1, 4, 8]), scores=np.ones((1, 1, 8), np.float32),
            iou_threshold=0.5, max_boxes=2, name="kept",
        )  # fmt: skip
        return mb.relu(x=kept[0])

    return saved(program, folder / "obstructed.mlpackage")


def test_all_that_can_not_go_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    package = obstructed(tmp_path)
    foreseen = corepress.foresee_migration(package)
    text = " ".join(foreseen.obstacles)
    for name in ("scatter_along_axis 'largest'", "random_normal 'noise'", "non_maximum_suppression 'kept'"):
        assert name in text
    with pytest.raises(UnsupportedError) as refused:
        corepress.migrate(package, tmp_path / "out.aimodel")
    assert all(obstacle in str(refused.value) for obstacle in foreseen.obstacles)
    assert str(refused.value).startswith(str(package)) and "\n" not in str(refused.value)
    assert [path.name for path in tmp_path.iterdir()] == [package.name]


def test_a_migration_is_foreseen(tmp_path: Path) -> None:
    small = palettize_weights(DIGITS, OptimizationConfig(OpPalettizerConfig(nbits=3, weight_threshold=0)))
    small.save(tmp_path / "small.mlpackage")
    foreseen = corepress.foresee_migration(tmp_path / "small.mlpackage")
    found = corepress.migrate(tmp_path / "small.mlpackage", tmp_path / "small.aimodel")
    assert (foreseen.functions, foreseen.compressed, foreseen.notes) == (found.functions, found.compressed, found.notes)
    assert foreseen.obstacles == () and found.compressed == len([w for w in small.weights() if w.compression])


def test_wrong_input_is_one_sentence(tmp_path: Path) -> None:
    corepress.migrate(DIGITS, tmp_path / "digits.aimodel")
    (tmp_path / "damaged.aimodel").mkdir()
    for name in ("main.mlirb", "metadata.json"):
        (tmp_path / "damaged.aimodel" / name).write_bytes(b"nothing")
    (tmp_path / "empty.aimodel").mkdir()
    with pytest.raises(OutputError, match="exists already"):
        corepress.migrate(DIGITS, tmp_path / "digits.aimodel")
    with pytest.raises(ConfigError, match=r"give it a name with the ending \.aimodel"):
        corepress.migrate(DIGITS, tmp_path / "digits.mlpackage")
    with pytest.raises(FormatError, match="it is no metadata of a Core AI model, or damaged"):
        runtime.load(tmp_path / "damaged.aimodel")
    with pytest.raises(FormatError, match="it is no Core AI model"):
        runtime.load(tmp_path / "empty.aimodel")
    with pytest.raises(ConfigError, match="image"):
        runtime.load(tmp_path / "digits.aimodel").predict({})
    before = {path.name: path.read_bytes() for path in (tmp_path / "digits.aimodel").iterdir()}
    corepress.migrate(DIGITS, tmp_path / "digits.aimodel", overwrite=True)
    assert before.keys() == {path.name for path in (tmp_path / "digits.aimodel").iterdir()}


def test_a_thread_ends_with_the_model_that_it_runs(tmp_path: Path) -> None:
    corepress.migrate(DIGITS, tmp_path / "digits.aimodel")
    before = set(threading.enumerate())
    model: Any = runtime.load(tmp_path / "digits.aimodel")
    sample = {"image": np.zeros((1, 1, 8, 8), np.float16)}
    expected = model.predict(sample)["logits"]
    own = set(threading.enumerate()) - before
    del model
    gc.collect()
    for thread in own:
        thread.join(10)
    assert own and not any(thread.is_alive() for thread in own)
    other: Any = runtime.load(tmp_path / "digits.aimodel")
    np.testing.assert_array_equal(other.predict(sample)["logits"], expected)
    other.close()
    with pytest.raises(FormatError, match="it was closed"):
        other.predict(sample)


def test_what_a_model_takes_and_gives_is_known_before_it_is_loaded(tmp_path: Path) -> None:
    for name, package in {"plain": DIGITS, "labelled": classifier(tmp_path), "summing": summing(tmp_path)}.items():
        corepress.migrate(package, tmp_path / f"{name}.aimodel")
        loaded = runtime.load(tmp_path / f"{name}.aimodel").interface
        assert interface(tmp_path / f"{name}.aimodel") == loaded


def test_what_is_told_on_the_way_and_of_what_is_left(tmp_path: Path) -> None:
    told: list[tuple[int, int, str]] = []
    corepress.migrate(DIGITS, tmp_path / "digits.aimodel", progress=lambda *state: told.append(state))
    assert told == [(0, 3, "main"), (1, 3, "converted"), (3, 3, "written")]
    small = palettize_weights(tmp_path / "digits.aimodel", OptimizationConfig(OpPalettizerConfig(nbits=4)))
    reasons = set(small.skipped.values())  # in words of Core AI
    assert "it is a vector, such as a bias: little would be gained" in reasons and "Core ML" not in str(reasons)
