"""Paths, packages, pipelines, specifications and MLModels: what goes in, what comes out, what stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import corepress
from corepress.errors import ConfigError, CorepressError, FormatError
from corepress.neural_network import Model, load
from corepress.neural_network.quantization_utils import QuantizedLayerSelector, quantize_weights
from tests.formats.mlprogram.test_model import tree
from tests.formats.neural_network.networks import every_layer, inner_product, pipeline
from tests.formats.neural_network.reading import weights_of
from tests.lazy import lazy
from tests.neural_network.test_quantize import by_peer

ct = lazy("coremltools")
Model_pb2 = lazy("coremltools.proto.Model_pb2")

WEIGHT = np.arange(30).reshape(5, 6)


@pytest.fixture
def mlmodel(tmp_path: Path) -> Path:
    path = tmp_path / "old.mlmodel"
    path.write_bytes(every_layer().SerializeToString())
    return path


def spec_at(path: Path) -> Any:
    spec = Model_pb2.Model()
    spec.ParseFromString(path.read_bytes())
    return spec


def test_a_path_gives_a_model_to_save(mlmodel: Path, tmp_path: Path) -> None:
    before = mlmodel.read_bytes()
    model = corepress.neural_network.quantization_utils.quantize_weights(mlmodel, 8)
    saved = model.save(tmp_path / "new.mlmodel")
    assert mlmodel.read_bytes() == before
    assert spec_at(saved.path) == quantize_weights(spec_at(mlmodel), 8)
    assert saved.size() == (tmp_path / "new.mlmodel").stat().st_size < len(before) * 0.6
    assert ct.models.MLModel(str(saved.path), skip_model_load=True).get_spec() == spec_at(saved.path)
    assert [weight.form for weight in load(saved.path).weights()] == ["linear"] * len(model.weights())
    assert model.changed == len(model.weights()) and model.skipped == {}


def test_what_is_not_compressed_survives(mlmodel: Path) -> None:
    # All that corepress does not know, maps and custom layers included.
    spec = Model_pb2.Model()
    spec.ParseFromString(load(mlmodel).spec.SerializeToString())
    assert spec == spec_at(mlmodel)


def test_a_package(tmp_path: Path) -> None:
    source = tmp_path / "old.mlpackage"
    ct.models.MLModel(inner_product(WEIGHT), skip_model_load=True).save(str(source))
    (source / "Data" / "extra.txt").write_text("kept")
    before = tree(source)
    model = quantize_weights(str(source), 4, "kmeans")
    saved = model.save(tmp_path / "new.mlpackage")
    assert tree(source) == before
    assert (saved.path / "Data" / "extra.txt").read_text() == "kept"
    assert saved.size() == sum(map(len, tree(saved.path).values()))
    assert load(saved.path).weights()[0].form == "lut"
    loaded = ct.models.MLModel(str(saved.path), skip_model_load=True)
    assert loaded.get_spec().neuralNetwork.layers[0].innerProduct.weights.quantization.numberOfBits == 4
    with pytest.raises(CorepressError, match=r"ending \.mlpackage"):
        model.save(tmp_path / "new.mlmodel")


def test_a_model_stays_as_it_is(mlmodel: Path) -> None:
    model = load(mlmodel)
    result = quantize_weights(model, 8)
    assert isinstance(result, Model) and model.weights()[0].form == "float32" and result.weights()[0].form == "linear"
    assert (result.weights()[0].dense().shape, result.weights()[0].name) == ((16, 8, 3, 3), "conv.weights")


def test_an_mlmodel_gives_an_mlmodel() -> None:
    spec = inner_product(WEIGHT)
    given = ct.models.MLModel(spec, skip_model_load=True, compute_units=ct.ComputeUnit.CPU_ONLY)
    result = quantize_weights(given, 8)
    assert isinstance(result, ct.models.MLModel) and result.compute_unit == ct.ComputeUnit.CPU_ONLY
    assert result.get_spec() == by_peer(spec, 8)
    assert given.get_spec().neuralNetwork.layers[0].innerProduct.weights.floatValue


def test_saving(mlmodel: Path, tmp_path: Path) -> None:
    model = quantize_weights(mlmodel, 8)
    with pytest.raises(CorepressError, match="exists already"):
        model.save(mlmodel)
    with pytest.raises(CorepressError, match="no such folder"):
        model.save(tmp_path / "none" / "x.mlmodel")
    with pytest.raises(CorepressError, match=r"ending \.mlmodel"):
        model.save(tmp_path / "x.mlpackage")
    with pytest.raises(CorepressError, match="not a file"):
        model.save(tmp_path)
    assert model.save(mlmodel, overwrite=True).path == mlmodel
    assert load(mlmodel).weights()[0].form == "linear"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["old.mlmodel"]


def test_saving_twice(mlmodel: Path, tmp_path: Path) -> None:
    """What was written is replaced, by the same model and by others; the source and other files are not."""
    model, before = quantize_weights(mlmodel, 8), mlmodel.read_bytes()
    output = tmp_path / "small.mlmodel"
    for each in (model, model, quantize_weights(mlmodel, 4), model.copy()):
        each.save(output)
    assert load(output).weights()[0].bits == 8
    with pytest.raises(CorepressError, match="exists already"):
        model.save(output, overwrite=False)
    for each in (model, model.copy(), quantize_weights(model, 4)):
        with pytest.raises(CorepressError, match=r"read from it.*overwrite=True"):
            each.save(mlmodel)
    (tmp_path / "notes.mlmodel").symlink_to(mlmodel)
    with pytest.raises(CorepressError):
        model.save(tmp_path / "notes.mlmodel", overwrite=True)
    assert mlmodel.read_bytes() == before


@pytest.mark.parametrize("mode", ["classifier", "regressor"])
def test_classifiers_and_regressors(mode: str) -> None:
    spec = inner_product(WEIGHT, np.ones(5), mode)
    result = quantize_weights(spec, 8)
    assert result == by_peer(spec, 8)
    assert result.WhichOneof("Type") == f"neuralNetwork{mode.capitalize()}"


@pytest.mark.parametrize("kind", ["pipeline", "pipelineClassifier", "pipelineRegressor"])
def test_pipelines(kind: str) -> None:
    # The peer raises for pipelines of classifiers and of regressors.
    other = Model_pb2.Model(specificationVersion=1)
    other.glmRegressor.offset.append(2)
    inner = pipeline("pipelineClassifier", inner_product(WEIGHT, None, "classifier"))
    spec = pipeline(kind, inner_product(WEIGHT), other, inner, inner_product(WEIGHT, None, "regressor"))
    for part in spec.ListFields()[-1][1].models if kind == "pipeline" else getattr(spec, kind).pipeline.models:
        part.specificationVersion = 1
    result = quantize_weights(spec, 8)
    weights = [weight for _, weight in weights_of(result)]
    assert len(weights) == 3 and all(weight.rawValue for weight in weights)
    models = result.pipeline.models if kind == "pipeline" else getattr(result, kind).pipeline.models
    assert models[1] == other and models[0].specificationVersion == result.specificationVersion == 3
    assert models[2].pipelineClassifier.pipeline.models[0].specificationVersion == 3
    back = quantize_weights(result, 8, "dequantization")
    assert all(np.allclose(weight.floatValue, WEIGHT.reshape(-1), atol=0.02) for _, weight in weights_of(back))


def test_names_tell_where(tmp_path: Path) -> None:
    path = tmp_path / "p.mlmodel"
    path.write_bytes(pipeline("pipeline", every_layer(), inner_product(WEIGHT)).SerializeToString())
    names = [weight.name for weight in load(path).weights()]
    for name in (
        "part0/conv.weights", "part0/loop/body.weights", "part0/branch/else.bias", "part1/ip.weights",
        "part0/lstm.inputGatePeepholeVector", "part0/bilstm.outputGateRecursionMatrix[1]", "part0/rnn.weightMatrix",
    ):  # fmt: skip
        assert names.count(name) == 1
    assert len(set(names)) == len(names)


def test_a_selector_reaches_into_pipelines() -> None:
    class NotSecond(QuantizedLayerSelector):
        def do_quantize(self, layer: Any, **kwargs: Any) -> bool:
            return super().do_quantize(layer) and layer.name != "second"

    spec = pipeline("pipeline", inner_product(WEIGHT), inner_product(WEIGHT, name="second"))
    first, second = (weight for _, weight in weights_of(quantize_weights(spec, 8, selector=NotSecond())))
    assert first.rawValue and second.floatValue


@pytest.mark.parametrize("given", [None, 3, b"x", "pipeline"])
def test_other_things(given: Any) -> None:
    with pytest.raises(ConfigError, match="a path, a specification"):
        quantize_weights(Model_pb2.Pipeline() if given == "pipeline" else given, 8)


def test_other_models(tmp_path: Path, package: Any) -> None:
    with pytest.raises(FormatError, match=r"an ML program, not a neural network; corepress\.coreml compresses"):
        quantize_weights(package(), 8)
    with pytest.raises(FormatError, match="a generalized linear regressor; only"):
        spec = Model_pb2.Model(specificationVersion=1)
        spec.glmRegressor.offset.append(2)
        quantize_weights(spec, 8)
    with pytest.raises(FormatError, match="no such file"):
        quantize_weights(tmp_path / "none.mlmodel", 8)
