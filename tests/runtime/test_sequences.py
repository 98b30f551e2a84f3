"""Sequences of steps that carry one state: run, and walked operation by operation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import corepress
from corepress import runtime
from corepress.errors import ConfigError
from corepress.runtime.walk import outputs_in_steps, values_of, walk, what_if
from tests import decoder, structures


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> runtime.Program:
    return runtime.load(decoder.package(tmp_path_factory.mktemp("decoder")), precision="float32")


def test_the_steps_of_a_sequence_are_those_of_pytorch(program) -> None:
    for sequence in decoder.sequences(2):
        expected = decoder.answers(decoder.network(), sequence)
        found = program.run_sequence(sequence)
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one["logits"], other, atol=1e-4)


def test_inputs_without_a_list_are_a_sequence_of_one_step(program) -> None:
    (sequence,) = decoder.sequences(1)
    (found,) = program.run_sequence(sequence[0])
    np.testing.assert_array_equal(found["logits"], program.predict(sequence[0], program.make_state())["logits"])


def test_a_state_goes_on_after_a_sequence(program) -> None:
    (sequence,) = decoder.sequences(1)
    state = program.make_state()
    found = program.run_sequence(sequence[:4], state) + program.run_sequence(sequence[4:], state)
    for one, other in zip(found, program.run_sequence(sequence), strict=True):
        np.testing.assert_array_equal(one["logits"], other["logits"])


def test_a_pipeline_runs_sequences(tmp_path) -> None:
    pipeline = runtime.load(structures.pipeline(tmp_path))
    feature = pipeline.interface.inputs[0]
    step = {feature.name: np.ones(feature.shape, feature.dtype)}
    alone, again = pipeline.run_sequence([step, step])
    assert {name: value.tolist() for name, value in alone.items()} == {n: v.tolist() for n, v in again.items()}


def _products(program: runtime.Program) -> list[str]:
    return [step.name for step in program.module.plan.steps if step.kind == "linear"]


def _given_to_products(program: runtime.Program, sequences) -> dict[str, list[torch.Tensor]]:
    """What each product multiplies, in each step, when sequences run as a whole."""
    names = {dict(step.computed)["x"]: step.name for step in program.module.plan.steps if step.kind == "linear"}
    found: dict[str, list[torch.Tensor]] = {name: [] for name in names.values()}

    def observe(name, value) -> None:
        if name in names:
            found[names[name]].append(value.clone())

    for sequence in sequences:
        program.run_sequence(sequence, observe=observe)
    return found


def test_a_walk_sees_what_a_run_computes(program) -> None:
    sequences = decoder.sequences(2)
    expected = _given_to_products(program, sequences)
    seen = {}

    def visit(step, arguments, originals):
        if step.kind == "linear":
            seen[step.name] = [own["x"].clone() for own in arguments]
            assert all(torch.equal(own["x"], one["x"]) for own, one in zip(arguments, originals, strict=True))
        return {}

    walk(program, sequences, visit, originals=sequences)
    assert list(seen) == _products(program) and len(next(iter(seen.values()))) == 2 * len(sequences[0])
    for name, values in seen.items():
        assert all(torch.equal(one, other) for one, other in zip(values, expected[name], strict=True)), name


def texts(count: int, length: int) -> list[list[dict[str, np.ndarray]]]:
    """For `decoder.summing`."""
    words = np.random.default_rng(0).integers(0, decoder.WORDS, (count, length)).astype(np.int32)
    return [[{"ids": word.reshape(1, 1)} for word in text] for text in words]


def chained(folder) -> Path:
    """A cache of two layers in one state, which is read once: each update goes on with what the one before gave."""
    import coremltools as ct
    from coremltools.converters.mil.mil import Builder as mb
    from coremltools.converters.mil.mil import types

    rng = np.random.default_rng(0)
    first, second, third = (rng.normal(size=(8, 8)).astype(np.float16) for _ in range(3))
    inputs = [mb.TensorSpec((1, 8), types.fp16), mb.TensorSpec((1,), types.int32)]

    @mb.program(input_specs=[*inputs, mb.StateTensorSpec((8, 8), types.fp16)], opset_version=ct.target.iOS18)
    def program(x, place, rows):
        def written(before, value, offset: int):
            zero, eight = np.array([0], np.int32), np.array([8], np.int32)
            row = mb.add(x=place, y=np.array([offset], np.int32))
            begin = mb.concat(values=[row, zero], axis=0)
            end = mb.concat(values=[mb.add(x=row, y=np.array([1], np.int32)), eight], axis=0)
            return mb.coreml_update_state(
                state=rows, value=mb.slice_update(x=before, update=value, begin=begin, end=end)
            )

        def seen(after, offset: int):
            own = mb.slice_by_index(x=after, begin=[offset, 0], end=[offset + 4, 8])
            return mb.tanh(x=mb.reduce_sum(x=own, axes=[0], keep_dims=True))

        after = written(mb.read_state(input=rows), mb.linear(x=x, weight=first), 0)
        last = written(after, mb.linear(x=seen(after, 0), weight=second), 4)
        return mb.linear(x=seen(last, 4), weight=third)

    path = folder / "chained.mlpackage"
    ct.convert(program, minimum_deployment_target=ct.target.iOS18, skip_model_load=True).save(str(path))
    return path


def places(count: int) -> list[list[dict[str, np.ndarray]]]:
    """For `chained`: rows that are written one after the other."""
    rng = np.random.default_rng(0)
    return [[{"x": rng.normal(size=(1, 8)), "place": np.array([at])} for at in range(4)] for _ in range(count)]


MADE = {"cache": decoder.package, "sum": decoder.summing, "chain": chained}


@pytest.mark.parametrize(
    "kind", ["cache", "sum", "chain", "sum, migrated", pytest.param("cache, migrated", marks=pytest.mark.slow)]
)
def test_each_constant_meets_the_states_that_the_constants_before_it_make(kind, program, tmp_path) -> None:
    """Beside brute force: for each product a run of the whole sequences with all products before it changed. (In what
    is migrated, states are read before everything and written after everything.)"""
    name, _, migrated = kind.partition(", ")
    sequences = {"cache": decoder.sequences(2, length=7), "sum": texts(2, 7), "chain": places(2)}[name]
    if migrated:
        pytest.importorskip("coreai_torch")
        corepress.migrate(MADE[name](tmp_path), tmp_path / "model.aimodel")
        program = runtime.load(tmp_path / "model.aimodel", precision="float32")
    elif name != "cache":
        program = runtime.load(MADE[name](tmp_path), precision="float32")
    products, seen, changed = _products(program), {}, {}

    def visit(step, arguments):
        if step.kind != "linear":
            return {}
        seen[step.name] = [own["x"].clone() for own in arguments]
        changed[dict(step.held)["weight"]] = arguments[0]["weight"].round(decimals=1)
        return {"weight": arguments[0]["weight"].round(decimals=1)}

    result = walk(program, sequences, visit)
    assert result.keys() == changed.keys()
    buffers = {step.name: dict(step.held)["weight"] for step in program.module.plan.steps if step.kind == "linear"}
    kept = {name: program.module.get_buffer(name).clone() for name in changed}
    different = 0
    try:
        for name in products:
            expected = _given_to_products(program, sequences)[name]
            for one, other in zip(seen[name] if expected else (), expected, strict=True):  # else it is an input
                torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
            program.module.get_buffer(buffers[name]).copy_(changed[buffers[name]])
            different += not torch.equal(kept[buffers[name]], changed[buffers[name]])
    finally:
        for name, value in kept.items():
            program.module.get_buffer(name).copy_(value)
    assert different == len(products)


def test_a_changed_value_changes_the_states_of_later_steps(program) -> None:
    sequences = decoder.sequences(2, length=7)
    name = next(step.outputs[0] for step in program.module.plan.steps if step.kind == "layer_norm")
    found = []
    what_if(program, sequences, {name}, lambda _, answers: found.extend(answers(lambda value: value * 0.5)))
    buffers = dict(next(step for step in program.module.plan.steps if name in step.outputs).held)
    scaled = [program.module.get_buffer(buffers[key]) for key in ("gamma", "beta")]
    try:
        for tensor in scaled:
            tensor.mul_(0.5)
        expected = [answer["logits"] for sequence in sequences for answer in program.run_sequence(sequence)]
    finally:
        for tensor in scaled:
            tensor.mul_(2)
    for (one,), other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one.numpy(), other, atol=1e-5)


def test_values_of_sequences_come_step_by_step(program) -> None:
    (sequence,) = decoder.sequences(1)
    name = program.module.plan.output_names[0]
    ((_, found),) = values_of(program, [sequence], {name})
    for one, other in zip(found, program.run_sequence(sequence), strict=True):
        np.testing.assert_array_equal(one.numpy(), other["logits"])


def test_outputs_have_a_derivative_through_the_state(tmp_path) -> None:
    program = runtime.load(structures.stateful(tmp_path), precision="float32")
    weight = next(value for value in program.module.buffers() if value.dim() == 2)
    steps = [{"x": np.full((1, 64), number + 1, np.float32)} for number in range(3)]
    weight.requires_grad_()
    try:
        last = outputs_in_steps(program, steps)[-1][0]
        (found,) = torch.autograd.grad(last.sum(), weight)
    finally:
        weight.requires_grad_(False)
    # The state adds up W x over the steps, so that the last answer has all of them.
    torch.testing.assert_close(found, torch.full_like(found, 6.0), rtol=1e-3, atol=1e-2)


def test_a_recurrent_state_is_walked(tmp_path) -> None:
    """All of the state changes with each step, and the operation that reads it comes after the weight."""
    program = runtime.load(structures.stateful(tmp_path), precision="float32")
    steps = [{"x": np.full((1, 64), number + 1, np.float32)} for number in range(4)]
    name = program.module.plan.output_names[0]
    ((_, found),) = values_of(program, [steps, steps[:2]], {name})
    expected = [answer for part in (steps, steps[:2]) for answer in program.run_sequence(part)]
    for one, other in zip(found, expected, strict=True):
        # Answers are rounded to float16.
        np.testing.assert_allclose(one.numpy(), next(iter(other.values())), rtol=2**-11, atol=1e-6)


def test_a_step_that_does_not_fit_is_named(program) -> None:
    from corepress.runtime.samples import checked

    (sequence,) = decoder.sequences(1)
    with pytest.raises(ConfigError, match="sample 1 of data, step 2: input 'ids'"):
        list(checked([sequence, [*sequence[:2], {**sequence[2], "ids": np.zeros((2, 2))}]], program.interface, "data"))
    with pytest.raises(ConfigError, match="sample 0 of data is a sequence without steps"):
        list(checked([[]], program.interface, "data"))
    with pytest.raises(ConfigError, match="sample 0 of data, step 1 must be a dictionary"):
        list(checked([[sequence[0], 3]], program.interface, "data"))
