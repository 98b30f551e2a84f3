"""What numbers inputs take is read off the program, and random inputs are taken from there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from corepress import runtime, verify
from corepress.runtime.domains import Domain, domains
from corepress.runtime.random_inputs import random_inputs
from tests.packages import make_package

EXPECTED = {
    "ids": Domain("index", 999),
    "kinds": Domain("index", 1),
    "places": Domain("index", 511),
    "digit": Domain("index", 6),
    "keep": Domain("mask"),
    "allowed": Domain("mask"),
    "scores": Domain("bias"),
    "photo": Domain("pixels", 255),
    "centred": Domain("pixels", 1),
    "mean": Domain("pixels", 255),
}


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> runtime.Program:
    return runtime.load(package(tmp_path_factory.mktemp("domains") / "m.mlpackage"))


def package(path: Path) -> Path:
    """Inputs of all domains: tokens with and without the handling of negative indices, masks, pictures."""
    import coremltools as ct
    from coremltools.converters.mil.mil import Builder as mb
    from coremltools.converters.mil.mil import types

    whole = dict.fromkeys(("ids", "kinds", "places", "digit", "unknown"), (1, 8))
    real = dict.fromkeys(("keep", "allowed"), (1, 8)) | {"scores": (1, 1, 4, 8), "plain": (1, 8)}
    real |= dict.fromkeys(("photo", "centred", "mean", "picture"), (1, 3, 8, 8))
    specs = [mb.TensorSpec(shape, types.int32) for shape in whole.values()]
    specs += [mb.TensorSpec(shape) for shape in real.values()]

    def table(rows: int) -> np.ndarray:
        return np.random.default_rng(rows).normal(size=(rows, 4)).astype(np.float32)

    def body(ids, kinds, places, digit, unknown, keep, allowed, scores, plain, photo, centred, mean, picture):
        wrapped = mb.select(cond=mb.greater_equal(x=ids, y=0), a=ids, b=mb.add(x=ids, y=1000))
        moved = mb.reshape(x=mb.cast(x=mb.expand_dims(x=wrapped, axes=[0]), dtype="int32"), shape=[8])
        query = mb.reshape(x=mb.reduce_mean(x=plain), shape=[1, 1, 1, 1])
        query = mb.mul(x=query, y=np.ones((1, 2, 4, 3), np.float32))
        value = np.ones((1, 2, 8, 3), np.float32)
        yes = mb.cast(x=allowed, dtype="bool")
        return (
            mb.gather(x=table(1000), indices=moved, axis=0),
            mb.gather(x=table(2), indices=kinds, axis=0),
            mb.gather(x=table(514), indices=mb.add(x=places, y=2), axis=0),
            mb.one_hot(indices=digit, one_hot_vector_size=7),
            mb.add(x=unknown, y=1),
            mb.mul(x=mb.sub(x=1.0, y=mb.expand_dims(x=keep, axes=[1, 2])), y=-1e4),
            mb.select(cond=yes, a=plain, b=np.zeros((1, 8), np.float32)),
            mb.scaled_dot_product_attention(query=query, key=value, value=value, attn_mask=scores),
            mb.mul(x=photo, y=1 / 255),
            mb.real_div(x=mb.sub(x=centred, y=np.full((1, 3, 1, 1), 0.45, np.float32)), y=0.22),
            mb.sub(x=mean, y=np.full((1, 3, 1, 1), 110, np.float32)),
            mb.relu(x=picture),
        )

    made = mb.program(input_specs=specs, opset_version=ct.target.iOS18)(named(body, [*whole, *real]))
    settings = {"compute_precision": ct.precision.FLOAT32, "skip_model_load": True}
    model = ct.convert(made, minimum_deployment_target=ct.target.iOS18, pass_pipeline=ct.PassPipeline.EMPTY, **settings)
    model.save(str(path))
    return path


def named(body, names: list[str]):
    """The same function; the builder takes the names of inputs from its signature."""
    assert list(body.__code__.co_varnames[: len(names)]) == names
    return body


def test_domains_are_read_off_the_program(program) -> None:
    assert domains(program) == EXPECTED


def test_indices_know_the_rows_that_they_are_looked_up_in(program) -> None:
    found = domains(program)
    for name, rows, first in (("ids", 1000, 0), ("kinds", 2, 0), ("places", 514, 2)):
        table = np.random.default_rng(rows).normal(size=(rows, 4)).astype(np.float32)
        np.testing.assert_array_equal(found[name].rows(), table[first:])
        assert len(found[name].rows()) == found[name].high + 1
    assert found["digit"].rows is None and found["keep"].rows is None


def test_random_inputs_come_from_their_domains(program) -> None:
    samples = list(random_inputs(program.interface, 1, 50, domains(program)))
    found = {name: np.stack([sample[name] for sample in samples]) for name in samples[0]}
    for name, domain in EXPECTED.items():
        values = found[name]
        if domain.kind == "index":
            assert values.min() >= 0 and values.max() <= domain.high and len(np.unique(values)) > min(domain.high, 250)
        elif domain.kind == "mask":
            assert set(np.unique(values)) == {0, 1} and (values[..., :5] == 1).all()
            assert (np.diff(values, axis=-1) <= 0).all()  # ones, then zeros
        elif domain.kind == "pixels":
            assert values.min() >= 0 and 0.9 * domain.high < values.max() <= domain.high
    np.testing.assert_array_equal(found["scores"][0, 0, 0] == 0, np.tri(4, 8, 4, dtype=bool))
    assert found["plain"].min() < -2 and found["unknown"].max() == 9
    again = next(random_inputs(program.interface, 1, 1, domains(program)))
    assert all((again[name] == samples[0][name]).all() for name in again)
    assert all(np.isfinite(value).all() for value in program.predict(again).values())


def test_what_was_guessed_is_said(tmp_path) -> None:
    path = package(tmp_path / "m.mlpackage")
    notes = verify(path, path, samples=2).notes
    assert [note.split("'")[1] for note in notes if "of unknown range" in note] == ["unknown", "picture"]


def test_an_index_may_not_be_read_off_a_table_that_is_computed(tmp_path) -> None:
    # The table of its gather holds 96 rows; those of other inputs are not indices.
    program = runtime.load(make_package(tmp_path, "iOS16"))
    assert domains(program) == {"ids": Domain("index", 95)}


def test_rows_of_the_table_of_a_network(tmp_path) -> None:
    import coremltools as ct
    from coremltools.models import datatypes
    from coremltools.models.neural_network import NeuralNetworkBuilder

    inputs, outputs = [("ids", datatypes.Array(1))], [("y", datatypes.Array(4))]
    builder = NeuralNetworkBuilder(inputs, outputs, disable_rank5_shape_mapping=True)
    weight = np.random.default_rng(0).normal(size=(4, 300)).astype(np.float32)
    builder.add_embedding_nd("embed", "ids", "y", 300, 4, weight)
    ct.models.utils.save_spec(builder.spec, str(tmp_path / "m.mlmodel"))
    found = domains(runtime.load(tmp_path / "m.mlmodel"))
    assert found == {"ids": Domain("index", 299)}
    np.testing.assert_array_equal(found["ids"].rows(), weight.T)
