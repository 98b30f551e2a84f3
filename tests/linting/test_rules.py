"""Each rule finds something in a model that has what it speaks of, and nothing in one that is nearly the same."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from corepress import coreml
from corepress.errors import ConfigError
from corepress.formats.mlprogram import Consumer, load
from corepress.linting import RULES, lint, of_form
from corepress.linting.outline import outline
from corepress.weights import Palettized, Quantized, Sparse
from tests.linting.made import CASES, cast_mask, log_of, masked

BY_ID = {rule.id: rule for rule in RULES}


def found(model: object, rule: str) -> list[str]:
    return [finding.name for finding in lint(model).items if finding.rule.id == rule]


def test_each_rule_has_a_case() -> None:
    assert CASES.keys() == BY_ID.keys()


@pytest.mark.parametrize("rule", CASES)
def test_a_rule_fires_on_its_package_and_not_on_its_neighbour(rule: str, tmp_path: Path) -> None:
    triggers, spares = CASES[rule]
    (tmp_path / "one").mkdir()
    (tmp_path / "other").mkdir()
    model = triggers(tmp_path / "one")
    assert found(model, rule)
    assert not found(spares(tmp_path / "other"), rule)
    for device in ("ane", "gpu", "cpu"):
        speaks = any(finding.rule.id == rule for finding in lint(model, device).items)
        assert speaks == (device in BY_ID[rule].devices)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_a_rule_says_all_that_there_is_to_say(rule) -> None:
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", rule.id)
    assert rule.severity in ("wrong", "slow", "no gain") and rule.devices
    assert all(re.fullmatch(r"https://[\w.-]+/\S+", thread) for thread in rule.threads) and rule.threads
    assert re.match(r"(iOS|macOS) \d+", rule.since)
    for text in (rule.known, rule.instead):
        assert text.endswith(".") and "  " not in text
    assert rule.title and not rule.title.endswith(".")


def test_ids_are_told_apart_and_the_worst_comes_first() -> None:
    assert len(BY_ID) == len(RULES)
    severities = [rule.severity for rule in RULES]
    assert severities == sorted(severities, key=["wrong", "slow", "no gain"].index)


def test_the_page_of_the_documentation_is_current() -> None:
    from tools.write_docs import DOCS, lint_page

    assert (DOCS / "lint.md").read_text(encoding="utf-8") == lint_page(), "run `make docs`"


# Forms, by hand: what `search --safe` asks for.

INDICES = np.zeros((64, 32), np.uint8)
SCALE = np.ones((64, 1), np.float16)
LUT = np.zeros((1, 1, 16, 1), np.float16)


def lut(bits: int = 4, groups: tuple[int, int] = (1, 1), dtype: str = "float16", length: int = 1) -> np.ndarray:
    return np.zeros((*groups, 2**bits, length), dtype)


FORMS = {
    "dense": (np.zeros((64, 32), np.float16), []),
    "4 bits": (Palettized(INDICES, lut()), ["lut4-per-tensor"]),
    "6 bits": (Palettized(INDICES, lut(6)), []),
    "4 bits, an int8 table": (Palettized(INDICES, Quantized(lut(dtype="int8"), np.ones((1, 1, 1, 1), "f2"))), []),
    "4 bits, groups of 16": (Palettized(INDICES, lut(groups=(4, 1))), []),
    "4 bits, groups of 4 inputs": (Palettized(INDICES, lut(groups=(1, 8))), ["small-groups"]),
    "4 bits, groups of 8 in pairs": (Palettized(INDICES, lut(groups=(16, 1), length=2), 0), []),
    "4 bits, groups of 2 in pairs": (Palettized(INDICES, lut(groups=(64, 1), length=2), 0), ["small-groups"]),
    "4 bits, by channel": (Palettized(INDICES, lut(groups=(64, 1))), ["lut-per-channel"]),
    "a scale over a table": (Quantized(Palettized(INDICES, lut(6)), SCALE), ["scale-over-lut"]),
    "a scale over a table of integers": (Quantized(Palettized(INDICES, lut(6, dtype="int8")), SCALE), []),
    "a scale over the numbers of a table": (
        Palettized(INDICES, Quantized(lut(6, groups=(64, 1)), np.ones((64, 1, 1, 1), "f2"))),
        ["scale-over-lut", "lut-per-channel"],
    ),
    "int8 by channel": (Quantized(np.zeros((64, 32), np.int8), SCALE), []),
    "int8 in blocks": (Quantized(np.zeros((64, 32), np.int8), np.ones((64, 2), "f2")), ["blocks-of-integers"]),
    "zeros": (Sparse(np.ones((64, 32), bool), np.zeros((64, 32), np.float16)), []),
    "zeros and tables by channel": (
        Sparse(np.ones((64, 32), bool), Palettized(INDICES, lut(groups=(64, 1)))),
        ["lut-per-channel"],
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_forms(name: str) -> None:
    form, expected = FORMS[name]
    readers = [Consumer("linear", "dense", "weight")]
    assert [rule.id for rule in of_form(form, readers, "iOS18")] == expected
    assert [rule.id for rule in of_form(form)] == expected


def test_the_system_counts() -> None:
    form = Quantized(np.zeros((64, 32), np.int8), SCALE)
    assert [rule.id for rule in of_form(form, target="iOS16")] == ["signed-int8-before-ios18", "ahead-of-time"]
    assert [rule.id for rule in of_form(form, target="iOS17")] == ["signed-int8-before-ios18"]
    with pytest.raises(ConfigError, match="Unknown target"):
        of_form(form, target="iOS3")


def alike(form: Any, value: Any) -> bool:
    """Whether two forms differ in nothing but their numbers."""
    if type(form) is not type(value) or form.shape != value.shape or form.dtype != value.dtype:
        return False
    if isinstance(value, Palettized):
        return form.bits == value.bits and form.cluster_dim == value.cluster_dim and alike(form.lut, value.lut)
    if isinstance(value, Quantized):
        same = form.bits == value.bits and form.scale.shape == value.scale.shape
        return same and (form.offset is None) == (value.offset is None) and alike(form.data, value.data)
    return not isinstance(value, Sparse) or alike(form.values, value.values)


PRUNED = coreml.OpMagnitudePrunerConfig(target_sparsity=0.5)
TABLES = coreml.OpPalettizerConfig(nbits=4)
CHAINS = {
    "groups": [coreml.OpPalettizerConfig(nbits=3, granularity="per_grouped_channel", group_size=8)],
    "vectors": [coreml.OpPalettizerConfig(nbits=4, cluster_dim=2)],
    "a table of integers": [coreml.OpPalettizerConfig(nbits=4, lut_dtype="int8")],
    "a table of scaled integers": [coreml.OpLinearQuantizerConfig(), TABLES],
    "offsets": [coreml.OpLinearQuantizerConfig(mode="linear", dtype="uint4", granularity="per_tensor")],
    "blocks": [coreml.OpLinearQuantizerConfig(dtype="int4", granularity="per_block", block_size=16)],
    "zeros": [PRUNED],
    "zeros and tables": [PRUNED, TABLES],
    "zeros and vectors": [PRUNED, coreml.OpPalettizerConfig(nbits=4, cluster_dim=2)],
    "zeros and integers": [PRUNED, coreml.OpLinearQuantizerConfig()],
    "zeros and scaled tables": [PRUNED, coreml.OpLinearQuantizerConfig(), TABLES],
}
FUNCTIONS = {
    coreml.OpPalettizerConfig: coreml.palettize_weights,
    coreml.OpLinearQuantizerConfig: coreml.linear_quantize_weights,
    coreml.OpMagnitudePrunerConfig: coreml.prune_weights,
}


@pytest.mark.parametrize("target,chain", [("iOS16", "zeros"), *(("iOS18", chain) for chain in CHAINS)])
def test_an_outline_is_the_form_without_its_numbers(target: str, chain: str, package: Any) -> None:
    """What is told from the program alone is what the stored weight says."""
    model = load(package(target))
    for number, config in enumerate(CHAINS[chain]):
        model = FUNCTIONS[type(config)](model, coreml.OptimizationConfig(config), bool(number))
    assert sum(bool(weight.compression) for weight in model.weights()) > 4
    for weight in model.weights():
        form, value = outline(weight), weight.read()
        if isinstance(value, np.ndarray):
            assert form is None
        else:
            assert alike(form, value), weight


def test_what_a_constant_becomes(tmp_path: Path) -> None:
    """Only where it is cast to float16, and only numbers that float16 can't hold."""
    for number, (build, fires) in enumerate([
        (cast_mask(-7e4), True), (cast_mask(-65504.0), False), (cast_mask(-3e38, to="fp32"), False),
        (cast_mask(-3e38, to="int32"), False), (cast_mask(-np.inf), False), (masked(-np.inf), False),
    ]):  # fmt: skip
        folder = tmp_path / str(number)
        folder.mkdir()
        assert bool(found(build(folder), "beyond-float16")) == fires, number


def test_float32_is_not_what_the_neural_engine_computes(tmp_path: Path) -> None:
    assert not found(log_of("softmax", "fp32")(tmp_path), "log-of-softmax")
