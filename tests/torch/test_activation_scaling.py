"""`activation_aware_scale`: the scaled model answers the same, is rounded with less error, and converts."""

from __future__ import annotations

import copy
import logging

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from corepress.errors import ConfigError
from corepress.torch import layerwise_compression as layerwise
from corepress.torch.calls import Call
from corepress.torch.layerwise_compression.activation_scaling import scale_activations
from corepress.torch.quantization import PostTrainingQuantizer, PostTrainingQuantizerConfig
from tests.lazy import lazy
from tests.oracle import peer_weights

ct = lazy("coremltools")

# With scales that are searched, these layers gain nothing by scaling their inputs.
GPTQ4 = {"algorithm": "gptq", "weight_dtype": "uint4", "scale_search": False}
INT4 = {"weight_dtype": "int4"}


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


class Block(nn.Module):
    """Of a decoder: norms before attention and before a gated feed-forward network, both beside a residual."""

    def __init__(self, width: int = 32):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.RMSNorm(width)
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))
        self.up, self.gate, self.down = nn.Linear(width, 48), nn.Linear(width, 48, bias=False), nn.Linear(48, width)
        for norm in (self.norm1, self.norm2):  # some channels much larger than others, as in large language models
            nn.init.normal_(norm.weight).mul_(1.5).exp_()

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        q, k, v = (layer(y).unflatten(-1, (2, -1)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        mixed = torch.softmax(q @ k.transpose(-1, -2) * 0.02, -1) @ v
        x = x + self.o(mixed.transpose(1, 2).flatten(2))
        y = self.norm2(x)
        return x + self.down(self.up(y) * F.silu(self.gate(y)))


def decoder() -> nn.Module:
    with torch.no_grad():
        return nn.Sequential(Block(), Block()).eval()


def batches(count: int = 8) -> list[Tensor]:
    mixing = torch.randn(32, 32) / 6 + torch.eye(32)
    return [torch.randn(4, 12, 32) @ mixing for _ in range(count)]


def chop(weight: Tensor, _: Tensor) -> Tensor:
    """Three bits, one scale for each row."""
    scale = weight.abs().flatten(1).amax(1).reshape(-1, *[1] * (weight.ndim - 1)) / 3
    return (weight / scale).round() * scale


def scale(model: nn.Module, given: list[Tensor]):
    return scale_activations(model, [Call.of(batch) for batch in given], lambda parameter: chop)


class Residual(nn.Module):
    """The norm's output is also added to what the layer makes of it, as in BERT."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.layer = nn.LayerNorm(32), nn.Linear(32, 32)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        return y + self.layer(y)


class Twice(nn.Module):
    """One layer, called behind the norm and then again."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.layer = nn.LayerNorm(32), nn.Linear(32, 32)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.layer(self.norm(x)))


class Tied(nn.Module):
    """The last layer's weight is that of another one, which reads something else."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(32, 32), nn.LayerNorm(32), nn.Linear(32, 32)
        self.last.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.first(x)))


class Branching(nn.Module):
    """A forward that torch.fx can't capture."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.layer = nn.LayerNorm(32), nn.Linear(32, 8)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = self.norm(x)
        return {"answer": self.layer(y) if float(y.sum()) < 1e9 else y}


def images(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers).eval()


IMAGE = (4, 3, 8, 8)
# A model, the shape of its input, and the layers whose input can be scaled.
MODELS = {
    "decoder": (decoder, (2, 5, 32), {f"{i}.{name}" for i in range(2) for name in
                ("q", "k", "v", "o", "up", "gate", "down")}),
    "convolutions": (lambda: images(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3)), IMAGE, {"2"}),
    "batch norm": (lambda: images(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(2),
                   nn.Conv2d(8, 8, 3, padding=1, groups=4)), IMAGE, {"4"}),
    "flattened": (lambda: images(nn.Conv2d(3, 8, 3), nn.LeakyReLU(), nn.Flatten(), nn.Linear(288, 5)), IMAGE, {"3"}),
    "ReLU6": (lambda: images(nn.Conv2d(3, 8, 3), nn.ReLU6(), nn.Conv2d(8, 6, 3)), IMAGE, set()),
    "GELU": (lambda: images(nn.Linear(32, 16), nn.GELU(), nn.Linear(16, 8)), (7, 32), set()),
    "residual": (Residual, (7, 32), set()),
    "twice": (Twice, (7, 32), set()),
    "tied": (Tied, (7, 32), set()),
    "branching": (Branching, (7, 32), {"layer"}),
    "first": (lambda: images(nn.Linear(32, 8)), (7, 32), set()),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_it_answers_the_same_and_what_can_be_scaled_is(name: str, caplog: pytest.LogCaptureFixture) -> None:
    build, shape, expected = MODELS[name]
    model = build().eval().double()
    before = copy.deepcopy(model)
    magnitudes = torch.exp(torch.randn(shape[1:]))
    given = [(torch.randn(shape) * magnitudes).double() for _ in range(4)]
    with caplog.at_level(logging.WARNING):
        found = scale(model, given)
    assert {key.removesuffix(".weight") for key in found} == expected
    for batch in [*given, torch.randn(shape).double()]:
        answers = [out["answer"] if isinstance(out, dict) else out for out in (before(batch), model(batch))]
        torch.testing.assert_close(answers[1], answers[0], rtol=1e-6, atol=1e-6)  # scales are float32
    changed = [key for key, value in model.state_dict().items() if not torch.equal(value, before.state_dict()[key])]
    assert bool(changed) == any(scaling.alpha > 0 for scaling in found.values())
    layers = sum(isinstance(module, (nn.Linear, nn.Conv2d)) for module in model.modules())
    said = [record.getMessage() for record in caplog.records]
    assert said == [] if layers == len(expected) else f"{layers - len(expected)} of {layers}" in said[0]


def errors(model: nn.Module, keys: list[str], given: list[Tensor]) -> dict[str, float]:
    """The squared error of rounding each layer in its outputs, in float64 on its own inputs."""
    sums = dict.fromkeys(keys, 0.0)

    def watch(key: str) -> None:
        layer = model.get_submodule(key.removesuffix(".weight"))
        change = (chop(layer.weight, layer.weight) - layer.weight).detach().double()

        def hook(_: nn.Module, args: tuple[Tensor], output: Tensor) -> None:
            sums[key] += float((args[0].double() @ change.T).square().sum())

        layer.register_forward_hook(hook)

    for key in keys:
        watch(key)
    with torch.no_grad():
        for batch in given:
            model(batch)
    return sums


def test_errors_are_those_on_the_samples_and_none_grows() -> None:
    model, given = decoder(), batches()
    before = copy.deepcopy(model)
    found = scale(model, given)
    assert len(found) == 14 and sum(scaling.alpha > 0 for scaling in found.values()) > 8
    # Those that are alone with their input, and whose output nothing scales.
    alone = [f"{block}.{name}.weight" for block in range(2) for name in ("o", "down")]
    plain, scaled = errors(before, alone, given), errors(model, alone, given)
    vectors = sum(batch.numel() // 32 for batch in given)
    for key in alone:
        assert plain[key] * 2 / vectors == pytest.approx(found[key].plain_error, rel=1e-3)
        assert scaled[key] * 2 / vectors == pytest.approx(found[key].error, rel=1e-3)
        assert scaled[key] <= plain[key] * (1 + 1e-5)
    assert sum(scaled.values()) < sum(plain.values())


def gptq(model: nn.Module, given: list[Tensor], config: dict, **options) -> layerwise.LayerwiseCompressor:
    settings = layerwise.LayerwiseCompressorConfig.from_dict({"global_config": config} | options)
    return layerwise.LayerwiseCompressor(model, settings)


def distance(model: nn.Module, compressed: nn.Module) -> float:
    x = torch.cat(batches(4))
    with torch.no_grad():
        return float((compressed(x) - model(x)).square().sum())


@pytest.mark.parametrize("more", [{}, {"granularity": "per_block", "block_size": 16}, {"scale_search": True}])
def test_gptq_of_a_model_with_large_channels_answers_better(more: dict) -> None:
    model, given = decoder(), batches()
    before = copy.deepcopy(model.state_dict())
    plain = gptq(model, given, GPTQ4 | more).compress(iter(given))
    scaled = gptq(model, given, GPTQ4 | more | {"activation_aware_scale": True})
    small = scaled.compress(iter(given))  # which can be read but once
    assert distance(model, small) < 0.95 * distance(model, plain)
    assert len(scaled.report()) == 14 and not scaled.report().skipped
    assert {name: tuple(b.shape) for name, b in plain.named_buffers()} == {
        name: tuple(b.shape) for name, b in small.named_buffers()
    }
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_post_training_quantization_answers_better_with_data_and_asks_for_it() -> None:
    model, given = decoder(), batches()
    plain = PostTrainingQuantizer(model, PostTrainingQuantizerConfig.from_dict({"global_config": INT4})).compress()
    config = PostTrainingQuantizerConfig.from_dict({"global_config": INT4 | {"activation_aware_scale": True}})
    small = PostTrainingQuantizer(model, config).compress(dataloader=given)
    assert distance(model, small) < 0.9 * distance(model, plain)
    for missing in (None, []):
        with pytest.raises(ConfigError, match="give compress a dataloader"):
            PostTrainingQuantizer(model, config).compress(dataloader=missing)


def test_only_layers_that_ask_for_it_are_scaled() -> None:
    model, given = decoder(), batches(2)
    names = {r"0\.(up|gate)": GPTQ4 | {"activation_aware_scale": True}, r"1\..*": GPTQ4}
    small = gptq(model, given, None, module_name_configs=names).compress(given)
    changed = {
        name.removesuffix(".weight")
        for name, value in small.named_parameters()
        if name.endswith("weight") and not torch.equal(value, model.get_parameter(name))
    }
    quantized = {f"1.{name}" for name in ("q", "k", "v", "o", "up", "gate", "down")}
    assert changed == {"0.norm2", "0.up", "0.gate"} | quantized


def test_one_scale_for_a_whole_weight_is_not_spoilt_by_the_next_layer() -> None:
    model = nn.Sequential(nn.LayerNorm(32), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 8)).eval()
    model[0].weight.data, model[1].weight.data = (
        torch.randn(32).exp(),
        torch.randn(32, 32) * (1.5 * torch.randn(32, 1)).exp(),
    )
    given = batches(2)
    aware = GPTQ4 | {"activation_aware_scale": True}
    names = {"1": aware | {"granularity": "per_tensor"}, "3": aware}
    small = gptq(model, given, None, module_name_configs=names).compress(given)
    assert torch.equal(small[1].bias, model[1].bias)  # the norm can give a scale, the layer in the middle can't
    assert not torch.equal(small[0].weight, model[0].weight)


def test_weights_that_are_compressed_already_stay() -> None:
    given = [torch.randn(16, 32) for _ in range(2)]
    model = nn.Sequential(nn.LayerNorm(32), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 8)).eval()
    config = PostTrainingQuantizerConfig.from_dict({"module_name_configs": {"1": INT4}})
    model = PostTrainingQuantizer(model, config).compress()
    before = model[1].weight.clone()
    scale(model, given)  # neither as a layer nor as what a layer's input is made by
    assert torch.equal(model[1].weight, before)


def test_a_run_that_was_stopped_goes_on(tmp_path) -> None:
    model, given = decoder(), batches(3)
    config = GPTQ4 | {"activation_aware_scale": True}
    whole = gptq(model, given, config).compress(given)
    gptq(model, given, config).compress(given, checkpoint_dir=tmp_path)
    sorted(tmp_path.glob("stage-*.pt"))[-1].unlink()
    resumed = gptq(model, given, config).compress(given, checkpoint_dir=tmp_path)
    assert all(torch.equal(value, whole.state_dict()[key]) for key, value in resumed.state_dict().items())


def test_it_converts_to_what_the_buffers_say(tmp_path) -> None:
    model, given = decoder(), batches(2)
    small = gptq(model, given, GPTQ4 | {"activation_aware_scale": True}).compress(given)
    traced = torch.jit.trace(small, given[0])
    converted = ct.convert(
        traced,
        inputs=[ct.TensorType(shape=given[0].shape)],
        minimum_deployment_target=ct.target.iOS18,
        compute_precision=ct.precision.FLOAT32,
        skip_model_load=True,
    )
    converted.save(str(tmp_path / "net.mlpackage"))
    kinds = [
        op.type for op in converted.get_spec().mlProgram.functions["main"].block_specializations["CoreML8"].operations
    ]
    assert kinds.count("constexpr_blockwise_shift_scale") == 14
    written = list(peer_weights(tmp_path / "net.mlpackage").values())
    for name, parameter in small.named_parameters():
        if name.endswith("weight") and parameter.ndim == 2:
            wanted = parameter.detach().numpy()
            assert any(w.shape == wanted.shape and np.allclose(w, wanted, atol=1e-6) for w in written), name
