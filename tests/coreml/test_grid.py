"""The grid: every mode, width, type and granularity, in both generations, from a file and inline.

Each result must load in coremltools with its type checks, and coremltools' own decompression must give our values. The
runtime must answer what PyTorch computes with those decompressed values.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

import corepress
import corepress.coreml as cto
from corepress import runtime
from corepress.coreml.op_configs import WITH_NBITS, PaletteMode
from corepress.formats.mlprogram import Model, load
from corepress.formats.mlprogram.values import immediate_value
from tests import packages
from tests.oracle import peer_weights

pytestmark = pytest.mark.usefixtures("one_thread")

Palettizer, Quantizer = cto.OpPalettizerConfig, cto.OpLinearQuantizerConfig
Magnitude, Threshold = cto.OpMagnitudePrunerConfig, cto.OpThresholdPrunerConfig


def everywhere(op_config) -> cto.OptimizationConfig:
    return cto.OptimizationConfig(global_config=op_config)


def few_values(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A custom LUT function: three values."""
    lut = np.quantile(weight.astype(np.float32), [0.1, 0.5, 0.9, 1.0]).astype(weight.dtype)
    return lut, np.abs(weight.reshape(-1, 1) - lut).argmin(axis=1).astype(np.uint8)


# Modes that find the number of entries themselves, but for those that take a function or a weight of few values.
OTHER_TABLES = sorted({mode.lower() for mode in get_args(PaletteMode)} - {*WITH_NBITS, "unique", "custom"})
OLD_MODES = [
    *(
        ("palettize", Palettizer(nbits=bits, mode=mode))
        for mode, bits in product(("kmeans", "uniform"), (1, 2, 4, 6, 8))
    ),
    ("palettize", Palettizer(mode="custom", lut_function=few_values)),
    *(
        ("quantize", Quantizer(mode=mode, dtype=dtype, granularity=granularity))
        for mode, dtype, granularity in product(
            ("linear", "linear_symmetric"), ("int8", "uint8"), ("per_tensor", "per_channel")
        )
    ),
    ("prune", Threshold(threshold=0.1)),
    ("prune", Magnitude(target_sparsity=0.75)),
    ("prune", Magnitude(n_m_ratio=(2, 4))),
    ("prune", Magnitude(target_sparsity=0.5, block_size=4)),
    *(("palettize", Palettizer(mode=mode)) for mode in OTHER_TABLES),
]

NEW_MODES = [
    *OLD_MODES,
    *(("palettize", Palettizer(nbits=3, mode=mode)) for mode in ("kmeans", "uniform")),
    *(
        ("palettize", Palettizer(nbits=bits, granularity="per_grouped_channel", group_size=size, channel_axis=axis))
        for bits, size, axis in product((1, 3, 4, 8), (1, 16), (None, 0, 1))
    ),
    *(("palettize", Palettizer(nbits=bits, cluster_dim=dim)) for bits, dim in product((2, 3, 6), (2, 4))),
    ("palettize", Palettizer(nbits=4, cluster_dim=2, granularity="per_grouped_channel", group_size=8)),
    *(("palettize", Palettizer(nbits=bits, enable_per_channel_scale=True)) for bits in (2, 4, 6)),
    *(("palettize", Palettizer(nbits=bits, lut_dtype=dtype)) for bits, dtype in product((3, 4), ("int8", "uint8"))),
    ("palettize", Palettizer(nbits=3, lut_dtype="int8", granularity="per_grouped_channel", group_size=16)),
    ("palettize", Palettizer(nbits=4, lut_dtype="int8", cluster_dim=2)),
    ("palettize", Palettizer(nbits=4, lut_dtype="int8", enable_per_channel_scale=True)),
    *(
        ("quantize", Quantizer(mode=mode, dtype=dtype, granularity=granularity, block_size=16))
        for mode, dtype, granularity in product(
            ("linear", "linear_symmetric"),
            ("int4", "uint4", "int8", "uint8"),
            ("per_tensor", "per_channel", "per_block"),
        )
    ),
    ("quantize", Quantizer("linear", "uint4", "per_block", 8, float_zero_point=True)),
    ("quantize", Quantizer(dtype="int4", granularity="per_block", block_size=8, scale_search=True)),
]

FUNCTIONS = {
    "palettize": cto.palettize_weights,
    "quantize": cto.linear_quantize_weights,
    "prune": cto.prune_weights,
}


def name_of(mode) -> str:
    kind, config = mode
    return (
        kind
        + "-"
        + "-".join(
            str(v) for v in (getattr(config, f, None) for f in config.__slots__) if isinstance(v, (int, str, tuple))
        )
    )


def judge(model: Model, path: Path, *, expect: int) -> None:
    """Save, let coremltools load it, and compare all values; `expect` compressed weights must be there. Then run it."""
    model.save(path)
    ours = {weight.name: weight for weight in load(path).weights()}
    theirs = peer_weights(path)
    compressed = [weight for weight in ours.values() if weight.compression]
    assert len(compressed) == expect, model.skipped
    for weight in ours.values():
        if weight.argument is not None:  # given in place: no constant of its own
            continue
        value, mine = theirs[weight.name], weight.dense()
        assert (value.dtype, value.shape) == (mine.dtype, mine.shape)
        np.testing.assert_array_equal(mine, value, err_msg=weight.name)
        if weight.compression:
            form = weight.read()
            # The first generation always stores a zero point.
            zeros = form.scale.size if model.spec_version < 9 and getattr(form, "offset", 0) is None else 0
            assert form.nbytes + zeros == weight.stored_bytes
    judge_answers(path, theirs)


def judge_answers(path: Path, weights: dict[str, np.ndarray]) -> None:
    """The package answers as PyTorch does with these weights, decompressed by the runtime at load or as they are used.

    The tolerance is part of the largest answer: float16 is what the sums of products are stored in.
    """
    given = packages.inputs()
    expected = packages.answers(weights, given)
    tolerance = 2e-3 if any(w.dtype == np.float16 for w in weights.values()) else 1e-6
    for when in ("ahead_of_time", "on_the_fly"):
        found = runtime.load(path, weights=when).predict(given)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_allclose(
                found[name].astype(np.float64), value, rtol=0, atol=tolerance * np.abs(value).max(), err_msg=name
            )


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("mode", OLD_MODES, ids=name_of)
@pytest.mark.parametrize("target", ["iOS15", "iOS16", "iOS17"])
def test_first_generation(package, target, mode, dtype, tmp_path) -> None:
    kind, config = mode
    model = FUNCTIONS[kind](package(target, dtype), everywhere(config))
    judge(model, tmp_path / "out.mlpackage", expect=2 if structural(config) else 7)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("mode", NEW_MODES, ids=name_of)
def test_second_generation(package, mode, dtype, tmp_path) -> None:
    kind, config = mode
    model = FUNCTIONS[kind](package("iOS18", dtype), everywhere(config))
    judge(model, tmp_path / "out.mlpackage", expect=expected_count(config, model))


def structural(config) -> bool:
    return isinstance(config, Magnitude) and (config.n_m_ratio is not None or config.block_size is not None)


def expected_count(config, model: Model) -> int:
    """All seven weights, less those that the configuration does not fit: their reasons must say so."""
    if structural(config):
        return 2
    words = ("multiple", "divide", "divisible", "than it saves")
    unfit = [why for why in model.skipped.values() if any(word in why for word in words)]
    assert len(unfit) <= 4
    return 7 - len(unfit)


JOINT = [
    ("prune", Magnitude(target_sparsity=0.5), "palettize", Palettizer(nbits=4)),
    (
        "prune",
        Magnitude(target_sparsity=0.5),
        "palettize",
        Palettizer(nbits=3, granularity="per_grouped_channel", group_size=16),
    ),
    ("prune", Magnitude(target_sparsity=0.5), "palettize", Palettizer(nbits=4, cluster_dim=2)),
    ("prune", Magnitude(target_sparsity=0.5), "palettize", Palettizer(nbits=4, enable_per_channel_scale=True)),
    ("prune", Magnitude(target_sparsity=0.5), "palettize", Palettizer(nbits=4, lut_dtype="int8")),
    *(
        (
            "prune",
            Magnitude(target_sparsity=0.5),
            "quantize",
            Quantizer(dtype=dtype, mode=mode, granularity=g, block_size=8),
        )
        for dtype, mode, g in product(("int8", "uint4"), ("linear", "linear_symmetric"), ("per_channel", "per_block"))
    ),
    ("palettize", Palettizer(nbits=4), "quantize", Quantizer(granularity="per_tensor")),
    ("palettize", Palettizer(nbits=4), "quantize", Quantizer(granularity="per_tensor", mode="linear", dtype="uint8")),
    ("palettize", Palettizer(nbits=4, cluster_dim=2), "quantize", Quantizer(granularity="per_tensor")),
    ("palettize", Palettizer(nbits=4), "prune", Magnitude(target_sparsity=0.5)),
    ("quantize", Quantizer(), "palettize", Palettizer(nbits=4)),
    ("quantize", Quantizer(dtype="int4"), "palettize", Palettizer(nbits=3)),
    ("quantize", Quantizer(dtype="int4", mode="linear"), "prune", Magnitude(target_sparsity=0.5)),
]


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("first,one,second,two", JOINT)
def test_joint(package, first, one, second, two, dtype, tmp_path) -> None:
    half = FUNCTIONS[first](package("iOS18", dtype), everywhere(one))
    model = FUNCTIONS[second](half, everywhere(two), joint_compression=True)
    compressed = [w for w in model.weights() if w.compression]
    judge(model, tmp_path / "out.mlpackage", expect=len(compressed))
    # One weight is too thin for groups of its first axis, and stays as the first step left it.
    assert sum("+" in w.compression for w in compressed) >= 6


def inline(model: Model, keep_const: bool) -> Model:
    """The model with every weight as an immediate value, of a `const` or directly as an argument."""
    for weight in model.weights():
        weight.value.CopyFrom(immediate_value(np.array(weight.dense())))
    if not keep_const:
        for entry in model.spec.mlProgram.functions:
            for block in entry.value.block_specializations:
                constants = {
                    op.outputs[0].name: next(entry.value for entry in op.attributes if entry.key == "val")
                    for op in block.value.operations
                    if op.type == "const"
                }
                for op in block.value.operations:
                    for argument in op.inputs:
                        for binding in argument.value.arguments:
                            if binding.name in constants:
                                binding.value.CopyFrom(constants[binding.name])
                kept = [op for op in block.value.operations if op.type != "const"]
                copies = [type(op).FromString(op.SerializeToString()) for op in kept]
                del block.value.operations[:]
                block.value.operations.extend(copies)
    return model


@pytest.mark.parametrize("keep_const", [True, False])
@pytest.mark.parametrize("mode", [OLD_MODES[2], OLD_MODES[12], NEW_MODES[-1]], ids=name_of)
@pytest.mark.parametrize("target", ["iOS16", "iOS18"])
def test_inline_weights(package, target, mode, keep_const, tmp_path) -> None:
    kind, config = mode
    source = inline(load(package(target)).copy(), keep_const)
    if target == "iOS16" and config.nbits == 4 and kind == "quantize":
        with pytest.raises(corepress.ConfigError, match="iOS18"):
            FUNCTIONS[kind](source, everywhere(config))
        return
    judge(FUNCTIONS[kind](source, everywhere(config)), tmp_path / "out.mlpackage", expect=7)


def test_packages_that_coremltools_compressed_are_read_to_its_values(package, tmp_path) -> None:
    import coremltools as ct
    import coremltools.optimize.coreml as peer

    model = ct.models.MLModel(str(package("iOS18")), skip_model_load=True)
    config = peer.OptimizationConfig(peer.OpMagnitudePrunerConfig(target_sparsity=0.5))
    sparse = peer.prune_weights(model, config)
    made = {
        "sparse": sparse,
        "lut": peer.palettize_weights(model, peer.OptimizationConfig(peer.OpPalettizerConfig(nbits=3))),
        "groups": peer.palettize_weights(
            model,
            peer.OptimizationConfig(peer.OpPalettizerConfig(nbits=2, granularity="per_grouped_channel", group_size=8)),
        ),
        "vectors": peer.palettize_weights(
            model, peer.OptimizationConfig(peer.OpPalettizerConfig(nbits=2, cluster_dim=2))
        ),
        "int4": peer.linear_quantize_weights(
            model,
            peer.OptimizationConfig(
                peer.OpLinearQuantizerConfig(dtype="int4", mode="linear", granularity="per_block", block_size=8)
            ),
        ),
        "sparse lut": peer.palettize_weights(
            sparse, peer.OptimizationConfig(peer.OpPalettizerConfig(nbits=4)), joint_compression=True
        ),
        "sparse int8": peer.linear_quantize_weights(
            sparse, peer.OptimizationConfig(peer.OpLinearQuantizerConfig()), joint_compression=True
        ),
    }
    for name, compressed in made.items():
        path = tmp_path / f"{name}.mlpackage"
        compressed.save(str(path))
        expected = peer_weights(path)
        ours = {w.name: w for w in load(path).weights() if w.compression}
        assert len(ours) >= 5
        for weight in ours.values():
            np.testing.assert_array_equal(weight.dense(), expected[weight.name])
        dense = cto.decompress_weights(path)
        assert not any(w.compression for w in dense.weights())
        dense.save(tmp_path / f"{name}-dense.mlpackage")
        for key, value in peer_weights(tmp_path / f"{name}-dense.mlpackage").items():
            np.testing.assert_array_equal(value, expected[key])
