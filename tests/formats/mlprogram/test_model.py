"""Reading and writing packages: what is not a compressed weight keeps its bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import corepress
from corepress.formats.mlprogram import load
from corepress.formats.package import find_package, read_spec
from tests.oracle import peer_weights
from tests.packages import TARGETS


def tree(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


@pytest.mark.parametrize("target", TARGETS)
def test_parsing_and_writing_the_protobuf_keeps_every_byte(package, target) -> None:
    found = find_package(package(target))
    assert read_spec(found).SerializeToString() == found.spec.read_bytes()


@pytest.mark.parametrize("target", TARGETS)
def test_saving_an_unchanged_model_copies_every_file(package, target, tmp_path) -> None:
    source = package(target)
    load(source).save(tmp_path / "copy.mlpackage")
    assert tree(tmp_path / "copy.mlpackage") == tree(source)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_weights_have_the_values_that_coremltools_reads(package, dtype) -> None:
    path = package("iOS18", dtype)
    expected = peer_weights(path)
    weights = {weight.name: weight for weight in load(path).weights()}
    large = {name: value for name, value in expected.items() if value.size >= 10}
    assert set(large) <= set(weights) and len(large) == 8
    for name, value in large.items():
        assert weights[name].dtype == value.dtype.name
        np.testing.assert_array_equal(weights[name].dense(), value)


def test_a_weight_names_its_consumers(package) -> None:
    readers = {(c.op_type, c.name, c.argument) for w in load(package()).weights() for c in w.consumers}
    assert ("linear", "dense", "weight") in readers
    assert ("matmul", "left", "x") in readers


def test_size_is_the_size_on_disk(package, tmp_path) -> None:
    path = package()
    model = corepress.load(path)
    assert model.size() == sum(len(data) for data in tree(path).values())
    compressed = corepress.coreml.linear_quantize_weights(
        model, corepress.coreml.OptimizationConfig(corepress.coreml.OpLinearQuantizerConfig())
    )
    before = compressed.size()
    saved = compressed.save(tmp_path / "out.mlpackage")
    assert before == saved.size() == sum(len(data) for data in tree(tmp_path / "out.mlpackage").values())
