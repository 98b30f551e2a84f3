"""What a call did not do is said: rules without effect, calls that compressed nothing or made the model larger."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest

import corepress
import corepress.coreml as cto
from corepress import recipe
from corepress.coreml import calibrated
from corepress.errors import ConfigError, Missed

INT8, NBITS4 = cto.OpLinearQuantizerConfig(), cto.OpPalettizerConfig(nbits=4)
SPARSE = cto.OpMagnitudePrunerConfig(target_sparsity=0.5)


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The warnings, but for those about single weights and spared constants."""
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("corepress")]
    return [m for m in ours if "left as it is" not in m and "spare_constants" not in m]


def config(names: Any = None, types: Any = None, held: Any = INT8) -> cto.OptimizationConfig:
    return cto.OptimizationConfig(held, types, names)


@pytest.mark.parametrize(
    ("names", "types", "words"),
    [
        ({"dens": None}, {}, ['op_name_configs "dens" has no effect: nothing in the model', '"dense"']),
        ({"conf*": INT8}, {}, ['"conf*" has no effect: nothing in the model matches it', '"conv"']),
        ({}, {"Linear": None}, ['op_type_configs "Linear" has no effect: nothing', '"linear"']),
        # It matches an operation, or a weight, which stays as it is all the same.
        ({"dense_bias_0": INT8}, {}, ['"dense_bias_0" is left alone: Core ML takes compressed weights of rank 2']),
        ({"embed": cto.OpLinearQuantizerConfig(weight_threshold=10**6)}, {}, ["is left alone: it has no more than"]),
        ({"x_*": INT8, "dense": None}, {}, ['"x_*" has no effect: nothing']),
        # What comes before it decides about all that it matches.
        ({"conv*": INT8, "conv_w*": None}, {}, ['"conv_w*" has no effect: op_name_configs "conv*" goes before it']),
        ({"dense": None}, {"linear": INT8}, ['"linear" has no effect: op_name_configs "dense" goes before it']),
    ],
)
def test_a_rule_without_effect_is_said_or_with_strict_refused(package, caplog, names, types, words) -> None:
    with caplog.at_level(logging.WARNING):
        cto.linear_quantize_weights(package(), config(names, types))
    (sentence,) = said(caplog)
    assert all(word in sentence for word in words), sentence
    with pytest.raises(ConfigError) as error:
        cto.linear_quantize_weights(package(), config(names, types), strict=True)
    assert str(error.value) == sentence


@pytest.mark.parametrize(
    ("names", "types"),
    [
        ({"dense": None}, {"conv": None, "matmul": INT8}),
        ({"conv_weight_0": INT8}, {}),
        ({"conv*": None, "dense*": INT8}, {"gather": None}),
        ({"dense_bias_0": None}, {"add": None}),  # obeyed, although they would be left alone anyway
    ],
)
def test_rules_with_an_effect_are_not_spoken_of(package, caplog, names, types) -> None:
    with caplog.at_level(logging.WARNING):
        model = cto.linear_quantize_weights(package(), config(names, types), strict=True)
    assert said(caplog) == [] and corepress.report(model).compressed


def test_every_function_knows_strict(package, caplog) -> None:
    for function, held in (
        (cto.palettize_weights, NBITS4), (cto.linear_quantize_weights, INT8), (cto.prune_weights, SPARSE),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match='"convv" has no effect'):
            function(package(), config({"convv": None}, held=held), strict=True)
    pytest.importorskip("torch")
    for fitted, held in (
        (calibrated.palettize_weights, NBITS4), (calibrated.linear_quantize_weights, INT8),
        (calibrated.prune_weights, SPARSE),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match='"convv" has no effect'):
            fitted(package(), config({"convv": None}, held=held), [], strict=True)
    with pytest.raises(ConfigError, match='"convv" has no effect'):
        eight = cto.OptimizationConfig(INT8, {"conv": None}, {"convv": None})
        cto.linear_quantize_activations(package(), eight, [], strict=True)


def test_a_recipe_speaks_in_its_own_words(package, caplog) -> None:
    steps = recipe.parse(
        {
            "steps": [
                {"prune": {"target_sparsity": 0.5}},
                {"quantize": {}, "names": {"dens": "skip"}, "ops": {"cov": "skip"}},
            ]
        }
    )
    with caplog.at_level(logging.WARNING):
        recipe.run(package(), steps)
    assert [m.split(" has no effect")[0] for m in said(caplog)] == [
        'step 2 (quantize), ops: "cov"', 'step 2 (quantize), names: "dens"',
    ]  # fmt: skip
    with pytest.raises(ConfigError, match='names: "dens"'):
        recipe.run(package(), steps, strict=True)


def test_what_belongs_to_one_granularity_is_not_inherited_by_another(caplog) -> None:
    step = {
        "palettize": {"nbits": 4, "granularity": "per_grouped_channel", "group_size": 16},
        "names": {"head*": {"nbits": 8, "granularity": "per_tensor"}, "tail": {"nbits": 6}},
    }
    with caplog.at_level(logging.WARNING):
        configs = recipe.parse({"steps": [step]}).steps[0].config
    assert said(caplog) == []
    assert configs is not None and configs.op_name_configs["tail"].group_size == 16  # type: ignore[union-attr]


def test_nothing_compressed_is_said_with_the_reason_and_the_way_out(package, caplog) -> None:
    big = cto.OpPalettizerConfig(nbits=4, weight_threshold=10**6)
    with caplog.at_level(logging.WARNING):
        model = cto.palettize_weights(package(), config(held=big))
    (sentence,) = said(caplog)
    assert sentence.startswith("no weight was compressed: the largest of 8, ")
    assert "conv_weight_0" in sentence or "up_weight" in sentence
    assert "(32x16x3x3), was left alone: it has no more than 1000000 elements (weight_threshold)." in sentence
    assert corepress.report(model).compressed == ()
    with pytest.raises(Missed, match="no weight was compressed"):
        cto.palettize_weights(package(), config(held=big), strict=True)


@pytest.mark.parametrize(
    ("second", "held", "hint"),
    [
        (cto.palettize_weights, NBITS4, "it is quantized already; joint_compression=True compresses it further"),
        (cto.linear_quantize_weights, INT8, "can't be compressed further: decompress_weights makes it dense first"),
    ],
)
def test_what_is_compressed_already_says_the_way_out(package, caplog, second, held, hint) -> None:
    once = cto.linear_quantize_weights(package(), config())
    with caplog.at_level(logging.WARNING):
        second(once, config(held=held))
    assert any("no weight was compressed" in sentence and hint in sentence for sentence in said(caplog))


def test_a_model_that_grew_is_said(package, caplog) -> None:
    dense = cto.OpMagnitudePrunerConfig(target_sparsity=0.0)
    with caplog.at_level(logging.WARNING):
        model = cto.prune_weights(package(), config(held=dense))
    (sentence,) = said(caplog)
    sizes = corepress.load(package()).size(), model.size()
    assert sizes[1] > sizes[0]
    assert f"the model did not become smaller: {sizes[0]:,} bytes before, {sizes[1]:,} after; " in sentence


def test_the_report_counts_what_this_run_did(package, tmp_path) -> None:
    first = cto.prune_weights(package(), cto.OptimizationConfig(None, {"conv": SPARSE, "linear": SPARSE}))
    pruned = corepress.report(first)
    saved = first.save(tmp_path / "pruned.mlpackage")
    assert corepress.report(saved) == pruned and len(pruned.compressed) == 2
    again = cto.linear_quantize_weights(
        corepress.load(saved.path), cto.OptimizationConfig(None, {"gather": INT8, "linear": INT8}), True
    )
    report = corepress.report(again)
    assert {row.compression for row in report.compressed} == {"quantized", "sparse+quantized"}
    assert [row.compression for row in report.compressed_before] == ["sparse"]
    assert report.to_dict()["compressed"] == 2 and report.to_dict()["compressed_before"] == 1
    assert report.largest_left is not None and report.largest_left.shape in ((32, 16, 3, 3), (1, 64, 64))
    dense = corepress.report(cto.decompress_weights(corepress.load(saved.path)))
    assert dense.compressed == () and len(dense.decompressed) == 2


def test_an_axis_that_a_weight_lacks_is_the_reason_to_leave_it_alone(package) -> None:
    grouped: dict[str, Any] = {"nbits": 4, "granularity": "per_grouped_channel", "group_size": 16}
    model = cto.palettize_weights(package(), config(held=cto.OpPalettizerConfig(**grouped, channel_axis=2)))
    kept = {row.name: row.skipped for row in corepress.report(model).skipped}
    assert kept["dense_weight_0"] == "it has 2 axes, and channel_axis 2 is none of them"
    last = cto.palettize_weights(package(), config(held=cto.OpPalettizerConfig(**grouped, channel_axis=-1)))
    assert {w.name: w.compression for w in last.weights()}["dense_weight_0"] == "palettized"


def test_what_does_not_divide_says_the_way_out(package) -> None:
    grouped = cto.OpPalettizerConfig(nbits=4, granularity="per_grouped_channel", group_size=32)
    blocks = cto.OpLinearQuantizerConfig(granularity="per_block", block_size=48)
    for function, held, words in (
        (cto.palettize_weights, grouped, "groups of 32 don't divide its 48 channels; smaller_group=True takes"),
        (cto.linear_quantize_weights, blocks, "blocks of 48 don't divide an axis of 64; smaller_block=True takes"),
    ):
        model = function(package(), config(held=held))
        assert any(row.skipped.startswith(words) for row in corepress.report(model).skipped)


@pytest.mark.parametrize(
    ("kind", "idle", "needed"),
    [
        (cto.OpPalettizerConfig, {"nbits": 4, "group_size": 16}, 'granularity="per_grouped_channel"'),
        (cto.OpPalettizerConfig, {"nbits": 4, "channel_axis": 1}, 'granularity="per_grouped_channel"'),
        (cto.OpPalettizerConfig, {"nbits": 4, "smaller_group": True}, 'granularity="per_grouped_channel"'),
        (cto.OpPalettizerConfig, {"nbits": 4, "restarts": 9}, "a cluster_dim above 1"),
        (cto.OpPalettizerConfig, {"nbits": 4, "mode": "uniform", "cluster_dim": 2}, "another mode"),
        (cto.OpLinearQuantizerConfig, {"block_size": 16}, 'granularity="per_block"'),
        (cto.OpLinearQuantizerConfig, {"smaller_block": True}, 'granularity="per_block"'),
    ],
)
def test_a_field_that_is_set_in_vain_is_warned_of(caplog, kind, idle, needed) -> None:
    with caplog.at_level(logging.WARNING):
        kind(**idle)
    name = list(idle)[-1]
    assert [m for m in said(caplog) if f'{kind.__name__} "{name}" has no effect: it needs {needed}' in m]
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        cto.OpPalettizerConfig(nbits=4, granularity="per_grouped_channel", group_size=16, channel_axis=0)
        cto.OpLinearQuantizerConfig(granularity="per_block", block_size=16, smaller_block=True)
        cto.OpPalettizerConfig(nbits=4)
    assert said(caplog) == []


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        (cto.OpThresholdPrunerConfig, {"threshold": float("inf")}),
        (cto.OpThresholdPrunerConfig, {"threshold": float("nan")}),
        (cto.OpThresholdPrunerConfig, {"threshold": -1.0}),
        (cto.OpMagnitudePrunerConfig, {"target_sparsity": float("nan")}),
        (cto.OpMagnitudePrunerConfig, {"n_m_ratio": (0, 0)}),
        (cto.OpPalettizerConfig, {"nbits": 4, "channel_axis": 99}),
        (cto.OpPalettizerConfig, {"nbits": 4, "channel_axis": -6}),
    ],
)
def test_values_without_a_meaning_are_refused(kind, arguments) -> None:
    with pytest.raises(ConfigError, match=list(arguments)[-1]):
        kind(**arguments)


def test_a_target_that_the_model_is_past_is_refused(package) -> None:
    for function, held in ((cto.linear_quantize_weights, INT8), (cto.prune_weights, SPARSE)):
        with pytest.raises(ConfigError, match="target iOS16 has no effect: the model is for iOS18 already"):
            function(package(), config(held=held), target="iOS16")
        assert function(package(), config(held=held), target="iOS18").spec_version == 9
    with pytest.raises(ConfigError, match="target iOS15 is too old: compressed weights need iOS16"):
        cto.prune_weights(package("iOS15"), config(held=SPARSE), target="iOS15")
    pytest.importorskip("torch")
    with pytest.raises(ConfigError, match="target iOS16 is too old: quantized activations need iOS17"):
        cto.linear_quantize_activations(package("iOS15"), config(), [], target="iOS16")


def test_a_rise_that_nobody_asked_for_is_warned_of(package, caplog) -> None:
    with caplog.at_level(logging.WARNING):
        raised = cto.linear_quantize_weights(package("iOS15"), config())
    (sentence,) = said(caplog)
    assert raised.spec_version == 7
    assert "raised from iOS15 to iOS16, which compressed weights need: it no longer runs on older" in sentence
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        cto.linear_quantize_weights(package("iOS15"), config(), target="iOS16")
        cto.linear_quantize_weights(package("iOS16"), config())
    assert said(caplog) == []


@pytest.mark.parametrize("method", ["palettize", "quantize", "gptq", "prune", "threshold", "joint"])
def test_constants_with_infinities_are_left_alone_by_every_method(mask_package, method) -> None:
    """A causal mask, -inf above the diagonal, read by a product so that nothing else spares it."""
    ways = {
        "palettize": lambda m: cto.palettize_weights(m, config(held=NBITS4)),
        "quantize": lambda m: cto.linear_quantize_weights(m, config()),
        "prune": lambda m: cto.prune_weights(m, config(held=SPARSE)),
        "threshold": lambda m: cto.prune_weights(m, config(held=cto.OpThresholdPrunerConfig(1e-3, 0.0))),
        "joint": lambda m: cto.linear_quantize_weights(cto.prune_weights(m, config(held=SPARSE)), config(), True),
        "gptq": lambda m: calibrated.linear_quantize_weights(m, config(), [{"x": np.eye(64, dtype=np.float16)[None]}]),
    }
    if method == "gptq":
        pytest.importorskip("torch")
    model = ways[method](mask_package)
    before = {w.name: w for w in corepress.load(mask_package).weights()}
    (mask,) = (w for w in model.weights() if not np.isfinite(before[w.name].dense()).all())
    assert not mask.compression and (mask.dense() == before[mask.name].dense()).all()
    assert "infinities or NaN" in model.skipped[mask.function, mask.output]
    assert any(w.compression for w in model.weights())


@pytest.fixture(scope="module")
def mask_package(tmp_path_factory: pytest.TempPathFactory):
    import coremltools as ct
    from coremltools.converters.mil.mil import Builder as mb
    from coremltools.converters.mil.mil import types

    rng = np.random.default_rng(0)

    @mb.program(input_specs=[mb.TensorSpec((1, 64, 64), types.fp16)], opset_version=ct.target.iOS18)
    def program(x):
        weight = (rng.standard_normal((64, 64)) * 0.1).astype(np.float16)
        mask = np.triu(np.full((64, 64), -np.inf, np.float16), 1)
        return mb.matmul(x=mb.add(x=mb.matmul(x=x, y=weight), y=x), y=mask)

    model = ct.convert(
        program, convert_to="mlprogram", minimum_deployment_target=ct.target.iOS18,
        compute_precision=ct.precision.FLOAT32, skip_model_load=True,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("mask") / "mask.mlpackage"
    model.save(str(path))
    return path


def test_bytes_do_not_depend_on_workers(package) -> None:
    pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    shapes = {"x": (1, 64), "image": (1, 16, 8, 8), "square": (1, 64, 64)}
    samples = [
        {**{name: rng.normal(size=shape).astype(np.float16) for name, shape in shapes.items()},
         "ids": rng.integers(0, 96, 3).astype(np.int32)}
        for _ in range(4)
    ]  # fmt: skip
    one, two = (
        calibrated.linear_quantize_weights(package(), config(), samples, held_back=0, workers=workers)
        for workers in (1, 2)
    )
    assert all((a.dense() == b.dense()).all() for a, b in zip(one.weights(), two.weights(), strict=True))
