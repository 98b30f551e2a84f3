"""Our configurations drive the compression passes of `coremltools.convert`."""

from __future__ import annotations

import attrs
import numpy as np
import pytest

import corepress.coreml as cto
from corepress.coreml.interop import as_model
from corepress.errors import ConfigError

CONFIGS = [
    cto.OpPalettizerConfig(nbits=4),
    cto.OpPalettizerConfig(nbits=3, mode="uniform", granularity="per_grouped_channel", group_size=16, channel_axis=1),
    cto.OpPalettizerConfig(nbits=4, cluster_dim=2, enable_per_channel_scale=True, weight_threshold=None),
    *(cto.OpLinearQuantizerConfig(dtype=dtype) for dtype in ("int8", "uint8", "int4", "uint4")),
    cto.OpLinearQuantizerConfig(mode="linear", granularity="per_block", block_size=16),
    cto.OpThresholdPrunerConfig(threshold=0.1),
    cto.OpMagnitudePrunerConfig(target_sparsity=0.75),
    cto.OpMagnitudePrunerConfig(n_m_ratio=(2, 4)),
]


def plain(value):
    """Fields of theirs and of ours in one form."""
    name = getattr(value, "name", None) or getattr(value, "__name__", None) or value
    return str(name).lower()


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_each_field_arrives(config) -> None:
    given = cto.OptimizationConfig(None, {"conv": config, "gather": None}, {"head": config})
    theirs = cto.to_coremltools(given)
    assert theirs.global_config is None and theirs.op_type_configs["gather"] is None
    for found in (theirs.op_type_configs["conv"], theirs.op_name_configs["head"]):
        assert type(found).__name__ == type(config).__name__
        for field in attrs.fields(type(found)):
            value, expected = getattr(found, field.name), getattr(config, field.name)
            if field.name == "dtype":  # a class without a name of its own
                assert cto.OpLinearQuantizerConfig(dtype=value).dtype == expected
            else:
                assert plain(value) == plain(expected), field.name


def test_convert_compresses_as_configured() -> None:
    import coremltools as ct
    from coremltools.converters.mil.mil import Builder as mb

    @mb.program(input_specs=[mb.TensorSpec((1, 64))], opset_version=ct.target.iOS18)
    def program(x):
        weight = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
        return mb.linear(x=mb.linear(x=x, weight=weight, name="first"), weight=weight.T.copy(), name="second")

    config = cto.OptimizationConfig(cto.OpPalettizerConfig(nbits=4), op_name_configs={"second": None})
    pipeline = ct.PassPipeline.DEFAULT_PALETTIZATION
    pipeline.set_options("compression::palettize_weights", {"config": cto.to_coremltools(config)})
    model = ct.convert(program, pass_pipeline=pipeline, minimum_deployment_target=ct.target.iOS18, skip_model_load=True)
    kinds = [weight.compression for weight in as_model(model).weights() if weight.size >= 64 * 64]
    assert sorted(kinds) == ["", "palettized"]


def test_what_coremltools_lacks_is_refused() -> None:
    for config, word in (
        (cto.OpPalettizerConfig(nbits=4, lut_dtype="int8"), "lut_dtype"),
        (cto.OpLinearQuantizerConfig(scale_search=True), "scale_search"),
    ):
        with pytest.raises(ConfigError, match=word):
            cto.to_coremltools(cto.OptimizationConfig(config))
    with pytest.raises(ConfigError, match=r"decoder\.\*"):
        cto.to_coremltools(cto.OptimizationConfig(op_name_configs={"decoder.*": None}))
