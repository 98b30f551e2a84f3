"""`linear_quantize_activations` puts the peer's pairs in the peer's places: its own passes say so."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import corepress.coreml as cto
from corepress.runtime import load as run
from tests.coreml.activations.activation_nets import (
    MODES,
    NETS,
    SYMMETRIC,
    everywhere,
    package_of,
    residual,
    samples,
    structure,
)
from tests.oracle import peer_program
from tests.runtime.test_zoo import convert

torch.set_num_threads(1)


def observed(path: Path, sample) -> dict[str, dict[str, float]]:
    """The range of every value, as the peer keeps it."""
    found = {}

    def observe(name, value) -> None:
        found[name] = {"rmin": float(value.min()), "rmax": float(value.max())}

    for name, value in sample.items():
        observe(name, value)
    run(path).predict(sample, observe=observe)
    return found


def peer_quantized(path: Path, sample, op_config, **type_configs):
    """The peer's program after its passes, with the ranges of one sample."""
    import coremltools as ct
    import coremltools.optimize.coreml as peer
    from coremltools.converters.mil.frontend.milproto.load import load as load_program
    from coremltools.converters.mil.mil.passes.graph_pass import PassOption
    from coremltools.converters.mil.mil.passes.pass_registry import PASS_REGISTRY
    from coremltools.optimize import _utils
    from coremltools.optimize.coreml.experimental._model_debugger import ModelDebugger

    model = ct.models.MLModel(str(path), skip_model_load=True)
    stats = observed(path, sample)
    _utils._adjust_concat_surrounding_activation_stats(ModelDebugger(model)._get_concat_op_info(), stats)
    program = load_program(model.get_spec(), max(8, model.get_spec().specificationVersion), model.weights_dir)
    config = peer.OptimizationConfig(
        global_config=peer.experimental.OpActivationLinearQuantizerConfig(**op_config), op_type_configs=type_configs
    )
    for name in ("prefix", "suffix"):
        graph_pass = PASS_REGISTRY[f"compression::insert_{name}_quantize_dequantize_pair"]
        graph_pass.set_options([PassOption("config", config), PassOption("activation_stats", stats)])
        graph_pass.apply(program)
    follow = ["dequantize_quantize_pair_elimination", "dead_code_elimination", "remove_redundant_ops"]
    if op_config == SYMMETRIC:  # a zero point of 0 and none are the same; the peer merges such pairs after this
        follow.insert(0, "nullify_redundant_quantization_zero_point")
    for name in follow:
        PASS_REGISTRY[f"common::{name}"].apply(program)
    return program


def alike(ours, theirs) -> bool:
    """The same, but for roundings of the peer, which computes in float16."""
    if isinstance(ours, (tuple, list)):
        return len(ours) == len(theirs) and all(map(alike, ours, theirs))
    if isinstance(ours, float):
        return abs(ours - theirs) <= 2e-3 * abs(theirs)
    return abs(ours - theirs) <= 1 if isinstance(ours, int) else ours == theirs


def assert_alike(ours: dict[str, list], theirs: dict[str, list]) -> None:
    assert ours.keys() == theirs.keys() and ours["pairs"]
    for name in ours:
        assert alike(ours[name], theirs[name]), name


@pytest.mark.parametrize("op_config", MODES, ids=str)
@pytest.mark.parametrize("build", NETS, ids=lambda build: build.__name__)
def test_the_pairs_are_those_of_the_peer(tmp_path, build, op_config) -> None:
    path = package_of(tmp_path, build)
    sample = samples()[0]
    cto.linear_quantize_activations(path, everywhere(**op_config), [sample]).save(tmp_path / "ours.mlpackage")
    ours, theirs = peer_program(tmp_path / "ours.mlpackage"), peer_quantized(path, sample, op_config)
    assert_alike(structure(ours), structure(theirs))


@pytest.mark.parametrize("kind", ["add", "conv"])
def test_types_of_operations_can_be_left_out_as_in_the_peer(tmp_path, kind) -> None:
    path = package_of(tmp_path, residual)
    sample = samples()[0]
    config = everywhere()
    config.set_op_type(kind, None)
    cto.linear_quantize_activations(path, config, [sample]).save(tmp_path / "ours.mlpackage")
    ours, theirs = peer_program(tmp_path / "ours.mlpackage"), peer_quantized(path, sample, SYMMETRIC, **{kind: None})
    assert_alike(structure(ours), structure(theirs))


@pytest.mark.parametrize("name", ["resnet", "vit", "conformer"])
def test_the_pairs_are_those_of_the_peer_in_real_architectures(tmp_path, name) -> None:
    path, _, sample, _ = convert(name, tmp_path, "iOS17", "FLOAT16")
    cto.linear_quantize_activations(path, everywhere(mode="linear"), [sample]).save(tmp_path / "ours.mlpackage")
    ours, theirs = peer_program(tmp_path / "ours.mlpackage"), peer_quantized(path, sample, {"mode": "linear"})
    assert_alike(structure(ours), structure(theirs))


def test_a_hard_sigmoid_belongs_to_the_operation_before_it(tmp_path) -> None:
    """The peer means it so, but calls it "hard_sigmoid", a name that no operation has."""

    def gate(mb, x, w):
        y = mb.sigmoid_hard(x=mb.conv(x=x, weight=w(4, 4, 1, 1), name="conv"), alpha=0.2, beta=0.5, name="gate")
        return mb.mul(x=x, y=y, name="out")

    path = package_of(tmp_path, gate)
    cto.linear_quantize_activations(path, everywhere(), samples()).save(tmp_path / "ours.mlpackage")
    found = structure(peer_program(tmp_path / "ours.mlpackage"))
    assert found["gate"] == ["conv"] and found["out"][1][0] == "dequantize"
