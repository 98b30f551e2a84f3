"""LinearQuantizer: observers, rounding, milestones, what is fused, and what it converts to."""

from __future__ import annotations

import copy
import io
import logging
import pickle
import warnings
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from corepress.runtime import load
from corepress.torch.metadata import read_weight
from corepress.torch.parameters import parameters
from corepress.torch.pruning import MagnitudePruner, MagnitudePrunerConfig
from corepress.torch.quantization import LinearQuantizer, LinearQuantizerConfig
from corepress.torch.quantization.fake_quantize import FakeQuantize
from corepress.torch.quantization.layers import FakeQuantizedLayer
from corepress.weights import Quantized, Sparse, decompress

pytestmark = pytest.mark.usefixtures("one_thread")

IMAGE = (1, 1, 12, 12)


class Net(nn.Module):
    """Every pattern in a few layers: a fused batch norm, pools, a sum, a concatenation, dropout, linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.conv3 = nn.Conv2d(8, 8, 3, padding=1)
        self.dense1, self.dense2 = nn.Linear(16 * 9, 32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.bn1(self.conv1(x)).relu(), 2)
        joined = torch.cat([F.relu(self.conv2(x)) + x, self.conv3(x).relu()], dim=1)
        hidden = F.relu(self.dense1(F.avg_pool2d(joined, 2).flatten(1)))
        return self.dense2(F.dropout(hidden, 0.1, training=self.training))


def quantizer_of(model: nn.Module, **options: Any) -> LinearQuantizer:
    return LinearQuantizer(model, LinearQuantizerConfig.from_dict({"global_config": options}))


def prepare(model: nn.Module, shape: tuple[int, ...] = IMAGE, **options: Any) -> fx.GraphModule:
    return quantizer_of(model, **options).prepare((torch.randn(shape),))


def net(seed: int = 0) -> Net:
    torch.manual_seed(seed)
    return Net()


def examples(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noisy pictures of ten kinds."""
    kinds = torch.randn(10, *IMAGE[1:], generator=torch.Generator().manual_seed(99))
    torch.manual_seed(seed)
    labels = torch.randint(10, (count,))
    return kinds[labels] + 0.1 * torch.randn(count, *IMAGE[1:]), labels


def train(model: nn.Module, steps: int, after: Any, optimizer: Any = None, start: int = 0) -> None:
    optimizer = optimizer or torch.optim.SGD(model.parameters(), 0.1)
    for step in range(start, start + steps):
        images, labels = examples(32, step)
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        after()


def operations(model: fx.GraphModule) -> list[str]:
    """The operations in order, a layer by its name, and "q" for a fake quantization."""
    names = []
    for node in model.graph.nodes:
        if node.op not in ("placeholder", "output"):
            quantizes = node.op == "call_module" and isinstance(model.get_submodule(node.target), FakeQuantize)
            names.append("q" if quantizes else node.name)
    return names


@pytest.mark.parametrize("scheme", ["symmetric", "affine"])
@pytest.mark.parametrize("weight_dtype", ["qint8", "quint8", "qint4", "quint4"])
def test_a_prepared_model_answers_as_that_of_coremltools(weight_dtype, scheme) -> None:
    peer = pytest.importorskip("coremltools.optimize.torch.quantization")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
    model.append(nn.Linear(100, 5))
    config = {"global_config": {"weight_dtype": weight_dtype, "quantization_scheme": scheme}}
    x = torch.randn(8, *IMAGE[1:])
    answers = []
    kinds = ((LinearQuantizer, LinearQuantizerConfig), (peer.LinearQuantizer, peer.LinearQuantizerConfig))
    for quantizer, kind in kinds:
        prepared = quantizer(copy.deepcopy(model), kind.from_dict(config)).prepare((x,))
        prepared(x)
        answers.append(prepared(2 * x).detach())
    # Of two integers that are equally near, as the largest of a weight has them, either may be taken.
    apart, span = (answers[0] - answers[1]).abs(), answers[0].max() - answers[0].min()
    assert apart.mean() < (0.001 if "8" in weight_dtype else 0.02) * span


# What is quantized, and where.

PATTERNS = {
    "conv-bn-relu": (lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU()), "q _0 _2 q"),
    "conv-transpose-bn": (lambda: nn.Sequential(nn.ConvTranspose2d(1, 4, 3), nn.BatchNorm2d(4)), "q _0 q"),
    "bn alone": (lambda: nn.Sequential(nn.BatchNorm2d(1), nn.ReLU()), "q _0 _1 q"),
    "linear-gelu": (lambda: nn.Sequential(nn.Linear(12, 4), nn.GELU()), "q _0 _1 q"),
    "sigmoid": (lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.Sigmoid()), "q _0 _1 q"),
    "pool": (lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3)), "q _0 _1 q _2 q"),
    "mean": (lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.AvgPool2d(2), nn.Conv2d(4, 4, 3)), "q _0 q _1 q _2 q"),
    "dropout": (lambda: nn.Sequential(nn.Linear(12, 4), nn.ReLU(), nn.Dropout(), nn.Linear(4, 4)), "q _0 _1 q _2 _3 q"),
}  # fmt: skip


@pytest.mark.parametrize("name", PATTERNS)
def test_patterns(name) -> None:
    build, expected = PATTERNS[name]
    assert operations(prepare(build())) == expected.split()


def test_functions_are_patterns_too() -> None:
    prepared = prepare(net())
    expected = (
        "q conv1 relu max_pool2d q conv2 relu_1 q add conv3 relu_2 cat q avg_pool2d flatten q dense1 relu_3 q dropout"
        " dense2 q"
    )
    assert [name.partition("dropout_")[0] or "dropout" for name in operations(prepared)] == expected.split()
    shared = [str(node.target) for node in prepared.graph.nodes if node.kwargs.get("observe") is False]
    assert len(shared) == 1 and len([n for n in prepared.graph.nodes if n.target == shared[0]]) == 2

    class Products(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.matmul(x, x.transpose(1, 2)).sigmoid() * (x - 1) + 0.5

    expected = "q transpose matmul sigmoid q sub q mul q add q"
    assert operations(prepare(Products(), (2, 4, 4))) == expected.split()


def test_values_that_cannot_be_negative_use_all_integers() -> None:
    prepared = prepare(net())
    prepared(torch.randn(4, *IMAGE[1:]))
    found = {m.members[0]: (m.symmetric, int(m.zero_point)) for m in prepared.modules() if getattr(m, "members", None)}
    assert found == {
        "x": (True, 128), "relu": (False, 0), "relu_1": (False, 0), "add": (False, 0), "relu_3": (False, 0),
        "dense2": (True, 128),
    }  # fmt: skip


def test_what_the_configuration_names_is_left_alone() -> None:
    config = LinearQuantizerConfig.from_dict(
        {
            "global_config": {},
            "module_type_configs": {"torch.cat": None, "Linear": {"activation_dtype": "float32"}},
            "module_name_configs": {"conv1": None, "conv3": {"weight_dtype": "float32"}},
        }
    )
    prepared = LinearQuantizer(net(), config).prepare((torch.randn(IMAGE),))
    wrapped = [name for name, module in prepared.named_modules() if isinstance(module, FakeQuantizedLayer)]
    assert wrapped == ["conv2", "dense1", "dense2"]
    assert operations(prepared)[:5] == ["conv1", "bn1", "relu", "max_pool2d", "q"]
    assert "q" not in operations(prepared)[operations(prepared).index("cat") :]


def test_a_named_block_is_left_alone_and_is_not_looked_into() -> None:
    class Branch(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(Branch(), nn.Linear(4, 4)), nn.Linear(4, 4))
    options = {"non_traceable_module_names": ["1.0"], "module_name_configs": {"1": None}, "global_config": {}}
    prepared = LinearQuantizer(model, LinearQuantizerConfig.from_dict(options)).prepare((torch.randn(2, 4),))
    assert operations(prepared) == ["q", "_0", "q", "_1_0", "_1_1", "q", "_2", "q"]


def test_milestones() -> None:
    quantizer = quantizer_of(net(), milestones=[1, 2, 3, 4])
    prepared = quantizer.prepare((torch.randn(IMAGE),))
    states = []
    for _ in range(6):
        module = prepared.conv1.weight_fake_quant
        states.append((module.observer_enabled, module.fake_quant_enabled, prepared.conv1.freeze_bn))
        quantizer.step()
    on, off = True, False
    assert states == [(off, off, off), (off, off, off), (on, off, off), (on, on, off), (off, on, off), (off, on, on)]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("cls", [nn.Conv2d, nn.ConvTranspose2d])
def test_a_folded_batch_norm_trains_and_answers_as_before(cls, bias) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(cls(3, 4, 3, bias=bias), nn.BatchNorm2d(4))
    prepared = prepare(model, (2, 3, 8, 8), milestones=[-1, -1, -1, -1])
    for _ in range(3):
        x = torch.randn(4, 3, 8, 8)
        torch.testing.assert_close(prepared(x), model(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(prepared.get_submodule("0").bn.running_mean, model[1].running_mean)
    torch.testing.assert_close(prepared.eval()(x), model.eval()(x), rtol=1e-4, atol=1e-5)


def test_functional_dropout_follows_the_mode() -> None:
    quantizer = quantizer_of(net(), milestones=[0, 0, 1, 1])
    prepared = quantizer.prepare((torch.randn(IMAGE),))
    train(prepared, 2, quantizer.step)
    x = torch.randn(4, *IMAGE[1:])
    prepared.eval()
    assert torch.equal(prepared(x), prepared(x))
    step = prepared.activation_post_process_5.scale.item()  # averages are often half-way between two integers
    torch.testing.assert_close(quantizer.finalize()(x), prepared(x), rtol=0, atol=2.1 * step)


# States and copies.


@pytest.mark.parametrize("algorithm", ["vanilla", "learnable"])
def test_a_state_resumes_training_bit_by_bit(algorithm) -> None:
    options = {"milestones": [0, 2, 5, 7], "algorithm": algorithm}

    def start() -> tuple[LinearQuantizer, nn.Module, torch.optim.Optimizer]:
        quantizer = quantizer_of(net(), **options)
        model = quantizer.prepare((torch.randn(IMAGE),))
        return quantizer, model, torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)

    quantizer, whole, optimizer = start()
    train(whole, 4, quantizer.step, optimizer)
    file = io.BytesIO()
    torch.save([whole.state_dict(), optimizer.state_dict()], file)
    train(whole, 5, quantizer.step, optimizer, start=4)

    file.seek(0)
    quantizer, resumed, optimizer = start()
    for target, state in zip((resumed, optimizer), torch.load(file), strict=True):
        target.load_state_dict(state)
    train(resumed, 5, quantizer.step, optimizer, start=4)
    expected = whole.state_dict()
    assert resumed.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in resumed.state_dict().items())


def test_copies_and_compiled_models_answer_alike() -> None:
    quantizer = quantizer_of(net())
    prepared = quantizer.prepare((torch.randn(IMAGE),))
    train(prepared, 2, quantizer.step)
    prepared.eval()
    x = torch.randn(4, *IMAGE[1:])
    twin = copy.deepcopy(prepared)
    read = pickle.loads(pickle.dumps(prepared))
    compiled = torch.compile(copy.deepcopy(prepared), backend="eager")
    answer = prepared(x)
    assert torch.equal(twin(x), answer) and torch.equal(compiled(x), answer)
    finished = quantizer.finalize()(x)
    assert torch.equal(read(x), answer) and torch.equal(quantizer.finalize(read)(x), finished)
    assert torch.equal(quantizer.finalize(twin)(x), finished)


def test_preserved_attributes_stay_and_methods_move_over() -> None:
    class Named(Net):
        def names(self) -> list[str]:
            return [name for name, _ in self.named_modules()]

    model = Named()
    model.labels = ["a", "b"]
    config = LinearQuantizerConfig.from_dict({"preserved_attributes": ["labels", "names", "nothing"]})
    quantizer = LinearQuantizer(model, config)
    prepared = quantizer.prepare((torch.randn(IMAGE),))
    for found in (prepared, quantizer.finalize()):
        assert found.labels == ["a", "b"] and "conv1" in found.names()
    assert "conv1.layer" in prepared.names()


@pytest.mark.parametrize("scheme", ["symmetric", "affine"])
def test_a_prepared_model_can_be_pruned_too(scheme) -> None:
    quantizer = quantizer_of(net(), quantization_scheme=scheme, milestones=[0, 0, 5, 5])
    model = quantizer.prepare(torch.randn(*IMAGE))
    pruner = MagnitudePruner(model, MagnitudePrunerConfig.from_dict({"global_config": {"target_sparsity": 0.75}}))
    pruner.prepare(inplace=True)
    optimizer = torch.optim.SGD(model.parameters(), 0.001)
    for _ in range(6):
        optimizer.zero_grad()
        model(torch.randn(4, *IMAGE[1:])).square().sum().backward()
        optimizer.step()
        quantizer.step()
        pruner.step()
    x = torch.randn(*IMAGE)
    expected = model.eval()(x)
    quantized = quantizer.finalize()
    assert (quantized(x) - expected).abs().max() < 0.03 * expected.abs().max()  # a step or two
    assert torch.equal(model(x), expected)  # the copy left it alone
    finished = pruner.finalize(quantized)
    assert torch.equal(finished(x), quantized(x))
    for parameter in parameters(finished):
        form = read_weight(parameter)
        assert isinstance(form, Sparse) and isinstance(form.values, Quantized)
        assert form.mask.mean() <= 0.25 and np.array_equal(decompress(form), parameter.value.detach().numpy())


def test_layers_that_share_a_weight_share_it_afterwards() -> None:
    model = nn.Sequential(nn.Embedding(8, 8), nn.Linear(8, 8, bias=False))
    model[1].weight = model[0].weight
    quantizer = quantizer_of(model)
    prepared = quantizer.prepare((torch.randint(0, 8, (2, 3)),))
    prepared(torch.randint(0, 8, (2, 3)))
    finished = quantizer.finalize()
    one, other = (finished.get_submodule(name).weight for name in "01")
    assert one is other
    for parameter in parameters(finished):
        np.testing.assert_array_equal(decompress(read_weight(parameter)), one.detach())


# Conversion.

CASES = [
    ({}, "iOS17"),
    pytest.param({"quantization_scheme": "affine", "weight_per_channel": False}, "iOS17", marks=pytest.mark.slow),
    pytest.param({"weight_dtype": "quint8", "activation_observer": "ema_min_max"}, "iOS18", marks=pytest.mark.slow),
    ({"weight_dtype": "qint4"}, "iOS18"),
    ({"weight_dtype": "qint4", "quantization_scheme": "affine", "algorithm": "learnable"}, "iOS18"),
    ({"weight_dtype": "quint4", "activation_dtype": "float32"}, "iOS18"),
]


@pytest.mark.parametrize("options, target", CASES, ids=str)
def test_a_trained_model_converts_and_answers_alike(options, target, tmp_path) -> None:
    ct = pytest.importorskip("coremltools")
    logging.getLogger("coremltools").setLevel(logging.ERROR)
    quantizer = quantizer_of(net(), milestones=[0, 1, 35, 35], **options)
    train(quantizer.prepare((torch.randn(IMAGE),)), 40, quantizer.step)
    finished = quantizer.finalize()
    for parameter in parameters(finished):
        form = read_weight(parameter)
        assert isinstance(form, Quantized) and form.bits == (4 if "int4" in str(options) else 8)

    x, _ = examples(1000, 1000)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = finished(x).numpy()
        converted = ct.convert(
            torch.jit.trace(finished, x),
            inputs=[ct.TensorType(name="x", shape=tuple(x.shape))],
            minimum_deployment_target=getattr(ct.target, target),
            compute_precision=ct.precision.FLOAT32,
            skip_model_load=True,
        )
    kinds = [op.op_type for op in converted._mil_program.functions["main"].operations]
    constexpr = "constexpr_affine_dequantize" if target == "iOS17" else "constexpr_blockwise_shift_scale"
    assert kinds.count(constexpr) == 5 and "batch_norm" not in kinds
    pairs = [kinds.count("quantize"), kinds.count("dequantize")]
    assert pairs == [0, 0] if options.get("activation_dtype") else min(pairs) >= 9
    converted.save(str(tmp_path / "model.mlpackage"))
    (answer,) = load(tmp_path / "model.mlpackage").predict({"x": x.numpy()}).values()
    assert np.abs(answer - expected).mean() < 0.01 * np.abs(expected).mean()
    # A value half-way between two integers falls to either side by the processor's last bit, and outputs move by a step
    # or two of theirs: only what leads by more is a choice that must be the same.
    steps = np.diff(np.unique(expected))
    second, best = np.sort(expected, axis=1)[:, -2:].T
    clear = best - second > 4.5 * max(steps[steps > 1e-6].min(), 1e-5)
    assert clear.mean() > 0.5 and (answer.argmax(1) == expected.argmax(1))[clear].all()
