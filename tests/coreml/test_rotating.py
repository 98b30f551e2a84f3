"""Rotation of what flows between layers: answers stay, tails get shorter; what is not certain is refused by name."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import corepress
import corepress.coreml as cto
from corepress.coreml.rotating import rotate, rotation
from corepress.errors import UnsupportedError
from corepress.runtime import load
from tests.cli.test_cli import corepress as command
from tests.oracle import peer_weights
from tests.packages import saved

LENGTH, WIDTH, WORDS = 6, 48, 97


def network(norm: str, tied: bool) -> Any:
    """A small model as Llama is: embeddings, attention and a gated perceptron behind norms, and a head."""
    import torch
    from torch import Tensor, nn

    class Plain(nn.Module):
        """RMSNorm as Hugging Face writes it."""

        def __init__(self, width: int):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(width))

        def forward(self, x: Tensor) -> Tensor:
            return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5))

    made = {"plain": Plain, "rms_norm": lambda width: nn.RMSNorm(width, 1e-5), "layer_norm": nn.LayerNorm}[norm]

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = made(WIDTH), made(WIDTH)
            # Without a bias: coremltools gives all of these one of zeros, which readers and writers share.
            self.q, self.k, self.v, self.o = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(4))
            self.gate, self.up, self.down = nn.Linear(WIDTH, 64), nn.Linear(WIDTH, 64), nn.Linear(64, WIDTH)

        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            scores = (self.q(y) @ self.k(y).transpose(-1, -2)) * WIDTH**-0.5
            x = x + self.o(scores.softmax(-1) @ self.v(y))
            y = self.second(x)
            return x + self.down(nn.functional.silu(self.gate(y)) * self.up(y))

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.places = nn.Embedding(WORDS, WIDTH), nn.Parameter(torch.randn(1, LENGTH, WIDTH) * 0.3)
            self.blocks, self.norm = nn.Sequential(Block(), Block()), made(WIDTH)
            self.head = None if tied else nn.Linear(WIDTH, WORDS)

        def forward(self, ids: Tensor) -> Tensor:
            x = self.norm(self.blocks(self.words(ids) + self.places))
            return nn.functional.linear(x, self.words.weight) if self.head is None else self.head(x)

    torch.manual_seed(0)
    model = Model().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name or "first" in name or "second" in name:
                parameter.uniform_(0.3, 2)  # gains, and what is added behind them
        model.words.weight[:, :2] *= 12  # the directions of large numbers
    return model


def package(folder: Path, norm: str = "plain", tied: bool = True, precision: str = "FLOAT32") -> Path:
    import coremltools as ct
    import torch

    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(network(norm, tied), torch.zeros(1, LENGTH, dtype=torch.int32))
        converted = ct.convert(
            traced,
            inputs=[ct.TensorType("ids", (1, LENGTH), dtype=np.int32)],
            outputs=[ct.TensorType("logits", dtype=np.float32)],
            minimum_deployment_target=ct.target.iOS18,
            compute_precision=getattr(ct.precision, precision),
            skip_model_load=True,
        )
    path = folder / f"{norm}.mlpackage"
    converted.save(str(path))
    return path


def answers(model: Any) -> np.ndarray:
    program, random = load(model, precision="float32"), np.random.default_rng(1)
    given = [{"ids": random.integers(0, WORDS, (1, LENGTH)).astype(np.int32)} for _ in range(4)]
    return np.stack([program.predict(sample)["logits"] for sample in given])


@pytest.mark.parametrize("width", [1, 2, 6, 48, 64, 576])
def test_the_rotation_is_orthogonal_and_spreads_every_direction(width: int) -> None:
    turn = rotation(width)
    np.testing.assert_allclose(turn @ turn.T, np.eye(width), atol=1e-12)
    odd = width // (width & -width)
    assert np.abs(turn).max() <= np.sqrt(2 * odd / width) + 1e-12 or width == 1
    assert not np.array_equal(turn, rotation(width, seed=1)) or width < 3


def rotated(source: Path) -> tuple[corepress.Model, dict[str, Any], dict[str, Any]]:
    """A package, turned, which answers as before; and the values of its constants before and after."""
    turned = rotate(source)
    expected, found = answers(source), answers(turned)
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
    before, after = (
        {weight.output: weight.dense() for weight in model.weights()} for model in (corepress.load(source), turned)
    )
    return turned, before, after


def check_in_coremltools(turned: corepress.Model, after: dict[str, Any], folder: Path) -> None:
    """coremltools loads it, and reads these values."""
    turned.save(folder / "turned.mlpackage")
    for name, values in peer_weights(folder / "turned.mlpackage").items():
        if name in after:
            np.testing.assert_array_equal(values, after[name])


@pytest.mark.parametrize("tied", [True, False])
def test_answers_stay_and_all_of_the_stream_is_turned(tmp_path: Path, tied: bool) -> None:
    source = package(tmp_path, tied=tied)
    turned, before, after = rotated(source)
    changed = {name for name in before if name not in after or not np.array_equal(before[name], after[name])}
    # Words, places, of each block seven weights, a bias of what writes, two gains; the last gain, or that and the head.
    assert len(changed) == 2 + 2 * (7 + 1 + 2) + (1 if tied else 2), sorted(changed)
    # Large numbers no longer gather in two columns.
    table = max((name for name in before if before[name].shape == (WORDS, WIDTH)), key=lambda name: "words" in name)
    spread = [np.abs(values[table]).max() / np.sqrt((values[table] ** 2).mean()) for values in (before, after)]
    assert spread[1] < spread[0] / 2
    # It loads in coremltools, and takes a matrix more at most.
    check_in_coremltools(turned, after, tmp_path)
    assert turned.size() <= corepress.load(source).size() + 4 * WIDTH * WIDTH + 1024


def test_one_table_for_a_weight_loses_less_after_it(tmp_path: Path) -> None:
    source, errors = package(tmp_path, tied=False), []
    expected = answers(source)
    for model in (source, rotate(source)):
        config = cto.OptimizationConfig(cto.OpPalettizerConfig(nbits=3, weight_threshold=0))
        errors.append(np.square(answers(cto.palettize_weights(model, config, spare_constants=True)) - expected).sum())
    assert errors[1] < errors[0] * 0.8


def test_the_matrix_that_turns_back_is_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Unless its name is given, or all constants are asked for; the mark goes along with the file, through coremltools
    as well."""
    import coremltools as ct

    rotate(package(tmp_path)).save(tmp_path / "turned.mlpackage")
    ct.models.MLModel(str(tmp_path / "turned.mlpackage"), skip_model_load=True).save(str(tmp_path / "its.mlpackage"))
    options = cto.OpPalettizerConfig(nbits=4, weight_threshold=0)
    for path in (tmp_path / "turned.mlpackage", tmp_path / "its.mlpackage"):
        (added,) = (weight.name for weight in corepress.load(path).weights() if weight.shape == (WIDTH, WIDTH)
                    and weight.consumers[0].op_type == "matmul")  # fmt: skip
        for given, spare, expected in (
            ({}, None, False), ({}, True, False), ({}, False, True), ({added: options}, None, True)
        ):  # fmt: skip
            config = cto.OptimizationConfig(options, op_name_configs=given)
            report = corepress.report(cto.palettize_weights(path, config, spare_constants=spare))
            row = next(row for row in report.rows if row.name == added)
            assert bool(row.changed) is expected
            assert expected or "undoes a rotation" in row.skipped
            assert len(report.compressed) > 14


def test_norms_that_divide_by_the_largest_number_first(tmp_path: Path) -> None:
    """As coremltools writes RMSNorm: that number counts in epsilon, here 1e-5, and is at most the width in squares."""
    source = package(tmp_path, "rms_norm")
    expected, found = answers(source), answers(rotate(source))
    assert np.abs(found - expected).max() <= 1e-5 * WIDTH * np.abs(expected).max()


def test_half_precision_keeps_its_own_rounding(tmp_path: Path) -> None:
    source = package(tmp_path, precision="FLOAT16")
    expected, found = answers(source), answers(rotate(source))
    assert np.abs(found - expected).max() <= 2.0**-6 * np.abs(expected).max()


@pytest.mark.parametrize("tied", [True, False])
def test_layer_norms_keep_their_means(tmp_path: Path, tied: bool) -> None:
    """GPT-2's kind: norms that subtract the mean, multiply and add, before the layers; with a table that reads, too."""
    source = package(tmp_path, "layer_norm", tied=tied)
    turned, before, after = rotated(source)
    changed = {name for name in before if name not in after or not np.array_equal(before[name], after[name])}
    # As above, and what each norm adds.
    assert len(changed) == 2 + 2 * (7 + 1 + 4) + (2 if tied else 3), sorted(changed)
    check_in_coremltools(turned, after, tmp_path)


@pytest.mark.parametrize("width", [1, 2, 6, 48, 576])
def test_a_rotation_may_keep_the_mean(width: int) -> None:
    turn = rotation(width, keeps_mean=True)
    np.testing.assert_allclose(turn @ turn.T, np.eye(width), atol=1e-12)
    np.testing.assert_allclose(turn.sum(0), np.ones(width), atol=1e-10)
    assert np.abs(turn).max() <= 5 * width**-0.5


def test_norms_behind_the_layers_end_the_attempt(tmp_path: Path) -> None:
    """As in BERT: what they give flows on between the layers, with gains."""
    import coremltools as ct
    from coremltools.converters.mil.mil import Builder as mb
    from coremltools.converters.mil.mil import types

    rng = np.random.default_rng(0)
    words, weight = (rng.normal(size=shape).astype(np.float32) for shape in ((WORDS, WIDTH), (WIDTH, WIDTH)))
    gains = [rng.uniform(1, 2, WIDTH).astype(np.float32) for _ in range(2)]

    @mb.program(input_specs=[mb.TensorSpec((1, LENGTH), types.int32)], opset_version=ct.target.iOS18)
    def program(ids):
        x = mb.layer_norm(x=mb.gather(x=words, indices=ids, axis=0), axes=[-1], gamma=gains[0], beta=gains[1])
        return mb.linear(x=mb.add(x=x, y=mb.linear(x=x, weight=weight)), weight=weight)

    with pytest.raises(UnsupportedError, match="reads a product with gains"):
        rotate(saved(program, tmp_path / "behind.mlpackage"))


def test_compressed_weights_and_other_models_are_refused(tmp_path: Path) -> None:
    source = package(tmp_path)
    small = cto.palettize_weights(source, cto.OptimizationConfig(cto.OpPalettizerConfig(nbits=4)))
    with pytest.raises(UnsupportedError, match="no dense constant"):
        rotate(small)
    with pytest.raises(UnsupportedError, match="no table of embeddings"):
        rotate("examples/digits.mlpackage")


def test_the_same_seed_gives_the_same_weights(tmp_path: Path) -> None:
    source = package(tmp_path)
    one, other, third = rotate(source), rotate(source), rotate(source, seed=3)
    pairs = zip(one.weights(), other.weights(), third.weights(), strict=True)
    same = [(np.array_equal(a.dense(), b.dense()), np.array_equal(a.dense(), c.dense())) for a, b, c in pairs]
    assert all(first for first, _ in same) and not all(second for _, second in same)


def test_the_command(tmp_path: Path) -> None:
    source, out = package(tmp_path), tmp_path / "rotated.mlpackage"
    shown = command("rotate", source, "-o", out, "--seed", 3).stdout
    assert str(out) in shown
    for ours, its in zip(rotate(source, seed=3).weights(), corepress.load(out).weights(), strict=True):
        np.testing.assert_array_equal(ours.dense(), its.dense())
    refused = command("rotate", "examples/digits.mlpackage", "-o", tmp_path / "no.mlpackage", check=False)
    assert refused.returncode == 3 and "no table of embeddings" in refused.stderr
    assert not (tmp_path / "no.mlpackage").exists()
