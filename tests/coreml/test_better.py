"""Where the peer is wrong, we are right; each case was measured on coremltools 9.0 or reported by its users."""

from __future__ import annotations

import logging

import numpy as np
import pytest

import corepress
import corepress.coreml as cto
from corepress.formats.mlprogram import load
from tests.structures import _convert

Palettizer, Quantizer = cto.OpPalettizerConfig, cto.OpLinearQuantizerConfig


def everywhere(op_config) -> cto.OptimizationConfig:
    return cto.OptimizationConfig(global_config=op_config)


def package_of(tmp_path, target="iOS18", dtype=np.float16, **weights):
    """A package with one linear layer for each given weight, of shape (out, in)."""
    import coremltools as ct
    from coremltools.converters.mil.mil import Builder as mb
    from coremltools.converters.mil.mil import types

    kind = types.fp16 if dtype == np.float16 else types.fp32
    specs = [mb.TensorSpec((1, weight.shape[1]), kind) for weight in weights.values()]

    def build(*inputs):
        return tuple(
            mb.linear(x=x, weight=weight.astype(dtype), name=name)
            for x, (name, weight) in zip(inputs, weights.items(), strict=True)
        )

    names = ", ".join(f"x{i}" for i in range(len(weights)))
    scope = {"build": build}
    exec(f"def program({names}): return build({names})", scope)  # the builder reads the argument names
    program = mb.program(input_specs=specs, opset_version=getattr(ct.target, target))(scope["program"])
    path = tmp_path / "source.mlpackage"
    _convert(program, target).save(str(path))
    return path


def by_name(model):
    return {weight.consumers[0].name: weight for weight in model.weights() if len(weight.shape) > 1}


def rmse(exact, weight) -> float:
    return float(np.sqrt(np.square(exact.astype(np.float64) - weight.dense().astype(np.float64)).mean()))


RNG = np.random.default_rng(0)
NORMAL = RNG.normal(size=(64, 128))


def test_the_scale_is_one_for_each_output_channel(tmp_path) -> None:
    channels = np.exp(RNG.normal(size=(64, 1)) * 2)
    path = package_of(tmp_path, a=NORMAL * channels)
    exact = by_name(load(path))["a"].dense()
    scaled = by_name(cto.palettize_weights(path, everywhere(Palettizer(nbits=4, enable_per_channel_scale=True))))["a"]
    # The scale stands in the LUT, where Core ML wants it: one LUT for each channel, all of one shape.
    lut = scaled.read().lut.astype(np.float64)
    assert lut.shape == (64, 1, 16, 1)
    shapes = lut[:, 0, :, 0] / np.abs(exact.astype(np.float64)).max(axis=1, keepdims=True)
    np.testing.assert_allclose(shapes, np.broadcast_to(shapes[:1], shapes.shape), atol=2e-3)
    plain = by_name(cto.palettize_weights(path, everywhere(Palettizer(nbits=4))))["a"]
    error = lambda weight: np.linalg.norm(exact.astype(float) - weight.dense(), axis=1)  # noqa: E731
    relative = lambda weight: (error(weight) / np.linalg.norm(exact.astype(float), axis=1)).mean()  # noqa: E731
    assert relative(scaled) < relative(plain) / 2 and rmse(exact, scaled) < rmse(exact, plain)


@pytest.mark.parametrize(
    "config",
    [
        Palettizer(nbits=4, enable_per_channel_scale=True, granularity="per_grouped_channel", group_size=24),
        Palettizer(nbits=4, cluster_dim=24),
        Palettizer(nbits=2, granularity="per_grouped_channel", group_size=7, channel_axis=1),
        Quantizer(dtype="int4", granularity="per_block", block_size=24),
    ],
)
def test_a_weight_that_does_not_fit_is_left_bit_identical_and_warned_of(tmp_path, config, caplog) -> None:
    path = package_of(tmp_path, a=NORMAL)
    exact = by_name(load(path))["a"].dense().tobytes()
    compress = cto.palettize_weights if isinstance(config, Palettizer) else cto.linear_quantize_weights
    with caplog.at_level(logging.WARNING, "corepress"):
        model = compress(path, everywhere(config))
    assert by_name(model)["a"].dense().tobytes() == exact
    assert not by_name(model)["a"].compression
    assert "a_weight" in caplog.text and len(corepress.report(model).skipped) >= 1
    saved = model.save(tmp_path / "out.mlpackage")
    assert by_name(saved)["a"].dense().tobytes() == exact


def test_a_smaller_group_or_block_is_taken_when_asked(tmp_path, caplog) -> None:
    path = package_of(tmp_path, a=NORMAL)
    grouped = Palettizer(nbits=4, granularity="per_grouped_channel", group_size=24, smaller_group=True)
    lut = by_name(cto.palettize_weights(path, everywhere(grouped)))["a"].read().lut
    assert lut.shape[0] == 64 // 16
    blocks = Quantizer(dtype="int4", granularity="per_block", block_size=24, smaller_block=True)
    assert by_name(cto.linear_quantize_weights(path, everywhere(blocks)))["a"].read().scale.shape == (64, 128 // 16)
    assert 'smaller ones are used: "a_weight_0 (groups of 16)"' in caplog.text
    assert 'smaller ones are used: "a_weight_0 (blocks of 16)"' in caplog.text


def test_smaller_groups_or_blocks_that_save_nothing_leave_a_weight_alone(tmp_path) -> None:
    prime = NORMAL[:61, :61]
    path = package_of(tmp_path, a=prime)
    grouped = Palettizer(nbits=8, granularity="per_grouped_channel", group_size=16, smaller_group=True)
    blocks = Quantizer(dtype="int8", granularity="per_block", block_size=16, smaller_block=True)
    for function, config, words in (
        (cto.palettize_weights, grouped, "its channels divide into groups of 1 only"),
        (cto.linear_quantize_weights, blocks, "its channels divide into blocks of 1 only"),
    ):
        model = function(path, everywhere(config))
        assert [why for why in model.skipped.values() if why.startswith(words)]
        assert by_name(model)["a"].compression == ""


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize(
    "config",
    [
        Palettizer(nbits=4),
        Palettizer(nbits=4, mode="uniform"),
        Palettizer(nbits=4, enable_per_channel_scale=True),
        Palettizer(nbits=2, cluster_dim=2),
        Quantizer(),
        cto.OpMagnitudePrunerConfig(target_sparsity=0.5),
    ],
)
def test_a_mask_with_infinities_is_left_alone_and_the_others_are_compressed(tmp_path, bad, config) -> None:
    mask = NORMAL.copy()
    mask[:, ::2] = bad
    path = package_of(tmp_path, mask=mask, good=NORMAL)
    compress = {Palettizer: cto.palettize_weights, Quantizer: cto.linear_quantize_weights}.get(
        type(config), cto.prune_weights
    )
    model = compress(path, everywhere(config))
    assert by_name(model)["good"].compression and not by_name(model)["mask"].compression
    np.testing.assert_array_equal(by_name(model)["mask"].dense(), mask.astype(np.float16))
    assert any("finite" in why or "NaN" in why or "infinit" in why for why in model.skipped.values()), model.skipped


@pytest.mark.parametrize("values", [5, 7, 8])
@pytest.mark.parametrize("target", ["iOS16", "iOS18"])
def test_unique_mode_takes_a_width_that_the_target_has(tmp_path, values, target) -> None:
    path = package_of(tmp_path, target, a=RNG.integers(0, values, (64, 128)).astype(np.float16))
    exact = by_name(load(path))["a"].dense()
    weight = by_name(cto.palettize_weights(path, everywhere(Palettizer(mode="unique"))))["a"]
    assert weight.bits == (4 if target == "iOS16" else 3)
    np.testing.assert_array_equal(weight.dense(), exact)


def test_unique_mode_skips_a_weight_of_many_values(tmp_path) -> None:
    model = cto.palettize_weights(package_of(tmp_path, a=NORMAL), everywhere(Palettizer(mode="unique")))
    assert not by_name(model)["a"].compression and any("256" in why for why in model.skipped.values())


def test_a_custom_lut_may_be_a_list(tmp_path) -> None:
    def signs(weight):
        return [-1.0, 1.0], [int(value > 0) for value in weight.reshape(-1)]

    weight = by_name(
        cto.palettize_weights(package_of(tmp_path, a=NORMAL), everywhere(Palettizer(mode="custom", lut_function=signs)))
    )["a"]
    assert weight.bits == 1
    np.testing.assert_array_equal(weight.dense(), np.where(NORMAL.astype(np.float16) > 0, 1, -1).astype(np.float16))


def test_the_model_may_be_a_keyword(tmp_path) -> None:
    path = package_of(tmp_path, a=NORMAL)
    assert by_name(cto.palettize_weights(mlmodel=path, config=everywhere(Palettizer(nbits=4))))["a"].compression


def test_zeros_of_a_pruned_weight_are_not_clustered(tmp_path) -> None:
    path = package_of(tmp_path, a=NORMAL)
    pruned = cto.prune_weights(path, everywhere(cto.OpMagnitudePrunerConfig(target_sparsity=0.5)))
    exact = by_name(pruned)["a"].dense()
    joint = by_name(cto.palettize_weights(pruned, everywhere(Palettizer(nbits=2)), joint_compression=True))["a"]
    with_zeros = by_name(cto.palettize_weights(package_of(tmp_path / "..", a=exact), everywhere(Palettizer(nbits=2))))
    assert joint.compression == "sparse+palettized"
    assert (joint.dense()[exact == 0] == 0).all()
    assert rmse(exact, joint) < rmse(exact, with_zeros["a"])


def test_compressed_weights_are_skipped_unless_joint(tmp_path) -> None:
    path = package_of(tmp_path, a=NORMAL)
    once = cto.palettize_weights(path, everywhere(Palettizer(nbits=4)))
    twice = cto.palettize_weights(once, everywhere(Palettizer(nbits=2)))
    assert by_name(twice)["a"].bits == 4 and "already" in next(iter(twice.skipped.values()))


def shared_by_two(tmp_path):
    """A package in which a linear layer and a matmul, of different channel axes, read one weight."""
    import coremltools as ct
    from coremltools.converters.mil.mil import Builder as mb
    from coremltools.converters.mil.mil import types

    @mb.program(input_specs=[mb.TensorSpec((1, 64), types.fp16)], opset_version=ct.target.iOS18)
    def program(x):
        shared = mb.const(val=RNG.normal(size=(64, 64)).astype(np.float16), name="shared")
        return mb.matmul(x=mb.linear(x=x, weight=shared, name="one"), y=shared, name="two")

    path = tmp_path / "source.mlpackage"
    _convert(program, "iOS18").save(str(path))
    return path


def test_a_weight_shared_by_consumers_with_different_axes_is_compressed(tmp_path) -> None:
    path = shared_by_two(tmp_path)
    exact = next(w for w in load(path).weights() if w.name == "shared").dense().astype(float)
    for config in (
        Palettizer(nbits=6),
        Palettizer(nbits=6, granularity="per_grouped_channel", group_size=8),
        Quantizer(),
    ):
        compress = cto.palettize_weights if isinstance(config, Palettizer) else cto.linear_quantize_weights
        weight = next(w for w in compress(path, everywhere(config)).weights() if w.name == "shared")
        assert weight.compression and len(weight.consumers) == 2
        dense = weight.dense().astype(float)
        assert np.vdot(exact, dense) / (np.linalg.norm(exact) * np.linalg.norm(dense)) > 0.999


def test_consumers_that_disagree_are_an_error(tmp_path) -> None:
    config = cto.OptimizationConfig(Quantizer(), {"matmul": None})
    with pytest.raises(corepress.ConfigError, match="conflict"):
        cto.linear_quantize_weights(shared_by_two(tmp_path), config)


def test_the_same_kind_of_model_comes_back(package) -> None:
    import coremltools as ct

    config = everywhere(Quantizer())
    mlmodel = ct.models.MLModel(str(package()), skip_model_load=True)
    mlmodel.user_defined_metadata["edited"] = "in memory"
    result = cto.linear_quantize_weights(mlmodel, config)
    assert isinstance(result, ct.models.MLModel) and result.user_defined_metadata["edited"] == "in memory"
    assert isinstance(cto.linear_quantize_weights(package(), config), corepress.Model)
    assert isinstance(cto.linear_quantize_weights(corepress.load(package()), config), corepress.Model)
    with pytest.raises(corepress.ConfigError, match="MLModel"):
        cto.linear_quantize_weights(42, config)


def test_inputs_are_never_changed(package) -> None:
    model = corepress.load(package())
    before = model.spec.SerializeToString()
    cto.linear_quantize_weights(model, everywhere(Quantizer()))
    assert model.spec.SerializeToString() == before and not any(w.compression for w in model.weights())


def test_a_weight_given_in_place_gets_a_name_that_is_free(package, tmp_path) -> None:
    from tests.coreml.test_grid import inline
    from tests.oracle import peer_weights

    source = inline(corepress.load(package()).copy(), keep_const=False)
    block = source.spec.mlProgram.functions[0].value.block_specializations[0].value
    block.operations[0].outputs[0].name = "conv_weight"  # what the weight of "conv" would be called
    for op in block.operations:
        for entry in op.inputs:
            for binding in entry.value.arguments:
                if binding.name == "dense":
                    binding.name = "conv_weight"
    block.outputs[0] = "conv_weight"
    model = cto.linear_quantize_weights(source, everywhere(Quantizer())).save(tmp_path / "out.mlpackage")
    weight = next(w for w in model.weights() if w.name == "conv_weight")
    assert weight.compression and weight.output == "conv_weight_"
    np.testing.assert_array_equal(weight.dense(), peer_weights(tmp_path / "out.mlpackage")["conv_weight_"])


def test_operation_and_value_may_have_different_names(package) -> None:
    source = corepress.load(package()).copy()
    weight = next(w for w in source.weights() if w.consumers[0].name == "dense" and len(w.shape) == 2)
    from corepress.formats.mlprogram.constexpr import set_name

    set_name(weight.node.op, "my_layer")
    config = cto.OptimizationConfig(op_name_configs={"my_layer": Quantizer()})
    model = cto.linear_quantize_weights(source, config)
    (compressed,) = [w for w in model.weights() if w.compression]
    assert (compressed.name, compressed.output) == ("my_layer", weight.output)
    assert "my_layer" in cto.get_weights_metadata(source)
    assert len(corepress.report(model).compressed) == 1
