"""CoreMLQuantizer: what PyTorch 2 export quantization rounds, with which numbers, and what it converts to."""

from __future__ import annotations

import logging
import sys
import types
import warnings
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from corepress.errors import CorepressError
from corepress.runtime import load
from corepress.torch.quantization import LinearQuantizerConfig
from tests.lazy import lazy
from tests.process import python
from tests.torch.pt2e import (
    IMAGE,
    PATTERNS,
    CoreMLQuantizer,
    Fn,
    S,
    config_of,
    example,
    operations,
    peers_quantizer,
    prepare,
    quantize,
    residual,
)

specs = lazy("torchao.quantization.pt2e.quantizer")
pt2e = lazy("torchao.quantization.pt2e")
convert_pt2e = lazy("torchao.quantization.pt2e.quantize_pt2e", "convert_pt2e")

ROUNDING = torch.ops.quantized_decomposed


@pytest.fixture(autouse=True)
def quiet_and_on_one_thread():
    """Small layers only wait for more; PyTorch and coremltools warn of each other's versions."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    logging.getLogger("coremltools").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", PATTERNS)
def test_patterns(name) -> None:
    assert operations(prepare(*example(name))) == PATTERNS[name][2]


@pytest.mark.parametrize(
    "name", [name for name in PATTERNS if "bn" not in name and name not in ("transposed", "nothing")]
)
def test_training_rounds_the_same_values(name) -> None:
    assert operations(prepare(*example(name), training=True)) == PATTERNS[name][2]


def test_a_value_that_is_read_twice_is_rounded_once() -> None:
    """The peer raises for a sum that is read behind its activation function and before it."""

    def forward(self: nn.Module, x: Tensor) -> Tensor:
        total = self.one(x) + self.one(x.relu())
        return self.two(F.relu(total)) + total

    model = Fn(forward, one=nn.Conv2d(3, 3, 1), two=nn.Conv2d(3, 3, 1))
    expected = "w w a conv2d b relu c conv2d d add e relu f conv2d g add h"
    assert operations(prepare(model, torch.randn(IMAGE))) == expected


# With which numbers.


def test_the_numbers_are_those_of_the_formula() -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(6, 5), torch.randn(3, 6)
    layer.weight.data[:, 0] = x[0, 0] = 4  # largest, so that it is cut off, not half-way between two integers
    weight, bias = (tensor.detach().double() for tensor in (layer.weight, layer.bias))
    step = weight.abs().amax(1, keepdim=True) / 127.5
    weight = (weight / step).round().clamp(-128, 127) * step
    step = x.double().abs().max() / 127.5
    y = ((x.double() / step).round().clamp(-128, 127) * step @ weight.T + bias).relu()
    step = y.max() / 255  # nothing is negative
    expected = (y / step).round() * step
    # Each of the six products, the bias and the last scale are rounded to float32, in an order that is the processor's.
    rounding = (6 + 4) * 2**-24 * (x.abs().double() @ weight.abs().T + bias.abs()).max().item()
    torch.testing.assert_close(quantize(S(layer, nn.ReLU()), x)(x).double(), expected, rtol=0, atol=rounding)


def scales(quantized: fx.GraphModule) -> list[tuple[float, int]]:
    kind = ROUNDING.quantize_per_tensor.default
    return [tuple(node.args[1:3]) for node in quantized.graph.nodes if node.target is kind]


def test_values_that_cannot_be_negative_use_all_integers() -> None:
    def forward(self: nn.Module, x: Tensor) -> Tensor:
        positive = F.relu(self.one(x)) + F.relu6(self.two(x))
        return self.two(F.max_pool2d(positive, 2)).sigmoid() + F.hardtanh(F.avg_pool2d(self.one(x), 2))

    model = Fn(forward, one=nn.Conv2d(3, 3, 1), two=nn.Conv2d(3, 3, 1))
    zero_points = [zero_point for _, zero_point in scales(quantize(model, torch.randn(IMAGE)))]
    assert zero_points == [128, 0, 0, 0, 0, 0, 128, 128, 128, 128]


def weights(quantized: fx.GraphModule) -> list[Tensor]:
    return [tensor for name, tensor in quantized.named_buffers() if name.startswith("_frozen_param")]


DTYPES = [("qint8", -128, 127), ("quint8", 0, 255), ("qint4", -8, 7), ("quint4", 0, 15)]


@pytest.mark.parametrize("dtype, low, high", DTYPES)
@pytest.mark.parametrize("scheme", ["symmetric", "affine"])
@pytest.mark.parametrize("per_channel", [True, False])
def test_types_and_schemes_of_weights(dtype, low, high, scheme, per_channel) -> None:
    torch.manual_seed(0)
    layer, x = nn.ConvTranspose2d(8, 6, 3), torch.randn(1, 8, 4, 4)
    layer.weight.data += 0.02
    options = {"weight_dtype": dtype, "quantization_scheme": scheme, "weight_per_channel": per_channel}
    quantized = quantize(S(layer), x, CoreMLQuantizer(config_of(activation_dtype="float32", **options)))
    (integers,) = weights(quantized)
    assert integers.dtype is (torch.int8 if low < 0 else torch.uint8)
    assert (int(integers.min()), int(integers.max())) == (low, high) or scheme == "symmetric"
    assert low <= int(integers.min()) and int(integers.max()) <= high
    if per_channel:  # each output channel, which is the second axis here, reaches one of the ends, or nearly
        reached = ((integers <= low + 1) | (integers >= high - 1)).transpose(0, 1).flatten(1).any(1)
        assert reached.all()
    # Half a step, and one for the end of the range that symmetric integers lack.
    error = (quantized(x) - layer(x)).abs().max()
    assert 0 < error < (0.02 if high - low == 255 else 0.3)


@pytest.mark.parametrize("observer", ["min_max", "moving_average_min_max", "ema_min_max"])
def test_observers(observer) -> None:
    """The range after two batches: the peer's parts of the way to the second."""
    blend = {"min_max": 1, "moving_average_min_max": 0.01, "ema_min_max": 0.1}[observer]
    model = S(nn.Linear(4, 4))
    config = config_of(activation_observer=observer, weight_observer=observer, weight_per_channel=False)
    prepared = prepare(model, torch.randn(2, 4), CoreMLQuantizer(config))
    for largest in (1.0, 3.0):
        prepared(torch.full((2, 4), largest))
    (step, zero_point), *_ = scales(convert_pt2e(prepared))
    assert zero_point == 128 and step == pytest.approx((1 + 2 * blend) / 127.5)


# As the peer.


class Everything(nn.Module):
    """What the peer quantizes."""

    def __init__(self) -> None:
        super().__init__()
        self.first = S(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2))
        self.one, self.two = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 1)
        self.gate = S(nn.AvgPool2d(2), nn.Flatten(2), nn.Linear(16, 8), nn.Sigmoid())
        self.last = S(nn.Conv2d(16, 8, 1), nn.Flatten(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = F.relu(self.one(x).relu() + self.two(x).relu())
        return torch.matmul(self.gate(x), self.last(x) * 0.5)


def rounded(prepared: fx.GraphModule) -> set[str]:
    """The values that are rounded where they are made."""
    notes = {node.name: node.meta.get("quantization_annotation") for node in prepared.graph.nodes}
    return {name for name, note in notes.items() if note is not None and note.output_qspec is not None}


@pytest.mark.slow
def test_the_values_and_weights_of_the_peer_with_less_error(monkeypatch) -> None:
    """It rounds values that can't be negative a second time where they are read, with half of the integers."""
    torch.manual_seed(0)
    model, x = Everything().eval(), torch.randn(16, 3, 16, 16)
    expected, found = model(x), {}
    pytest.importorskip("coremltools")
    for name, quantizer in (("ours", CoreMLQuantizer()), ("peer", peers_quantizer(monkeypatch))):
        prepared = prepare(model, x, quantizer)
        prepared(x)
        names, quantized = rounded(prepared), convert_pt2e(prepared)
        found[name] = names, weights(quantized), float((quantized(x) - expected).square().mean())
    assert found["ours"][0] == found["peer"][0] and len(found["ours"][0]) > 10
    for mine, theirs in zip(found["ours"][1], found["peer"][1], strict=True):
        assert torch.equal(mine, theirs)
    assert found["ours"][2] < found["peer"][2]


# What the configuration says.


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.dense = nn.Conv2d(3, 3, 1), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return torch.add(self.dense(self.conv(x)), 1)


ALL = "w w w w a conv2d b linear c add d conv2d e linear f add g"
LEFT_OUT = [
    ({"module_name_configs": {"0.conv": None}}, "w w w conv2d a linear b add c conv2d d linear e add f"),
    ({"module_name_configs": {r".\.dense": None}}, "w w a conv2d b linear c add d conv2d e linear f add g"),
    ({"module_name_configs": {"1": None}}, "w w a conv2d b linear c add d conv2d linear add"),
    ({"module_type_configs": {nn.Linear: None}}, "w w a conv2d b linear c add d conv2d e linear f add g"),
    ({"module_type_configs": {"Conv2d": None}}, "w w conv2d a linear b add c conv2d d linear e add f"),
    ({"module_type_configs": {Block: None}}, "conv2d linear add conv2d linear add"),
    ({"module_type_configs": {Block: None, nn.Linear: {}}}, "w w conv2d a linear b add conv2d c linear d add"),
    (
        {"module_type_configs": {Block: None}, "module_name_configs": {"1": {}}},
        "w w conv2d linear add a conv2d b linear c add d",
    ),
    ({"module_type_configs": {"torch.add": None}}, "w w w w a conv2d b linear c add d conv2d e linear f add"),
    ({"module_type_configs": {F.linear: None}}, ALL),  # it is a module that calls it
    ({}, ALL),
]


@pytest.mark.parametrize("levels, expected", LEFT_OUT, ids=str)
def test_what_the_configuration_names_is_left_alone(levels, expected) -> None:
    config = LinearQuantizerConfig.from_dict({"global_config": {}, **levels})
    assert operations(prepare(S(Block(), Block()), torch.randn(IMAGE), CoreMLQuantizer(config))) == expected


def test_one_configuration_can_be_alone() -> None:
    config = LinearQuantizerConfig.from_dict({"module_name_configs": {"1.conv": {"weight_dtype": "qint4"}}})
    prepared = prepare(S(Block(), Block()), torch.randn(IMAGE), CoreMLQuantizer(config))
    assert operations(prepared) == "w conv2d linear add a conv2d b linear add"


def test_weights_or_activations_alone() -> None:
    x = torch.randn(IMAGE)
    assert operations(prepare(residual(), x, CoreMLQuantizer(config_of(activation_dtype="float32")))) == (
        "w w conv2d relu conv2d add relu"
    )
    assert operations(prepare(residual(), x, CoreMLQuantizer(config_of(weight_dtype="float32")))) == (
        "a conv2d relu b conv2d c add relu d"
    )


def test_what_another_quantizer_has_annotated_stays() -> None:
    class Nothing(specs.Quantizer):
        def annotate(self, model: fx.GraphModule) -> fx.GraphModule:
            for node in model.graph.nodes:
                if node.name == "linear":
                    node.meta["quantization_annotation"] = specs.QuantizationAnnotation(_annotated=True)
            return model

        def validate(self, model: fx.GraphModule) -> None:
            pass

    both = specs.ComposableQuantizer([Nothing(), CoreMLQuantizer()])
    assert operations(prepare(S(nn.Linear(4, 4), nn.Linear(4, 4)), torch.randn(2, 4), both)) == "w linear a linear b"


# Training.


def train(model: nn.Module, shape: tuple[int, ...], steps: int) -> list[float]:
    optimizer, losses = torch.optim.SGD(model.parameters(), 0.5), []
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    for _ in range(steps):
        loss = (model(x) - 1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_a_prepared_model_trains_and_keeps_its_answers_when_converted() -> None:
    model, x = example("residual")
    prepared = prepare(model, x, training=True)
    before = {name: parameter.detach().clone() for name, parameter in prepared.named_parameters()}
    losses = train(prepared, IMAGE, 20)
    assert losses[-1] < 0.8 * losses[0]
    assert all(not torch.equal(parameter, before[name]) for name, parameter in prepared.named_parameters())
    pt2e.move_exported_model_to_eval(prepared)
    prepared.apply(lambda module: module.disable_observer() if isinstance(module, pt2e.FakeQuantize) else None)
    expected = prepared(x)
    torch.testing.assert_close(convert_pt2e(prepared)(x), expected, rtol=0, atol=1e-6)


# Conversion.

# With the numbers of `quantize` and of weights; one pair around a reshape is gone.
OPTIONS = [
    ("residual", {}, "iOS17", 4, 2),
    ("cat", {"weight_dtype": "quint8", "quantization_scheme": "affine"}, "iOS17", 7, 3),
    ("transposed", {"weight_per_channel": False}, "iOS17", 2, 1),
    ("matmul", {"weight_dtype": "qint4"}, "iOS18", 9, 4),
    ("conv1d-bn-elu", {"weight_dtype": "quint4", "quantization_scheme": "affine"}, "iOS18", 2, 1),
    ("chain", {"activation_dtype": "float32"}, "iOS17", 0, 2),
    ("mul by a parameter", {}, "iOS17", 4, 2),
]


def kinds_and_answer(quantized: fx.GraphModule, x: Tensor, target: str, folder: Any) -> tuple[Counter[str], np.ndarray]:
    ct = pytest.importorskip("coremltools")
    package = ct.convert(
        torch.export.export(quantized, (x,)).run_decompositions({}),
        inputs=[ct.TensorType(name="x", shape=tuple(x.shape))],
        minimum_deployment_target=getattr(ct.target, target),
        compute_precision=ct.precision.FLOAT32,
        skip_model_load=True,
    )
    package.save(str(folder / "model.mlpackage"))
    (answer,) = load(folder / "model.mlpackage").predict({"x": x.numpy()}).values()
    return Counter(op.op_type for op in package._mil_program.functions["main"].operations), answer


@pytest.mark.parametrize("name, options, target, pairs, layers", OPTIONS, ids=str)
def test_a_quantized_model_converts_and_answers_alike(name, options, target, pairs, layers, tmp_path) -> None:
    model, x = example(name)
    quantized = quantize(model.eval(), x, CoreMLQuantizer(config_of(**options)))
    kinds, answer = kinds_and_answer(quantized, x, target, tmp_path)
    constexpr = "constexpr_affine_dequantize" if target == "iOS17" else "constexpr_blockwise_shift_scale"
    assert kinds[constexpr] == layers
    assert kinds["quantize"] == pairs and kinds["dequantize"] >= pairs
    # The same integers; but where sums come out half-way between two, either may be taken.
    expected = quantized(x).detach().numpy()
    apart = np.abs(answer - expected)
    assert apart.max() <= 0.02 * np.ptp(expected) and apart.mean() <= 0.001 * np.ptp(expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["conv-bn-relu", "conv1d-bn-elu", "transposed", "linear-bn-gelu"])
def test_batch_norms_are_trained_and_converted(name, tmp_path) -> None:
    """Without a state for the count of batches, which torchao leaves in and iOS17 does not have."""
    model, x = example(name)
    prepared = prepare(model, x, training=True)
    losses = train(prepared, tuple(x.shape), 10)
    assert losses[-1] < losses[0]
    pt2e.move_exported_model_to_eval(prepared)
    prepared.apply(lambda module: module.disable_observer() if isinstance(module, pt2e.FakeQuantize) else None)
    expected = prepared(x).detach().numpy()
    kinds, answer = kinds_and_answer(convert_pt2e(prepared), x, "iOS17", tmp_path)
    assert kinds["constexpr_affine_dequantize"] == 1 and kinds["quantize"] == kinds["dequantize"] == 2
    assert np.abs(answer - expected).max() <= 0.02 * np.ptp(expected)


# Errors and warnings.


def test_without_torchao_one_sentence_says_so(monkeypatch) -> None:
    from corepress.torch.quantization import _coreml_quantizer

    monkeypatch.setattr(_coreml_quantizer, "_KIT", None)
    with pytest.raises(CorepressError, match=r"CoreMLQuantizer needs torchao: pip install 'corepress\[pt2e\]'"):
        CoreMLQuantizer()


def test_where_export_quantization_is_looked_for(monkeypatch) -> None:
    """In torchao, then in PyTorch, which had it up to 2.9."""
    from corepress.torch.quantization import _coreml_quantizer

    monkeypatch.setitem(sys.modules, "torchao.quantization.pt2e", None)  # an import of it fails
    monkeypatch.setitem(sys.modules, "torch.ao.quantization.quantizer", old := types.ModuleType("quantizer"))
    found = _coreml_quantizer._find_kit()
    assert found is not None and found.specs is old and found.observers is torch.ao.quantization
    monkeypatch.setitem(sys.modules, "torch.ao.quantization.quantizer", None)
    assert _coreml_quantizer._find_kit() is None


def test_torchao_is_not_imported_before_it_is_needed() -> None:
    code = "import sys, corepress.torch as torch; dir(torch.quantization); assert 'torchao' not in sys.modules"
    assert python(code).returncode == 0


def test_long_chains_of_sums_take_no_time() -> None:
    def doubled(self: nn.Module, x: Tensor) -> Tensor:
        for _ in range(40):  # 2 ** 40 ways from the end to the beginning
            x = x + x
        return x

    exported = CoreMLQuantizer().annotate(torch.export.export(Fn(doubled), (torch.randn(2),)).module())
    assert sum("quantization_annotation" in node.meta for node in exported.graph.nodes) == 40


def test_a_weight_that_is_computed_is_left_alone_with_a_warning(caplog) -> None:
    model = Fn(lambda self, x: F.linear(x, self.layer.weight.tanh()), layer=nn.Linear(4, 4, bias=False))
    with caplog.at_level(logging.WARNING):
        prepared = prepare(model, torch.randn(2, 4))
    assert operations(prepared) == "a tanh linear b"
    assert "linear: its weight is not quantized" in caplog.text


def test_learnable_scales_are_refused_in_words(caplog) -> None:
    with caplog.at_level(logging.WARNING):
        CoreMLQuantizer(config_of(algorithm="learnable"))
    assert "LinearQuantizer" in caplog.text
