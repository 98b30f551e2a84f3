"""Compressed forms as buffers of a module, and back."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from corepress.algorithms.linear import quantize
from corepress.algorithms.lut import quantize_lut
from corepress.algorithms.palettize import palettize
from corepress.torch.metadata import CompressionMetadata, form_of, metadata_of, read_weight
from corepress.torch.parameters import parameters
from corepress.weights import Palettized, Quantized, Sparse, decompress
from tests.torch.models import compress, mlp


@st.composite
def forms(draw):
    """A form of a small weight, of any kind that buffers can hold."""
    shape = draw(st.sampled_from([(8, 12), (4, 8, 3), (8, 4, 3, 3)]))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    weight = rng.normal(size=shape).astype(draw(st.sampled_from(["float32", "float16"])))
    mask = rng.random(shape) < 0.6 if draw(st.booleans()) else None
    if draw(st.booleans()):
        form = quantize(
            weight,
            dtype=draw(st.sampled_from(["int8", "uint8", "int4", "uint4"])),
            mode=draw(st.sampled_from(["linear", "linear_symmetric"])),
            block_sizes=[draw(st.sampled_from([0, 1, 2])), draw(st.sampled_from([0, 4])), *[0] * (len(shape) - 2)],
            mask=mask,
        )
    else:
        dim = draw(st.sampled_from([1, 2])) if mask is None else 1
        axis = draw(st.sampled_from([0, 1]))
        bits, group = draw(st.sampled_from([1, 2, 3, 4])), draw(st.sampled_from([0, 4]))
        form = palettize(weight, bits, channel_axis=axis, group_size=group, cluster_dim=dim, mask=mask)
        extra = draw(st.sampled_from(["", "lut", "scale"]))
        if extra == "lut":
            form = quantize_lut(form, weight, draw(st.sampled_from(["int8", "uint8"])), mask=mask)
        elif extra == "scale" and dim == 1:
            scale = rng.uniform(0.5, 2, (shape[0], *[1] * (len(shape) - 1))).astype(weight.dtype)
            form = Quantized(form, scale)
    return form if mask is None else Sparse(mask, form)


def core(form):
    """What holds the integers, and the scales around it."""
    scales = []
    if isinstance(form, Sparse):
        form = form.values
    if isinstance(form, Quantized) and isinstance(form.data, Palettized):
        scales.append(form.scale)
        form = form.data
    return form, scales


@settings(max_examples=150, deadline=None)
@given(forms())
def test_buffers_give_back_the_form(form) -> None:
    dense = decompress(form)
    again = form_of(metadata_of("weight", form), dense)
    np.testing.assert_array_equal(decompress(again), dense)
    assert type(again) is type(form)
    (ours, scales), (theirs, other_scales) = core(form), core(again)
    for scale, other in zip(scales, other_scales, strict=True):
        np.testing.assert_array_equal(scale, other)
    kept = dense != 0 if isinstance(form, Sparse) else np.ones(dense.shape, bool)
    if isinstance(ours, Palettized):
        np.testing.assert_array_equal(decompress(ours.lut), decompress(theirs.lut))
        assert ours.vector_axis == theirs.vector_axis
        if isinstance(ours.lut, Quantized):
            np.testing.assert_array_equal(ours.lut.data, theirs.lut.data)
            np.testing.assert_array_equal(ours.lut.scale, theirs.lut.scale)
        elif ours.cluster_dim == 1 and not scales:  # entries that coincide have several indices
            np.testing.assert_array_equal(ours.indices[kept], theirs.indices[kept])
    else:
        np.testing.assert_array_equal(ours.data[kept], theirs.data[kept])
        np.testing.assert_array_equal(ours.scale, theirs.scale)
        assert ours.bits == theirs.bits and ours.data.dtype == theirs.data.dtype
        assert (ours.offset is None) == (theirs.offset is None)


def test_buffers_replace_those_of_before_and_keep_their_types() -> None:
    module, weight = nn.Linear(12, 8), np.random.default_rng(0).normal(size=(8, 12)).astype(np.float32)
    metadata_of("weight", palettize(weight, 2)).register(module)
    metadata_of("weight", quantize(weight, dtype="uint4", mode="linear", block_sizes=[1, 4])).register(module)
    assert sorted(name for name in module.state_dict() if name.startswith("_COREML_")) == [
        f"_COREML_/weight/{name}"
        for name in ("compression_type", "quantization_n_bits", "quantization_scale", "zero_point")
    ]
    found = CompressionMetadata.from_state_dict(module.state_dict())["weight"]
    assert found.quantization_n_bits == 4 and found.compression_type == [3]
    assert found.quantization_scale.shape == (8, 3) and found.zero_point.dtype == torch.uint8


@pytest.mark.parametrize(
    ("method", "options"),
    [("palettize", {"n_bits": 3}), ("palettize", {"lut_dtype": "uint8"}), ("quantize", {"weight_dtype": "int4"})],
    ids=str,
)
def test_buffers_survive_copies_and_files(method, options, tmp_path) -> None:
    compressed = compress(method, mlp(), **options)
    expected = {p.key: read_weight(p) for p in parameters(compressed)}
    torch.save(compressed.state_dict(), tmp_path / "state.pt")
    states = [torch.load(tmp_path / "state.pt"), copy.deepcopy(compressed).state_dict()]
    safetensors = pytest.importorskip("safetensors.torch")
    safetensors.save_file(compressed.state_dict(), tmp_path / "state.safetensors")
    states.append(safetensors.load_file(tmp_path / "state.safetensors"))
    for state in states:
        again = compress(method, mlp(1), **options)  # which has the buffers for the state to go into
        again.load_state_dict(state)
        for parameter in parameters(again):
            form, before = read_weight(parameter), expected[parameter.key]
            assert type(form) is type(before)
            np.testing.assert_array_equal(decompress(form), decompress(before))
            assert form.nbytes == before.nbytes
