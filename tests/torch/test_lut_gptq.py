"""Palettization to the inputs of layers, on PyTorch models."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from torch import nn

import corepress
from corepress.errors import ConfigError
from corepress.runtime import load
from corepress.torch.layerwise_compression import LayerwiseCompressor, LayerwiseCompressorConfig
from corepress.torch.palettization import PostTrainingPalettizer, PostTrainingPalettizerConfig
from tests.lazy import lazy
from tests.oracle import peer_weights

ct = lazy("coremltools")


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, stride=2), nn.ReLU(), nn.Flatten(),
        nn.Linear(16 * 9, 24),
    ).eval()  # fmt: skip


def batches(seed: int) -> list[torch.Tensor]:
    """Images with a few strong directions."""
    bases = torch.randn(6, 3 * 8 * 8, generator=torch.Generator().manual_seed(9))
    generator = torch.Generator().manual_seed(seed)
    mixtures = [torch.randn(8, 6, generator=generator) @ bases for _ in range(8)]
    return [(x + 0.1 * torch.randn(x.shape, generator=generator)).view(-1, 3, 8, 8) for x in mixtures]


def fitted(model: nn.Module, **fields: object) -> tuple[nn.Module, LayerwiseCompressor]:
    config = LayerwiseCompressorConfig.from_dict({"global_config": {"algorithm": "lut_gptq", **fields}})
    compressor = LayerwiseCompressor(model, config)
    return compressor.compress(batches(0), "cpu"), compressor


FIELDS = [
    {"n_bits": 2},
    {"n_bits": 3, "granularity": "per_grouped_channel", "group_size": 8},
    {"n_bits": 4, "cluster_dim": 2},
    {"n_bits": 3, "lut_dtype": "int8"},
]


@pytest.mark.parametrize("fields", FIELDS, ids=str)
def test_answers_are_nearer_and_convert_to_the_same_values(fields: dict, tmp_path) -> None:
    model = net()
    compressed, compressor = fitted(model, **fields)
    plain = PostTrainingPalettizer(
        model, PostTrainingPalettizerConfig.from_dict({"global_config": fields})
    ).compress()  # fmt: skip
    with torch.no_grad():
        errors = [sum(float((m(x) - model(x)).square().sum()) for x in batches(1)) for m in (compressed, plain)]
    assert errors[0] < 0.8 * errors[1]
    assert list(compressor.report()) == ["0.weight", "2.weight", "5.weight"]

    image = batches(2)[0][:1]
    converted = ct.convert(
        torch.jit.trace(compressed, image),
        inputs=[ct.TensorType("image", image.shape)],
        outputs=[ct.TensorType("y")],
        minimum_deployment_target=ct.target.iOS18,
        compute_precision=ct.precision.FLOAT32,
        skip_model_load=True,
    )
    converted.save(str(tmp_path / "net.mlpackage"))
    package = corepress.load(tmp_path / "net.mlpackage")
    values = [weight for weight in package.weights() if "palettized" in weight.compression]
    assert len(values) == 3
    theirs = peer_weights(tmp_path / "net.mlpackage")
    for weight, layer in zip(values, (compressed[0], compressed[2], compressed[5]), strict=True):
        np.testing.assert_allclose(weight.dense(), layer.weight.detach().numpy(), rtol=1e-6, atol=1e-7)
        np.testing.assert_array_equal(weight.dense(), theirs[weight.output])
    answer = load(package).predict({"image": image.numpy()})["y"]
    np.testing.assert_allclose(answer, compressed(image).detach().numpy(), rtol=1e-4, atol=1e-4)


def test_layers_that_tables_do_not_fit_are_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 4, 3, groups=2), nn.Conv2d(4, 6, 3))
    config = {"algorithm": "lut_gptq", "granularity": "per_grouped_channel", "group_size": 4, "cluster_dim": 4}
    compressor = LayerwiseCompressor(model, LayerwiseCompressorConfig.from_dict({"global_config": config}))
    with caplog.at_level(logging.WARNING):
        compressed = compressor.compress([torch.randn(4, 4, 8, 8)], "cpu")
    assert all(torch.equal(a, b) for a, b in zip(compressed.parameters(), model.parameters(), strict=True))
    skipped = compressor.report().skipped
    assert "the 2 channels of its groups" in skipped["0.weight"]
    assert "don't divide its 6 channels" in skipped["1.weight"]


def test_a_depthwise_convolution_is_fitted_with_one_table() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(32, 32, 3, groups=32, padding=1))
    images = [torch.randn(4, 32, 1, 1) + 0.3 * torch.randn(4, 32, 8, 8) for _ in range(4)]
    of_ours = LayerwiseCompressorConfig.from_dict({"global_config": {"algorithm": "lut_gptq", "n_bits": 2}})
    small = LayerwiseCompressor(model, of_ours).compress(images, "cpu")
    config = {"global_config": {"n_bits": 2}}
    plain = PostTrainingPalettizer(model, PostTrainingPalettizerConfig.from_dict(config)).compress()
    assert len(small[0].weight.unique()) == 4
    test = torch.randn(8, 32, 1, 1) + 0.3 * torch.randn(8, 32, 8, 8)
    with torch.no_grad():
        errors = [float((other(test) - model(test)).square().sum()) for other in (small, plain)]
    assert errors[0] < 0.7 * errors[1]


def test_wrong_fields_are_refused() -> None:
    for fields, message in (
        ({"n_bits": 5}, "n_bits"),
        ({"group_size": 4}, "per_grouped_channel"),
        ({"lut_dtype": "int4"}, "lut_dtype"),
        ({"round": 3}, 'Did you mean "rounds"'),
    ):
        with pytest.raises(ConfigError, match=message):
            LayerwiseCompressorConfig.from_dict({"global_config": {"algorithm": "lut_gptq", **fields}})
