"""What was compressed converts, to the same forms, values and answers."""

from __future__ import annotations

import itertools
import logging
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import corepress
from corepress.runtime import load
from corepress.torch.metadata import array_of, read_weight
from corepress.torch.parameters import parameters
from corepress.weights import CompressedWeight, Palettized, Quantized, decompress
from tests.lazy import lazy
from tests.oracle import peer_weights
from tests.torch.models import KINDS, compress, make, optimizer

ct = lazy("coremltools")

GROUPED = {"granularity": "per_grouped_channel", "group_size": 4}
# Method, options, and the first target whose operations hold the form.
PALETTIZED = [
    *(("palettize", {"n_bits": bits}, "iOS16") for bits in (1, 2, 4, 6, 8)),
    ("palettize", {"n_bits": 3}, "iOS18"),
    ("palettize", {"n_bits": 4} | GROUPED, "iOS18"),
    ("palettize", {"n_bits": 2, "channel_axis": 1} | GROUPED, "iOS18"),
    ("palettize", {"n_bits": 3, "cluster_dim": 2}, "iOS18"),
    ("palettize", {"n_bits": 2, "cluster_dim": 4, "channel_axis": 1}, "iOS18"),
    ("palettize", {"n_bits": 4, "enable_per_channel_scale": True}, "iOS18"),
    ("palettize", {"n_bits": 2, "enable_per_channel_scale": True} | GROUPED, "iOS18"),
    ("palettize", {"n_bits": 4, "lut_dtype": "int8"}, "iOS18"),
    ("palettize", {"n_bits": 4, "lut_dtype": "uint8"} | GROUPED, "iOS18"),
]
QUANTIZED = [
    ("quantize", {"weight_dtype": dtype, "granularity": granularity, "quantization_scheme": scheme}, target)
    for dtype, target in (("int8", "iOS16"), ("uint8", "iOS16"), ("int4", "iOS18"), ("uint4", "iOS18"))
    for granularity in ("per_tensor", "per_channel")
    for scheme in ("symmetric", "affine")
] + [
    ("quantize", {"weight_dtype": dtype, "granularity": "per_block", "block_size": size}, "iOS18")
    for dtype, size in (("int4", 8), ("uint4", 4), ("int8", (4, 8)), ("uint8", 16))
]
FORMS = PALETTIZED + QUANTIZED
NEWER = {"iOS16": "iOS17", "iOS17": "iOS18", "iOS18": "iOS18"}
FRONTENDS = ("trace", "export")


def covering() -> list[tuple[str, str, dict, str, str]]:
    """Each form once, each kind of module with three forms or more, both front ends and all targets."""
    cases = []
    for number, ((method, options, target), kind) in enumerate(zip(FORMS, itertools.cycle(KINDS))):
        frontend = FRONTENDS[(number // 2) % 2] if kind != "MultiheadAttention" else "export"
        cases.append((kind, method, options, target if number % 2 else NEWER[target], frontend))
    return cases


def identity(case: tuple[str, str, dict, str, str]) -> str:
    kind, _, options, target, frontend = case
    return "-".join([kind, *(str(value) for value in options.values()), target, frontend])


def convert(model: nn.Module, x: torch.Tensor, target: str, frontend: str, path: Path) -> str:
    """Write the package; the name of its input."""
    logging.getLogger("coremltools").setLevel(logging.ERROR)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(model, x) if frontend == "trace" else torch.export.export(model, (x,))
        program = traced if frontend == "trace" else traced.run_decompositions({})
        kind = np.int32 if x.dtype == torch.int32 else np.float32
        converted = ct.convert(
            program,
            inputs=[ct.TensorType(name="x", shape=tuple(x.shape), dtype=kind)] if frontend == "trace" else None,
            minimum_deployment_target=getattr(ct.target, target),
            compute_precision=ct.precision.FLOAT32,
            skip_model_load=True,
        )
    converted.save(str(path))
    return str(converted.get_spec().description.input[0].name)


def leaves(form: np.ndarray | CompressedWeight) -> list[np.ndarray]:
    """The arrays that a form is made of, but for a scale that is multiplied into its LUT in a package."""
    if isinstance(form, Palettized):
        return [form.indices, *leaves(form.lut)]
    if isinstance(form, Quantized) and isinstance(form.data, np.ndarray):
        # The converter drops an offset of zero.
        return [form.data, form.scale] + ([form.offset] if form.offset is not None and form.offset.any() else [])
    return []


def check(case: tuple[str, str, dict, str, str], path: Path) -> None:
    kind, method, options, target, frontend = case
    model, x = make(kind)
    method = optimizer(method, model, **options)
    compressed = method.compress()
    assert not method.report().skipped and len(method.report())
    name = convert(compressed, x, target, frontend, path)

    package = corepress.load(path)
    found = {w.dense().tobytes(): w.read() for w in package.weights() if not isinstance(w.read(), np.ndarray)}
    judged = {value.tobytes() for value in peer_weights(path).values()}
    held = [(read_weight(parameter), parameter) for parameter in parameters(compressed)]
    assert len(found) == len(held)
    for form, parameter in held:
        value = array_of(parameter.value)
        np.testing.assert_array_equal(decompress(form), value)
        assert value.tobytes() in judged, "coremltools decompresses it to other values"
        stored = found[value.tobytes()]
        if not options.get("enable_per_channel_scale"):  # which the package holds in the LUT
            for ours, theirs in zip(leaves(form), leaves(stored), strict=True):
                np.testing.assert_array_equal(ours.reshape(-1), theirs.reshape(-1))
    with torch.no_grad():
        expected = compressed(x).numpy()
    (answer,) = load(package).predict({name: x.numpy()}).values()
    np.testing.assert_allclose(answer, expected, atol=1e-4)


@pytest.mark.parametrize("case", covering(), ids=identity)
def test_a_compressed_model_converts(case, tmp_path) -> None:
    check(case, tmp_path / "model.mlpackage")


@pytest.mark.slow
@pytest.mark.parametrize("frontend", FRONTENDS)
@pytest.mark.parametrize("form", FORMS, ids=lambda form: "-".join(map(str, form[1].values())))
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_in_every_form_converts(kind, form, frontend, tmp_path) -> None:
    if (kind, frontend) == ("MultiheadAttention", "trace"):
        # In evaluation mode it is one fused operation that the converter does not know; otherwise it computes with
        # shapes, at which the converter fails under NumPy 2.4.
        pytest.skip("the converter can't read a traced MultiheadAttention")
    check((kind, *form, frontend), tmp_path / "model.mlpackage")


# coremltools 9.0 makes an operation of the scale, and then takes it for that of the LUT's integers; and its pass
# `canonicalize_quantized_lut_pattern` forgets the axis of the vectors.
@pytest.mark.parametrize("frontend", FRONTENDS)
@pytest.mark.parametrize("option", [{"enable_per_channel_scale": True}, {"cluster_dim": 2}], ids=str)
def test_the_converter_refuses_some_integer_luts_and_we_say_so(option, frontend, tmp_path, caplog) -> None:
    model, x = make("Linear")
    compressed = compress("palettize", model, lut_dtype="int8", **option)
    assert f"lut_dtype together with {next(iter(option))}" in caplog.text
    with pytest.raises(ValueError, match=r"same rank|Unsupported joint compression|vector_axis"):
        convert(compressed, x, "iOS18", frontend, tmp_path / "model.mlpackage")
