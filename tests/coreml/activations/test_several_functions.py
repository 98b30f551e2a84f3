"""Activations of several functions: each gets the ranges that it has in its own samples."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest

import corepress
from corepress.coreml import OptimizationConfig
from corepress.coreml.experimental import OpActivationLinearQuantizerConfig, linear_quantize_activations
from corepress.errors import ConfigError
from corepress.formats.mlprogram.program import nodes
from corepress.formats.mlprogram.values import read_tensor
from tests.cli.test_cli import corepress as corepress_cli
from tests.coreml.calibrated.test_functions import in_folders, package

CONFIG = OptimizationConfig(OpActivationLinearQuantizerConfig(mode="linear"))


@pytest.fixture(scope="module")
def functions(tmp_path_factory):
    return package(tmp_path_factory.mktemp("functions"))


def samples(size, seed):
    rng = np.random.default_rng(seed)
    return [{"x": (size * rng.normal(size=(1, 64))).astype(np.float32)} for _ in range(8)]


BOTH = {"prefill": samples(1, 0), "decode": samples(30, 1)}


def steps(model, function):
    """The scales of all pairs of a function."""
    found = [node for node in nodes(model.spec) if node.type == "quantize" and str(node.function) == function]
    return [float(read_tensor(node.operand("scale").value, model, "scale")) for node in found]


def test_each_function_has_the_ranges_of_a_call_of_its_own(functions):
    model = linear_quantize_activations(functions, CONFIG, BOTH)
    apart = functions
    for name, own in BOTH.items():
        apart = linear_quantize_activations(apart, CONFIG, own, function=name)
    assert model.spec == apart.spec
    assert steps(model, "decode")[0] > 10 * steps(model, "prefill")[0]
    for name, own in BOTH.items():
        assert corepress.verify(functions, model, own, function=name).worst.snr > 25


def test_rules_and_exceptions_may_be_for_any_of_them(functions, caplog):
    config = OptimizationConfig(
        OpActivationLinearQuantizerConfig(), op_name_configs={"own_decode": None, "own_nobody": None}
    )
    with caplog.at_level(logging.WARNING, logger="corepress"):
        model = linear_quantize_activations(functions, config, BOTH, exceptions=["shared_prefill", "shared_nobody"])
    told = [record.getMessage() for record in caplog.records]
    assert sum("own_nobody" in text for text in told) == sum("shared_nobody" in text for text in told) == 1
    assert not any("own_decode" in text.split("has no effect")[0] for text in told if "has no effect" in text)
    assert not any('"shared_prefill"' in text for text in told)
    assert steps(model, "decode") and steps(model, "prefill")


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        ({"prefill": BOTH["prefill"], "encode": []}, {}, "the functions are: .*decode"),
        (BOTH, {"observer": "output"}, "ranges by the outputs"),
        (BOTH, {"exceptions": "auto", "min_snr": 20.0}, "for the samples of one function"),
        (BOTH, {"function": "decode"}, "a function to choose"),
    ],
)
def test_what_needs_the_samples_of_one_function_is_said(functions, given, options, message):
    with pytest.raises(ConfigError, match=message):
        linear_quantize_activations(functions, CONFIG, given, **options)


def test_the_command_line_takes_a_folder_for_each(functions, tmp_path):
    in_folders(tmp_path / "data", BOTH)
    out = tmp_path / "out.mlpackage"
    given = ("--activations", "--weight-threshold", 0, "--json", "--data", tmp_path / "data")
    found = json.loads(corepress_cli("quantize", functions, "-o", out, *given).stdout)
    small = corepress.load(out)
    assert found["verification"]["samples"] and steps(small, "decode")[0] > 10 * steps(small, "prefill")[0]
