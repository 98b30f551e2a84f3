"""Factors of channels move between weights: no answer changes, and channels of unlike size lose less in 8 bits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import corepress.coreml as cto
from corepress import ConfigError, load
from corepress.coreml.activations.channels import groups
from corepress.coreml.activations.equalizing import changed, equalized
from corepress.coreml.activations.quantize import quantized
from corepress.coreml.calibrated.constants import plain_constants, with_constants
from corepress.formats.mlprogram import Model
from corepress.formats.mlprogram.program import nodes
from corepress.runtime import load as run
from tests.coreml.activations.activation_nets import everywhere
from tests.coreml.activations.converted_nets import Attention, Closed, Convolutions, Gains, package, samples
from tests.coreml.activations.test_exceptions import snr

torch.set_num_threads(1)


def scaled(path: Path, spread: float, given: Sequence[Any] = samples(1)) -> tuple[Model, int]:
    """The package with random factors, 2**-`spread` to 2**`spread`, moved in each group, and how many groups it has."""
    model = load(path)
    program = run(model)
    weights = plain_constants(model, program, "main")
    found = list(groups(program, given[0], weights))
    torch.manual_seed(1)
    factors = [torch.exp2(spread * (2 * torch.rand(group.channels + 1) - 1)) for group in found]
    for factor in factors:
        factor[0] = 1
    values = {("main", weights[buffer].output): value for buffer, value in changed(program, found, factors).items()}
    return with_constants(model, values), len(found)


def worst(one, other, given) -> float:
    """The largest difference of an output, in parts of its largest number."""
    pairs = [(run(one).predict(sample), run(other).predict(sample)) for sample in given]
    return max(float(np.abs(a[name] - b[name]).max() / np.abs(a[name]).max()) for a, b in pairs for name in a)


@pytest.mark.parametrize(
    ("net", "count"),
    [
        *((Convolutions(nn.ReLU()), 2), (Convolutions(nn.LeakyReLU(0.1)), 2)),
        *((Attention(), 2), (Attention(fused=True), 2), (Gains(), 2)),
    ],
)
def test_any_factors_leave_the_answers_as_they_are(tmp_path, net, count) -> None:
    path = package(net, tmp_path)
    model, found = scaled(path, 1)
    assert found == count
    # Three roundings of each number of a weight, and sums of up to 65 products with them.
    assert worst(path, model, samples(3)) < 65 * 2**-23


@pytest.mark.slow  # coremltools takes long over lengths that are left open
def test_inputs_of_any_length_get_the_same_answers(tmp_path) -> None:
    path = package(Attention(length=-1), tmp_path, lengths=64)
    model, found = scaled(path, 1, samples(1, shape=(1, 16, 16)))
    assert found == 2
    for length in (1, 7, 64):
        # As above, and a sum of up to 64 rows by the attention.
        assert worst(path, model, samples(1, shape=(1, length, 16))) < (65 + 64) * 2**-23
    given = [sample for length in (3, 16, 40) for sample in samples(2, shape=(1, length, 16))]
    chosen = equalized(load(path), given)
    assert chosen is not None and worst(path, chosen, given) < (65 + 64) * 2**-23


def test_where_something_else_reads_a_value_nothing_moves(tmp_path) -> None:
    model = load(package(Closed(), tmp_path))
    assert equalized(model, samples(2)) is None


def test_a_clip_keeps_what_it_clips(tmp_path) -> None:
    path = package(Convolutions(nn.ReLU6()), tmp_path)
    (one, *_) = (node for node in nodes(load(path).spec) if node.type in ("clip", "relu6"))
    given = samples(8)
    values: list[np.ndarray] = []
    program = run(path)
    for sample in given:
        program.predict(sample, observe=lambda name, value: values.append(value) if name == one.name else None)
    reach = np.abs(torch.cat(values).numpy()).max((0, 2, 3))
    assert (reach == 6).any() and (reach < 1).any()  # some channels are clipped, others have room
    model = equalized(load(path), given)
    assert model is not None and worst(path, model, given) < 65 * 2**-23


@pytest.mark.parametrize("net", [Convolutions(nn.ReLU()), Attention()])
def test_channels_of_unlike_size_lose_less(tmp_path, net) -> None:
    path = package(net, tmp_path, spread=0)
    model, _ = scaled(path, 3)
    given, others = samples(16), samples(8, seed=1)
    config = cto.OptimizationConfig(cto.OpLinearQuantizerConfig(weight_threshold=0))

    def found(equalize: bool) -> float:
        w8a8, _ = quantized(
            model, everywhere(mode="linear"), given, equalize=equalize,
            compress=lambda start: cto.linear_quantize_weights(start, config),
        )  # fmt: skip
        return snr(path, w8a8, others)

    assert found(True) > found(False) + 6


def test_a_search_takes_it_where_it_helps_and_biases_follow(tmp_path) -> None:
    path = package(Convolutions(nn.ReLU()), tmp_path, half=True)
    given, others = samples(20), samples(8, seed=1)
    options = {"exceptions": "auto", "min_snr": 20}
    model, found = quantized(load(path), everywhere(mode="linear"), given, equalize="auto", **options)
    assert found is not None and found.way.equalized and "equalized channels" in found.way.words
    _, other = quantized(load(path), everywhere(mode="linear"), given, **options)
    assert other is not None and len(found.left) <= len(other.left)
    assert snr(path, model, others) > 19
    corrected, _ = quantized(load(path), everywhere(mode="linear"), given, equalize=True, bias_correction=True)
    assert snr(path, corrected, others) > 19


def test_what_it_can_not_do_is_said(tmp_path, caplog) -> None:
    path = package(Closed(), tmp_path)
    with pytest.raises(ConfigError, match="equalize: auto needs a search"):
        cto.experimental.linear_quantize_activations(path, everywhere(), samples(1), equalize="auto")
    cto.experimental.linear_quantize_activations(path, everywhere(), samples(1), equalize=True)
    assert "equalize has no effect" in caplog.text
