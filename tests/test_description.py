"""`describe` and `corepress info` tell what a model of any kind is, and what corepress can do with it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import corepress
from corepress import describe
from corepress.description.parts import described_feature
from corepress.errors import FormatError
from corepress.formats.kinds import _NAMES
from corepress.formats.mlprogram.program import nodes
from corepress.formats.schema import Model
from tests import structures
from tests.cli.test_cli import corepress as command
from tests.cli.test_cli import fails

EXAMPLE = Path(__file__).parent.parent / "examples/digits.mlpackage"


@pytest.fixture(scope="module")
def proto() -> Any:
    from coremltools.proto import Model_pb2

    return Model_pb2


def saved(spec: Any, folder: Path) -> Path:
    path = folder / "m.mlmodel"
    path.write_bytes(spec.SerializeToString())
    return path


def classifier(proto: Any, kind: str, version: int = 1) -> Any:
    """A classifier of two numbers into cat and dog."""
    spec = proto.Model(specificationVersion=version)
    for name in ("height", "weight"):
        spec.description.input.add(name=name).type.doubleType.SetInParent()
    spec.description.output.add(name="species").type.stringType.SetInParent()
    spec.description.output.add(name="odds").type.dictionaryType.stringKeyType.SetInParent()
    spec.description.predictedFeatureName = "species"
    getattr(spec, kind).stringClassLabels.vector.extend(["cat", "dog"])
    return spec


def test_every_kind_of_apples_format_has_a_name(proto) -> None:
    assert _NAMES.keys() == {field.name for field in proto.Model.DESCRIPTOR.oneofs_by_name["Type"].fields}


@pytest.mark.parametrize("kind", sorted(_NAMES))
def test_a_model_of_every_kind_is_described(kind, proto, tmp_path) -> None:
    if kind == "mlProgram":
        pytest.skip("it needs a program; see below")
    spec = proto.Model(specificationVersion=1)
    getattr(spec, kind).SetInParent()
    path = saved(spec, tmp_path)
    described = describe(path)
    network = kind.startswith("neuralNetwork")
    assert described.model.type == kind and described.model.kind == _NAMES[kind].split(" ", 1)[1]
    assert described.abilities["compress"].possible == network
    assert json.loads(described.to_json())["kind"] == described.model.kind
    if not network:
        with pytest.raises(FormatError) as refused:
            corepress.load(path)
        assert _NAMES[kind] in str(refused.value) and "only ML programs and neural networks" in str(refused.value)
        assert "coremltools" not in str(refused.value) and "convert" not in str(refused.value)


@pytest.mark.parametrize("kind", ["glmClassifier", "supportVectorClassifier", "kNearestNeighborsClassifier"])
def test_classifiers(kind, proto, tmp_path) -> None:
    model = describe(saved(classifier(proto, kind), tmp_path)).model
    assert model.labels == ("cat", "dog") and model.facts == {"predicts": "species"}
    assert [described_feature(feature) for feature in model.signature.inputs] == ["float64 number"] * 2
    assert [feature.kind for feature in model.signature.outputs] == ["string", "dictionary"]
    assert described_feature(model.signature.outputs[1]) == "dictionary with string keys"


def test_trees(tmp_path) -> None:
    from coremltools.models import datatypes
    from coremltools.models.tree_ensemble import TreeEnsembleClassifier

    builder = TreeEnsembleClassifier([("x", datatypes.Array(3))], [3, 5], "digit")
    for tree in (0, 1, 2):
        builder.add_branch_node(tree, 0, 0, 0.5, "BranchOnValueLessThan", 1, 2)
        builder.add_leaf_node(tree, 1, {0: 1.0})
        builder.add_leaf_node(tree, 2, {1: 1.0})
    builder.set_default_prediction_value([0.0, 0.0])
    described = describe(saved(builder.spec, tmp_path))
    assert (described.model.kind, described.target) == ("tree ensemble classifier", "iOS11")
    assert described.model.labels == ("3", "5")
    assert described.model.facts == {"trees": 3, "nodes": 9, "predicts": "digit", "probabilities": "classProbability"}
    for name in ("compress", "run", "verify", "calibrate"):
        assert not described.abilities[name].possible
    shown = command("info", described.path).stdout
    for words in ("tree ensemble classifier (specification 1), for iOS11 and newer", "trees", "2: 3, 5", "no: only ML"):
        assert words in shown
    told = fails("palettize", described.path, "-o", tmp_path / "out.mlmodel")
    assert "it holds a tree ensemble classifier; only ML programs and neural networks can be compressed" in told


def test_texts_links_and_custom_models(proto, tmp_path) -> None:
    spec = proto.Model(specificationVersion=3)
    spec.textClassifier.language, spec.textClassifier.revision = "en", 1
    spec.textClassifier.modelParameterData = b"\x0a\xff\xff"  # no message at all
    spec.textClassifier.stringClassLabels.vector.extend(["spam", "ham"])
    model = describe(saved(spec, tmp_path)).model
    assert model.labels == ("spam", "ham") and model.facts == {"revision": 1, "language": "en"}
    spec.wordTagger.stringTags.vector.extend(["NOUN"])
    assert describe(saved(spec, tmp_path)).model.labels == ("NOUN",)
    spec.customModel.className, spec.customModel.description = "AppModel", "counts"
    assert describe(saved(spec, tmp_path)).model.facts == {"class": "AppModel", "description": "counts"}
    spec.linkedModel.linkedModelFile.linkedModelFileName.defaultValue = "other.mlmodelc"
    assert describe(saved(spec, tmp_path)).model.facts["file"] == "other.mlmodelc"


def test_a_pipeline_of_a_feature_print_and_a_classifier(proto, tmp_path) -> None:
    spec = proto.Model(specificationVersion=3)
    spec.description.metadata.author = "A. Nother"
    spec.description.metadata.userDefined["com.apple.createml.app.tag"] = "150.3"
    image = spec.description.input.add(name="image").type.imageType
    image.width, image.height, image.colorSpace = 299, 200, 20
    first = spec.pipelineClassifier.pipeline.models.add(specificationVersion=3)
    first.visionFeaturePrint.scene.version = 1
    spec.pipelineClassifier.pipeline.models.append(classifier(proto, "glmClassifier", 4))
    described = describe(saved(spec, tmp_path))
    assert [stage.type for stage in described.model.stages] == ["visionFeaturePrint", "glmClassifier"]
    assert described.target == "iOS13" and described.converter == "Create ML app.tag 150.3"
    assert described.metadata["author"] == "A. Nother"
    assert described_feature(described.model.signature.inputs[0]) == "RGB image 299x200 (width x height)"
    shown = command("info", described.path).stdout
    for words in ("stage 1", "feature print of images", "specification 3, 4 inside", "classes 2: cat, dog", "made by"):
        assert words in shown
    with pytest.raises(FormatError, match="a pipeline classifier of a feature print of images"):
        corepress.load(described.path)


def test_what_can_be_done_with_a_pipeline(proto, tmp_path) -> None:
    def able(kind: str) -> dict[str, bool]:
        spec = proto.Model(specificationVersion=5)
        spec.pipeline.models.add(specificationVersion=5).neuralNetwork.SetInParent()
        getattr(spec.pipeline.models.add(specificationVersion=5), kind).SetInParent()
        abilities = describe(saved(spec, tmp_path)).abilities
        assert (kind == "scaler") == ("a scaler of features" in abilities["run"].text)
        return {name: ability.possible for name, ability in abilities.items()}

    detector = {"compress": True, "run": True, "verify": True, "calibrate": False}
    assert able("nonMaximumSuppression") == able("neuralNetworkClassifier") == detector
    assert able("scaler") == detector | {"run": False, "verify": False}


def test_a_kind_from_the_future(proto, tmp_path) -> None:
    spec = proto.Model(specificationVersion=12)
    spec.description.input.add(name="x").type.doubleType.SetInParent()
    path = tmp_path / "m.mlmodel"
    number = 4000
    path.write_bytes(spec.SerializeToString() + b"\x82\xfa\x01\x00")  # field 4000, an empty message
    assert (number << 3 | 2) == 0x02 | 0x7A << 7 | 1 << 14
    described = describe(path)
    assert described.model.kind == "model of a kind that corepress does not know (field 4000 of Model.proto)"
    assert described.target == "unknown" and not described.abilities["run"].possible
    assert [feature.name for feature in described.model.signature.inputs] == ["x"]
    with pytest.raises(FormatError, match=r"a kind that corepress does not know \(field 4000"):
        corepress.load(path)


def network(folder: Path) -> Path:
    """A classifier of images that the app can train further, with a layer of the app's own."""
    import coremltools as ct
    from coremltools.models import datatypes
    from coremltools.models.neural_network import NeuralNetworkBuilder, SgdParams

    rng = np.random.default_rng(0)
    inputs, outputs = [("x", datatypes.Array(8))], [("y", datatypes.Array(3))]
    builder = NeuralNetworkBuilder(inputs, outputs, disable_rank5_shape_mapping=True)
    builder.add_inner_product("body", rng.normal(size=(6, 8)), rng.normal(size=6), 8, 6, True, "x", "h")
    layer = builder.spec.neuralNetwork.layers.add(name="mine", input=["h"], output=["g"])
    layer.custom.className = "Swish"
    builder.add_inner_product("head", rng.normal(size=(3, 6)), rng.normal(size=3), 6, 3, True, "g", "z")
    builder.add_softmax("soft", "z", "y")
    builder.make_updatable(["head"])
    builder.set_categorical_cross_entropy_loss("loss", "y")
    builder.set_sgd_optimizer(SgdParams(lr=0.1, batch=1))
    builder.set_epochs(1)
    builder.spec.description.metadata.userDefined["com.github.apple.coremltools.version"] = "3.4"
    path = folder / "m.mlmodel"
    ct.models.utils.save_spec(builder.spec, str(path))
    return path


def test_a_network_that_can_be_trained(tmp_path) -> None:
    described = describe(network(tmp_path))
    model = described.model
    assert model.updatable and model.updatable_layers == ("head",) and set(model.training_inputs) == {"x", "y_true"}
    assert model.facts == {"layers": 4, "custom layers": ["Swish"]}
    assert described.forms == {"float32": 4} and described.converter == "coremltools 3.4"
    assert described.abilities["compress"].possible and "Swish" in described.abilities["run"].text
    shown = command("info", described.path).stdout
    assert "layers head; from x, y_true" in shown and "innerProduct" in shown


def test_programs_of_several_functions_states_and_flexible_shapes(tmp_path) -> None:
    import coremltools as ct
    from coremltools.converters.mil.mil import Builder as mb

    several = describe(structures.multifunction(tmp_path)).model
    assert [function.name for function in several.functions] == ["first", "second"]
    assert [feature.name for feature in several.functions[0].inputs] == ["x"]
    shown = command("info", tmp_path / "multifunction.mlpackage").stdout
    assert "function second" in shown and "input x: float16 array 1x64" in shown
    assert describe(structures.pipeline(tmp_path)).abilities["calibrate"].possible
    (state,) = describe(structures.stateful(tmp_path)).model.signature.states
    assert described_feature(state).startswith("float16 array")

    @mb.program(input_specs=[mb.TensorSpec((1, 3, 8, 8)), mb.TensorSpec((1, 4))], opset_version=ct.target.iOS16)
    def program(photo, x):
        scores = mb.softmax(x=mb.reduce_mean(x=photo, axes=[2, 3]), axis=-1, name="scores")
        return scores, mb.relu(x=x)

    model = ct.convert(
        program,
        inputs=[ct.ImageType("photo", (1, 3, 8, 8), color_layout=ct.colorlayout.BGR)],
        classifier_config=ct.ClassifierConfig(["a", "b", "c"], predicted_feature_name="label"),
        minimum_deployment_target=ct.target.iOS16,
        skip_model_load=True,
    )
    model.save(str(tmp_path / "c.mlpackage"))
    described = describe(tmp_path / "c.mlpackage")
    assert described.model.labels == ("a", "b", "c") and described.model.facts["predicts"] == "label"
    words = [described_feature(feature) for feature in described.model.signature.inputs]
    assert words == ["BGR image 8x8 (width x height)", "float32 array 1x4"]
    assert described.target == "iOS16" and described.converter.startswith("coremltools 9")


def test_flexible_and_optional_features(proto, tmp_path) -> None:
    from coremltools.proto import FeatureTypes_pb2

    spec = proto.Model(specificationVersion=4)
    spec.identity.SetInParent()

    def array(name: str) -> Any:
        found = spec.description.input.add(name=name).type.multiArrayType
        found.dataType = FeatureTypes_pb2.ArrayFeatureType.FLOAT32
        found.shape.extend([1, 4])
        return found

    ranges = array("ranges").shapeRange.sizeRanges
    ranges.add(lowerBound=1, upperBound=1)
    ranges.add(lowerBound=2, upperBound=-1)
    several = array("several").enumeratedShapes.shapes
    for size in (4, 8):
        several.add().shape.extend([1, size])
    array("absent").floatDefaultValue = 0.5
    spec.description.input[2].type.isOptional = True
    picture = spec.description.input.add(name="picture").type.imageType
    picture.width, picture.height, picture.colorSpace = 6, 4, 30
    picture.imageSizeRange.widthRange.lowerBound, picture.imageSizeRange.widthRange.upperBound = 6, 60
    picture.imageSizeRange.heightRange.lowerBound, picture.imageSizeRange.heightRange.upperBound = 4, -1
    spec.description.input.add(name="odd").type.multiArrayType.dataType = 0
    spec.description.input.add(name="words").type.sequenceType.stringType.SetInParent()
    features = describe(saved(spec, tmp_path)).model.signature.inputs
    assert list(map(described_feature, features)) == [
        "float32 array 1x2..",
        "float32 array 1x4 or 1x8",
        "float32 array 1x4, optional (0.5 without it)",
        "BGR image 6..60x4.. (width x height)",
        "unknown",
        "sequence of string",
    ]


def test_sizes_and_forms_of_compressed_weights(package, tmp_path) -> None:
    from corepress.coreml import OpPalettizerConfig, OptimizationConfig, palettize_weights

    small = palettize_weights(package(), OptimizationConfig(OpPalettizerConfig(nbits=4, weight_threshold=1000)))
    small.save(tmp_path / "small.mlpackage")
    described = describe(tmp_path / "small.mlpackage")
    files = [file.stat().st_size for file in (tmp_path / "small.mlpackage").rglob("*") if file.is_file()]
    assert described.size == sum(files) and 0 < described.spec_size < described.size
    assert described.forms["palettized, 4 bits"] >= 5 and "float16" in described.forms
    assert sum(described.forms.values()) == len(described.weights)
    assert described.stored_bytes == sum(weight.stored_bytes for weight in described.weights)


def test_a_weight_file_that_is_a_link(package, tmp_path) -> None:
    linked = Path(shutil.copytree(package(), tmp_path / "linked.mlpackage"))
    weights = next(linked.rglob("weight.bin"))
    weights.symlink_to(shutil.move(weights, tmp_path / "weights"))
    assert describe(linked).size == describe(package()).size


def test_the_target_is_what_the_programs_inside_need(tmp_path) -> None:
    path = structures.pipeline(tmp_path)
    spec = next(path.rglob("*.mlmodel"))
    from coremltools.proto import Model_pb2

    outer = Model_pb2.Model.FromString(spec.read_bytes())
    outer.specificationVersion = 5
    spec.write_bytes(outer.SerializeToString())
    described = describe(path)
    assert described.model.spec_version == 5 and described.target == "iOS18"


def test_operations_that_corepress_does_not_know_are_named(package, tmp_path) -> None:
    """Also those within a branch; it can be compressed all the same."""
    path = Path(shutil.copytree(package(), tmp_path / "new.mlpackage"))
    file = next(path.rglob("*.mlmodel"))
    spec = Model.FromString(file.read_bytes())
    block = spec.mlProgram.functions[0].value.block_specializations[0].value
    block.operations[-1].type = "hologram"
    block.operations.add(type="cond").blocks.add().operations.add(type="teleport")
    file.write_bytes(spec.SerializeToString())
    described = describe(path)
    assert described.model.facts["unknown operations"] == ["hologram", "teleport"]
    for name in ("run", "verify", "calibrate"):
        ability = described.abilities[name]
        assert not ability.possible and "does not know: hologram, teleport" in ability.text
    assert described.abilities["compress"].possible
    with pytest.raises(FormatError):
        corepress.runtime.load(path)
    assert "does not know: hologram, teleport" in " ".join(command("info", path).stdout.split())


def test_every_operation_of_the_runtime_is_known_without_it() -> None:
    """What `describe` says of running needs no PyTorch: it rests on this."""
    from corepress.opsets import BY_INTERPRETER, KNOWN
    from corepress.runtime.registry import OPERATIONS

    corepress.runtime.load(EXAMPLE)  # with it come all operations
    assert {name for name, known in KNOWN.items() if known.group not in BY_INTERPRETER} == set(OPERATIONS)


def test_quantized_activations_are_told(tmp_path) -> None:
    from corepress.coreml import OpLinearQuantizerConfig, OptimizationConfig
    from corepress.coreml.experimental import linear_quantize_activations

    config = OptimizationConfig(OpLinearQuantizerConfig(mode="linear_symmetric", weight_threshold=0))
    samples = [{"image": np.full((1, 1, 8, 8), 0.5, np.float16)}]
    model = linear_quantize_activations(EXAMPLE, config, samples)
    count = sum(node.type == "quantize" for node in nodes(model.spec))
    model.save(tmp_path / "a8.mlpackage")
    facts = describe(tmp_path / "a8.mlpackage").model.facts
    assert facts is not None and count > 3
    assert (facts["quantized activations"], facts["types of activations"]) == (count, ["int8"])
    assert "quantized activations" not in (describe(EXAMPLE).model.facts or {})


def test_layers_within_branches_are_told_of(tmp_path) -> None:
    spec = Model(specificationVersion=4)
    branch = spec.neuralNetwork.layers.add(name="either").branch
    branch.ifBranch.layers.add(name="mine").custom.className = "Swish"
    branch.elseBranch.layers.add(name="new", input=["x"])
    model = describe(saved(spec, tmp_path))
    assert model.model.facts == {"layers": 1, "custom layers": ["Swish"], "unknown layers": ["new"]}
    branch.ifBranch.layers[0].Clear()
    branch.ifBranch.layers[0].softmax.SetInParent()
    ability = describe(saved(spec, tmp_path)).abilities["run"]
    assert ability.possible and ability.text.endswith("layers that corepress does not know: new")
