"""`lint` on models of all kinds, and what its findings are written as."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest

import corepress as cto
from corepress import coreml
from corepress.errors import ConfigError, FormatError
from corepress.formats.mlprogram.program import nodes
from corepress.linting import RULES, lint
from corepress.linting.findings import MEASURED
from corepress.linting.stored import of_changed
from tests.linting.made import CASES, DIGITS, LIST, RANGE, described, digits, network, with_state
from tests.structures import multifunction, nested, pipeline

FOUR = coreml.OptimizationConfig(coreml.OpPalettizerConfig(nbits=4))
ALONE = "nobody has reported yet how devices take what Core AI alone has:"
BLOCKS = coreml.OpLinearQuantizerConfig(dtype="int4", granularity="per_block", block_size=16)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("a folder") / "small.mlpackage"
    coreml.palettize_weights(DIGITS, FOUR).save(path)
    return path


def test_any_kind_of_model_may_be_given(small: Path) -> None:
    import coremltools as ct

    expected = lint(small).items
    assert expected and lint(str(small)).items == lint(cto.load(small)).items == expected
    assert lint(ct.models.MLModel(str(small), skip_model_load=True)).items == expected
    assert cto.lint is lint
    with pytest.raises(ConfigError, match="not int"):
        lint(3)


def test_several_functions_and_stages(tmp_path: Path) -> None:
    for build, functions in ((multifunction, ["first", "second"]), (pipeline, ["stage0/main", "stage1/main"])):
        folder = tmp_path / build.__name__
        folder.mkdir()
        model = coreml.palettize_weights(build(folder), FOUR)
        assert sorted(finding.function for finding in lint(model).items) == functions
        assert [len(group.findings) for group in of_changed(model)] == [2]


def test_blocks_within_blocks(tmp_path: Path) -> None:
    found = [finding.name for finding in lint(nested(tmp_path)).items if finding.rule.id == "float32-products"]
    assert found == ["yes", "yes2", "no", "loop"]


def test_a_model_without_a_program_is_told_of(tmp_path: Path) -> None:
    from coremltools.models import datatypes
    from coremltools.models.tree_ensemble import TreeEnsembleClassifier
    from coremltools.models.utils import save_spec

    builder = TreeEnsembleClassifier([("x", datatypes.Double())], [1, 2], "digit")
    builder.add_leaf_node(0, 0, {0: 1.0})
    builder.set_default_prediction_value([0.0, 0.0])
    save_spec(builder.spec, str(tmp_path / "trees.mlmodel"))
    found = lint(tmp_path / "trees.mlmodel")
    assert not found.items and found.notes == ("no rule speaks of a tree ensemble classifier",)


def test_a_damaged_model(tmp_path: Path) -> None:
    (tmp_path / "it.mlmodel").write_bytes(b"\xff" * 100)
    with pytest.raises(FormatError):
        lint(tmp_path / "it.mlmodel")
    with pytest.raises(FormatError):
        lint(tmp_path / "missing.mlpackage")


@pytest.mark.parametrize("config", [BLOCKS, coreml.OpPalettizerConfig(nbits=4, lut_dtype="int8", cluster_dim=2)])
def test_shapes_that_make_no_sense(config: Any, tmp_path: Path) -> None:
    """Each tensor of the program in turn, with an axis of another size, or without axes."""
    model = digits(config)(tmp_path)
    count = len(list(tensors(model.copy())))
    for number in range(count):
        for axis, size in ((0, 0), (-1, 0), (0, 7), (0, None)):
            damaged = model.copy()
            tensor = list(tensors(damaged))[number]
            if size is None:
                del tensor.dimensions[:]
            elif tensor.dimensions:
                tensor.dimensions[axis].constant.size = size
            try:
                lint(damaged)
            except cto.CorepressError:
                continue


def tensors(model: Any) -> Iterator[Any]:
    """The types of all tensors of a program."""
    for node in nodes(model.spec):
        yield from (output.type.tensorType for output in node.op.outputs)
        held = [operand.value for operands in node.operands.values() for operand in operands]
        yield from (value.type.tensorType for value in held if value is not None and value.type.tensorType.dimensions)


@pytest.mark.parametrize("device", ["tpu", "", "ANE ", "cuda"])
def test_an_unknown_device(small: Path, device: str) -> None:
    with pytest.raises(ConfigError, match="device must be ane, gpu, cpu"):
        lint(small, device)


def test_devices_and_targets(small: Path) -> None:
    assert lint(small, "ANE").device == "ane" and not lint(small, "gpu").items
    assert lint(small).target == "iOS18" and lint(small, target="macos26").target == "iOS26"
    with pytest.raises(ConfigError, match="needs iOS18 and does not run there"):
        lint(small, target="iOS17")
    with pytest.raises(ConfigError, match="Unknown target"):
        lint(small, target="iOS3")


def test_a_newer_system_makes_an_older_form_no_loss(tmp_path: Path) -> None:
    model = CASES["ahead-of-time"][0](tmp_path)
    assert [rule.id for rule in lint(model).by_rule()] == ["ahead-of-time"]
    assert not lint(model, target="iOS17").items
    model = CASES["signed-int8-before-ios18"][0](tmp_path)
    assert [rule.id for rule in lint(model, target="iOS18").by_rule()] == ["signed-int8-before-ios18"]


def test_networks(tmp_path: Path) -> None:
    found = lint(network(True)(tmp_path))
    assert [(finding.rule.id, finding.function, finding.kind) for finding in found.items] == [
        ("network-weights", "", "weight")
    ]
    assert found.target == "iOS12" and "8 bits" in found.items[0].found
    flexible = {"range": [(64, 128)]}
    assert [f.rule.id for f in lint(described(flexible, of=network(False))(tmp_path)).items] == ["range-of-shapes"]
    assert [f.rule.id for f in lint(described(LIST, LIST, of=network(False))(tmp_path)).items] == [
        "several-enumerated"
    ] * 2


def test_a_network_with_a_recurrence(tmp_path: Path) -> None:
    import coremltools as ct

    floats = ct.models.datatypes.Array
    builder = ct.models.neural_network.NeuralNetworkBuilder(
        [("x", floats(8)), ("h", floats(4))], [("y", floats(4)), ("g", floats(4))]
    )
    zeros = np.zeros((4, 8)), np.zeros((4, 4))
    builder.add_simple_rnn("loop", zeros[1], zeros[0], None, 4, 8, "TANH", ["x", "h"], ["y", "g"])
    ct.models.utils.save_spec(builder.spec, str(tmp_path / "net.mlmodel"))
    assert [(f.rule.id, f.name, f.found) for f in lint(tmp_path / "net.mlmodel").items] == [
        ("recurrence", "loop", "simpleRecurrent")
    ]


def test_the_worst_comes_first(tmp_path: Path) -> None:
    flexible = described(RANGE)(tmp_path)
    model = coreml.linear_quantize_weights(flexible, coreml.OptimizationConfig(BLOCKS))
    assert [rule.id for rule in lint(model).by_rule()] == ["blocks-of-integers", "range-of-shapes"]


def test_what_a_run_changed(tmp_path: Path) -> None:
    """Findings that the model had before are not those of the run."""
    before = digits(coreml.OpPalettizerConfig(nbits=4))(tmp_path).save(tmp_path / "before.mlpackage")
    model = cto.load(before.path)
    assert lint(model).items and of_changed(model) == []
    config = coreml.OptimizationConfig(coreml.OpLinearQuantizerConfig(weight_threshold=0))
    assert of_changed(coreml.linear_quantize_weights(model, config)) == []
    again = coreml.palettize_weights(DIGITS, FOUR)
    (group,) = of_changed(again)
    assert group.rule.id == "lut4-per-tensor" and len(group.findings) == 4
    assert "and 1 more. " in str(group) and group.rule.known in str(group)
    (group,) = of_changed(network(True)(tmp_path))
    assert group.rule.id == "network-weights" and of_changed(network(False)(tmp_path)) == []
    assert of_changed(coreml.decompress_weights(model)) == []


def test_activations_that_a_run_quantized() -> None:
    from corepress.coreml.experimental import OpActivationLinearQuantizerConfig, linear_quantize_activations

    samples = [{"image": np.load(DIGITS.parent / "digits_test.npz")["images"][:1].reshape(1, 1, 8, 8).astype("f2")}]
    config = coreml.OptimizationConfig(OpActivationLinearQuantizerConfig())
    model = linear_quantize_activations(DIGITS, config, samples)
    assert [group.rule.id for group in of_changed(model)] == ["w8a8-elsewhere", "w8a8-older-chips"]
    assert "quantized activations" in of_changed(model)[0].findings[0].found
    assert [rule.id for rule in lint(model).by_rule()] == ["w8a8-elsewhere", "w8a8-older-chips"]


# What findings are written as.


def test_plain_data(small: Path) -> None:
    found = lint(small)
    content = json.loads(found.to_json())
    assert content == found.to_dict() and content["model"] == str(small)
    assert [rule["count"] for rule in content["rules"]] == [4] and len(content["findings"]) == 4
    assert {finding["rule"] for finding in content["findings"]} == {rule["id"] for rule in content["rules"]}
    assert content["notes"][-1] == MEASURED and "measured nothing" in MEASURED
    assert found.summary == "1 rule found 4 places"
    assert str(found).startswith("wrong: lut4-per-tensor: weight ") and str(found).endswith("\n1 rule found 4 places")
    assert lint(DIGITS).summary == "no rule speaks of anything in the model"


def test_the_table(small: Path) -> None:
    from rich.console import Console

    console = Console(width=1000, file=io.StringIO())
    console.print(lint(small).table())
    text = console.file.getvalue()
    for part in ("wrong: lut4-per-tensor", "Neural Engine, CPU; since macOS 26", "and 1 more", "issues/2716"):
        assert part in text


# The objects of SARIF 2.1.0 that a log of ours has: the fields that the standard asks for in each, and those of the
# others that are in ours (OASIS, "Static Analysis Results Interchange Format (SARIF) Version 2.1.0", section 3).
SARIF: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "log": ({"version": "2.1.0", "runs": ["run"]}, {"$schema": str}),
    "run": ({"tool": "tool"}, {"results": ["result"]}),
    "tool": ({"driver": "driver"}, {}),
    "driver": ({"name": str}, {"version": str, "informationUri": str, "rules": ["rule"]}),
    "rule": (
        {"id": str},
        {
            "shortDescription": "text", "fullDescription": "text", "help": "text", "helpUri": str,
            "defaultConfiguration": "configuration", "properties": "properties",
        },
    ),
    "text": ({"text": str}, {}),
    "configuration": ({}, {"level": str}),
    "properties": ({}, {"tags": [str]}),
    "result": (
        {"message": "text"}, {"ruleId": str, "ruleIndex": int, "level": str, "locations": ["location"]}
    ),
    "location": ({}, {"physicalLocation": "physical", "logicalLocations": ["logical"]}),
    "physical": ({"artifactLocation": "artifact"}, {"region": "region"}),
    "artifact": ({}, {"uri": str}),
    "region": ({}, {"startLine": int}),
    "logical": ({}, {"name": str, "fullyQualifiedName": str}),
}  # fmt: skip


def check(value: Any, kind: Any) -> None:
    if isinstance(kind, list):
        assert isinstance(value, list)
        for item in value:
            check(item, kind[0])
    elif kind == "2.1.0":
        assert value == kind
    elif isinstance(kind, type):
        assert type(value) is kind
    else:
        needed, allowed = SARIF[kind]
        assert needed.keys() <= value.keys() <= needed.keys() | allowed.keys()
        for name, held in value.items():
            check(held, (needed | allowed)[name])


@pytest.mark.parametrize("which", ["small", "digits", "memory"])
def test_sarif(which: str, small: Path, tmp_path: Path) -> None:
    found = lint({"small": small, "digits": DIGITS, "memory": with_state(48)(tmp_path)}[which])
    log = json.loads(json.dumps(found.to_sarif()))
    check(log, "log")
    (run,) = log["runs"]
    rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    assert len(run["results"]) == len(found.items) and len(set(rules)) == len(rules)
    levels = {"wrong": "error", "slow": "warning", "no gain": "note"}
    for result, finding in zip(run["results"], found.items, strict=True):
        assert rules[result["ruleIndex"]] == result["ruleId"] == finding.rule.id
        assert result["level"] == levels[finding.rule.severity]
        (location,) = result["locations"]
        assert location["logicalLocations"][0]["fullyQualifiedName"] == f"{finding.function}/{finding.name}"
        # GitHub shows nothing without a file and a line.
        assert location["physicalLocation"]["region"]["startLine"] == 1
        assert unquote(location["physicalLocation"]["artifactLocation"]["uri"]) == found.path
        assert " " not in location["physicalLocation"]["artifactLocation"]["uri"]


def test_all_rules_can_be_written_as_sarif() -> None:
    from corepress.linting import Finding, Findings

    items = tuple(Finding(rule, "main", "weight", "it", "found") for rule in RULES)
    check(Findings("", "iOS18", None, items).to_sarif(), "log")


def test_a_core_ai_model_has_rules_of_its_own(tmp_path: Path) -> None:
    pytest.importorskip("coreai")
    from tests.formats.coreai.made import layer

    dense = layer(tmp_path / "dense.aimodel")
    for dtype, rules, notes in (
        ("int8", ["core-ai-blocks"], ()),
        (
            "fp4_e2m1fn",
            [],
            (f"{ALONE} fp4_e2m1fn quantization",),
        ),
    ):
        blocks = coreml.OpLinearQuantizerConfig(dtype=dtype, granularity="per_block", weight_threshold=0)
        small = coreml.linear_quantize_weights(dense, coreml.OptimizationConfig(blocks))
        found = lint(small)
        assert [item.rule.id for item in found.items] == [group.rule.id for group in of_changed(small)] == rules
        assert (found.target, found.notes) == ("iOS27", notes)
    assert not lint(dense).items and not lint(dense).notes
