"""Every architecture of the zoo, converted by coremltools, gives PyTorch's answers."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

import corepress.coreml as cto
from corepress.runtime import load
from tests.runtime.zoo import NETWORKS


def convert(name: str, folder: Path, target: str, precision: str):
    import coremltools as ct

    torch.manual_seed(0)
    model, inputs = NETWORKS[name]()
    model.eval()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = model(*inputs.values())
        traced = torch.jit.trace(model, tuple(inputs.values()), check_trace=False)
        kinds = [
            ct.TensorType(key, value.shape, dtype=np.int32 if value.dtype == torch.int32 else np.float32)
            for key, value in inputs.items()
        ]
        converted = ct.convert(
            traced,
            inputs=kinds,
            outputs=[ct.TensorType("result", dtype=np.float32)],
            minimum_deployment_target=getattr(ct.target, target),
            compute_precision=getattr(ct.precision, precision),
            skip_model_load=True,
        )
    path = folder / f"{name}.mlpackage"
    converted.save(str(path))
    return path, model, {key: value.numpy() for key, value in inputs.items()}, expected.numpy()


def distance(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("target", ["iOS15", "iOS18"])
@pytest.mark.parametrize("name", NETWORKS)
def test_float32_answers_are_pytorchs(name, target, tmp_path) -> None:
    path, _, inputs, expected = convert(name, tmp_path, target, "FLOAT32")
    found = load(path).predict(inputs)["result"]
    assert found.shape == expected.shape and found.dtype == np.float32
    assert distance(found, expected) <= 1e-4


@pytest.mark.parametrize("name", NETWORKS)
def test_float16_programs_run_in_any_precision(name, tmp_path) -> None:
    path, _, inputs, expected = convert(name, tmp_path, "iOS17", "FLOAT16")
    assert distance(load(path).predict(inputs)["result"], expected) <= 0.03
    # Only the weights and inputs are rounded then.
    assert distance(load(path, precision="float32").predict(inputs)["result"], expected) <= 0.01


@pytest.mark.parametrize("name", ["resnet", "vit", "lstm_tagger", "unet"])
def test_a_compressed_package_answers_as_its_dense_weights_do(name, tmp_path) -> None:
    path, _, inputs, _ = convert(name, tmp_path, "iOS18", "FLOAT32")
    for config, compress in (
        (cto.OpPalettizerConfig(nbits=4, weight_threshold=10), cto.palettize_weights),
        (cto.OpLinearQuantizerConfig(weight_threshold=10), cto.linear_quantize_weights),
        (cto.OpMagnitudePrunerConfig(target_sparsity=0.5, weight_threshold=10), cto.prune_weights),
    ):
        small = compress(path, cto.OptimizationConfig(config))
        dense = cto.decompress_weights(small)
        np.testing.assert_array_equal(load(small).predict(inputs)["result"], load(dense).predict(inputs)["result"])
