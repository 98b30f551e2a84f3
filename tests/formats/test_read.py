"""Each input of a command or a verb is read from the disk, and parsed, once."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import corepress
from corepress.coreml import OpPalettizerConfig, OptimizationConfig, get_weights_metadata, palettize_weights
from corepress.errors import FormatError, UnsupportedError
from corepress.formats import mlprogram, neural_network, package
from corepress.formats.read import Other, load, read
from corepress.neural_network.quantization_utils import quantize_weights
from tests import structures
from tests.formats.neural_network.networks import inner_product, pipeline

PROGRAM = Path(__file__).parents[2] / "examples/digits.mlpackage"
CONFIG = OptimizationConfig(OpPalettizerConfig(nbits=4))


@pytest.fixture
def reads(monkeypatch) -> Counter[str]:
    """How often the protobuf of each model was read, by the name of the model."""
    counted: Counter[str] = Counter()
    content = package._content

    def counting(found: package.Package) -> bytes:
        counted[found.root.name] += 1
        return content(found)

    monkeypatch.setattr(package, "_content", counting)
    return counted


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "program.mlpackage"
    shutil.copytree(PROGRAM, path)
    return path


@pytest.fixture
def network(tmp_path: Path) -> Path:
    path = tmp_path / "network.mlmodel"
    path.write_bytes(inner_product(np.arange(3000).reshape(500, 6)).SerializeToString())
    return path


@pytest.fixture
def regressor(tmp_path: Path) -> Path:
    from coremltools.proto import Model_pb2

    path = tmp_path / "regressor.mlmodel"
    spec = Model_pb2.Model(specificationVersion=1)
    spec.glmRegressor.offset.append(2)
    path.write_bytes(spec.SerializeToString())
    return path


def interface(path: Path) -> Any:
    from corepress.runtime.load import interface

    return interface(path)


VERBS: dict[str, Callable[[Path], Any]] = {
    "load": corepress.load,
    "describe": corepress.describe,
    "palettize": lambda path: palettize_weights(path, CONFIG),
    "metadata": get_weights_metadata,
    "report": lambda path: corepress.report(palettize_weights(path, CONFIG)).rows,
    "run": lambda path: corepress.runtime.load(path),
    "interface": interface,
}
NETWORK_VERBS: dict[str, Callable[[Path], Any]] = {
    "load": lambda path: corepress.neural_network.load(path),
    "describe": corepress.describe,
    "quantize": lambda path: quantize_weights(path, 8),
    "run": lambda path: corepress.runtime.load(path),
    "interface": interface,
}


@pytest.mark.parametrize("verb", VERBS)
def test_verbs_read_a_program_once(verb, reads, program) -> None:
    VERBS[verb](program)
    assert reads == {program.name: 1}


@pytest.mark.parametrize("verb", NETWORK_VERBS)
def test_verbs_read_a_network_once(verb, reads, network) -> None:
    NETWORK_VERBS[verb](network)
    assert reads == {network.name: 1}


@pytest.mark.parametrize("per_op", [False, True])
def test_verify_reads_each_model_once(per_op, reads, program, tmp_path) -> None:
    other = shutil.copytree(program, tmp_path / "other.mlpackage")
    assert corepress.verify(program, other, samples=1, per_op=per_op).ok
    assert reads == {program.name: 1, other.name: 1}


COMMANDS = {
    "info": ["info", "IN"],
    "palettize": ["palettize", "IN", "-o", "OUT", "--nbits", "4"],
    "palettize, judged": ["palettize", "IN", "-o", "OUT", "--nbits", "8", "--verify"],
    "quantize": ["quantize", "IN", "-o", "OUT"],
    "prune": ["prune", "IN", "-o", "OUT", "--sparsity", "0.5"],
    "decompress": ["decompress", "IN", "-o", "OUT"],
    "compress": ["compress", "IN", "-o", "OUT", "--recipe", "RECIPE"],
    "run": ["run", "IN", "--random"],
    "verify": ["verify", "IN", "IN2", "--samples", "1"],
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("kind", ["program", "network"])
def test_commands_read_each_input_once(command, kind, reads, request, tmp_path) -> None:
    from corepress.cli.app import app

    if command in ("prune", "compress") and kind == "network":
        pytest.skip("it is for ML programs only")
    path = request.getfixturevalue(kind)
    again = tmp_path / f"again{path.suffix}"
    shutil.copytree(path, again) if path.is_dir() else shutil.copyfile(path, again)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("steps:\n  - palettize: {nbits: 4}\n")
    places = {"RECIPE": str(recipe), "IN": str(path), "IN2": str(again), "OUT": str(tmp_path / f"out{path.suffix}")}
    app.main([places.get(word, word) for word in COMMANDS[command]], standalone_mode=False)
    assert reads == {path.name: 1, **({again.name: 1} if command == "verify" else {})}


def test_the_answer_tells_the_kind(program, network, regressor, tmp_path) -> None:
    assert isinstance(read(program), mlprogram.Model) and isinstance(load(program), mlprogram.Model)
    assert isinstance(read(network), neural_network.Model) and isinstance(load(network), neural_network.Model)
    assert isinstance(read(structures.pipeline(tmp_path)), mlprogram.Model)
    path = tmp_path / "networks.mlmodel"
    path.write_bytes(pipeline("pipeline", inner_product([[1, 2]]), inner_product([[1, 2]])).SerializeToString())
    assert isinstance(read(path), neural_network.Model)
    found = read(regressor)
    assert isinstance(found, Other) and found.spec.WhichOneof("Type") == "glmRegressor"


def test_the_wrong_kind_is_refused_in_the_words_of_each_face(program, network, regressor) -> None:
    with pytest.raises(UnsupportedError, match=r"regressor\.mlmodel: it holds a generalized linear regressor; only"):
        load(regressor)
    with pytest.raises(UnsupportedError, match=r"a neural network, not an ML program; corepress\.neural_network reads"):
        corepress.load(network)
    with pytest.raises(FormatError, match=r"an ML program, not a neural network; corepress\.coreml compresses"):
        corepress.neural_network.load(program)


def test_stages_of_networks_have_names_of_their_own(tmp_path) -> None:
    """Two stages of one name, and one without: their weights are told apart."""
    path = tmp_path / "networks.mlmodel"
    spec = pipeline("pipeline", *[inner_product([[1, 2]])] * 3)
    del spec.pipeline.names[:]
    spec.pipeline.names.extend(["part", "part"])
    path.write_bytes(spec.SerializeToString())
    names = [weight.name for weight in corepress.neural_network.load(path).weights()]
    assert names == ["part/ip.weights", "stage1/ip.weights", "stage2/ip.weights"]
