"""PostTrainingQuantizer."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from corepress.torch.metadata import array_of, read_weight
from corepress.torch.parameters import parameters
from corepress.weights import Quantized, decompress
from tests.torch.models import KINDS, compress, make, optimizer
from tests.torch.test_palettizer import mixed, squared_error

MODES = [
    {"weight_dtype": dtype, "quantization_scheme": scheme} | granularity
    for dtype in ("int8", "uint8", "int4", "uint4")
    for scheme in ("symmetric", "affine")
    for granularity in (
        {"granularity": "per_tensor"},
        {"granularity": "per_channel"},
        {"granularity": "per_block", "block_size": 4},
        {"granularity": "per_block", "block_size": (2, 8)},
    )
]


@pytest.mark.parametrize("options", MODES, ids=lambda options: "-".join(map(str, options.values())))
def test_the_squared_error_is_no_larger_than_that_of_coremltools(options) -> None:
    peer = pytest.importorskip("coremltools.optimize.torch.quantization")
    model = mixed()
    config = peer.PostTrainingQuantizerConfig.from_dict({"global_config": options})
    theirs = peer.PostTrainingQuantizer(copy.deepcopy(model), config).compress()
    ours = compress("quantize", model, **options)
    # Integers come from one division there, and from a search for the nearest here.
    assert squared_error(model, ours) <= squared_error(model, theirs) * (1 + 1e-5)
    own, other = ours.state_dict(), theirs.state_dict()
    assert set(own) - set(other) == {"_COREML_/metadata_version"}  # which coremltools forgets here
    assert all(own[name].shape == value.shape for name, value in other.items())


@pytest.mark.parametrize("kind", KINDS)
def test_scales_belong_to_output_channels_and_blocks_to_input_channels(kind) -> None:
    for options, counts in (({}, (8, 1)), ({"granularity": "per_block", "block_size": 4}, (8, 4))):
        model, _ = make(kind)
        for parameter in parameters(compress("quantize", model, **options)):
            form = read_weight(parameter)
            assert isinstance(form, Quantized)
            np.testing.assert_array_equal(decompress(form), array_of(parameter.value))
            shape = form.shape
            assert form.scale.shape[parameter.output_axis] == shape[parameter.output_axis]
            blocks = 1 if counts[1] == 1 else shape[parameter.input_axis] // 4
            assert form.scale.shape[parameter.input_axis] == blocks


def test_a_search_for_the_scale_lowers_the_error() -> None:
    model = mixed()
    plain, searched = (compress("quantize", model, weight_dtype="int4", scale_search=flag) for flag in (False, True))
    assert squared_error(model, searched) < 0.95 * squared_error(model, plain)


def test_float32_leaves_a_module_alone() -> None:
    model = mixed()
    compressed = compress("quantize", model, weight_dtype="float32")
    assert squared_error(model, compressed) == 0
    assert not any("quantization" in name for name in compressed.state_dict())


def test_blocks_that_do_not_fit_are_a_reason() -> None:
    made = optimizer("quantize", mixed(), granularity="per_block", block_size=(0, 0))
    made.compress()
    assert not made.report() and len(made.report().skipped) == 3
    made = optimizer("quantize", nn.Linear(10, 4), granularity="per_block", block_size=3)
    model = made.compress()
    assert "weight" in made.report().skipped
    assert not any("COREML_/weight" in name for name in model.state_dict())


def test_unsupported_modules_named_in_a_configuration_are_left_alone() -> None:
    from corepress.torch.quantization import PostTrainingQuantizer, PostTrainingQuantizerConfig

    model = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8))
    config = PostTrainingQuantizerConfig.from_dict({"module_type_configs": {"LayerNorm": {}, "Linear": {}}})
    quantizer = PostTrainingQuantizer(model, config)
    compressed = quantizer.compress()
    assert set(quantizer.report()) == {"1.weight"}
    assert torch.equal(compressed[0].weight, model[0].weight)
