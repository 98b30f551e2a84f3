"""Models and short cuts for the tests of export quantization."""

from __future__ import annotations

import copy
import sys
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from corepress.torch.quantization import LinearQuantizerConfig
from tests.lazy import lazy

CoreMLQuantizer = lazy("corepress.torch.quantization", "CoreMLQuantizer")
specs = lazy("torchao.quantization.pt2e.quantizer")
pt2e = lazy("torchao.quantization.pt2e")
convert_pt2e = lazy("torchao.quantization.pt2e.quantize_pt2e", "convert_pt2e")
prepare_pt2e = lazy("torchao.quantization.pt2e.quantize_pt2e", "prepare_pt2e")
prepare_qat_pt2e = lazy("torchao.quantization.pt2e.quantize_pt2e", "prepare_qat_pt2e")

IMAGE = (2, 3, 8, 8)


class Fn(nn.Module):
    """A model of a function and the modules that it calls."""

    def __init__(self, function: Callable[..., Tensor], **modules: nn.Module):
        super().__init__()
        self.function = function
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def config_of(**options: Any) -> LinearQuantizerConfig:
    return LinearQuantizerConfig.from_dict({"global_config": options})


def prepare(model: nn.Module, x: Tensor, quantizer: Any = None, training: bool = False) -> fx.GraphModule:
    exported = torch.export.export(copy.deepcopy(model).train(training), (x,)).module()
    start = prepare_qat_pt2e if training else prepare_pt2e
    return start(exported, CoreMLQuantizer() if quantizer is None else quantizer)


def quantize(model: nn.Module, x: Tensor, quantizer: Any = None) -> fx.GraphModule:
    """After a calibration with one batch."""
    prepared = prepare(model, x, quantizer)
    prepared(x)
    return convert_pt2e(prepared)


def operations(prepared: fx.GraphModule) -> str:
    """The operations in order, "w" for a weight that is rounded, and a letter for each scale of activations."""
    words, letters = [], {}
    for node in prepared.graph.nodes:
        if node.op == "call_function":
            words.append(node.target.overloadpacket.__name__.rstrip("_"))
        elif node.op == "call_module" and isinstance(module := prepared.get_submodule(node.target), pt2e.FakeQuantize):
            is_weight = node.args[0].op == "get_attr" and node.args[0].target.endswith("weight")
            words.append("w" if is_weight else letters.setdefault(module, "abcdefgh"[len(letters)]))
    return " ".join(words)


def residual() -> nn.Module:
    layers = {"one": nn.Conv2d(3, 3, 3, padding=1), "two": nn.Conv2d(3, 3, 3, padding=1)}
    return Fn(lambda self, x: F.relu(self.two(F.relu(self.one(x))) + x), **layers)


def attention() -> nn.Module:
    def forward(self: nn.Module, x: Tensor) -> Tensor:
        return self.out((self.q(x) @ self.k(x).transpose(1, 2)).softmax(-1) @ self.v(x))

    return Fn(forward, **{name: nn.Linear(6, 6) for name in ("q", "k", "v", "out")})


def branches() -> nn.Module:
    def forward(self: nn.Module, x: Tensor) -> Tensor:
        joined = torch.cat([self.one(x).relu(), F.max_pool2d(self.two(x), 3, 1, 1)], 1)
        return self.head(F.avg_pool2d(joined, 2).flatten(1))

    return Fn(forward, one=nn.Conv2d(3, 3, 1), two=nn.Conv2d(3, 4, 1), head=nn.Linear(7 * 16, 5))


# Each with the shape of its input, and its operations.
S = nn.Sequential
PATTERNS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], str]] = {
    "conv": (lambda: S(nn.Conv2d(3, 4, 3)), IMAGE, "w a conv2d b"),
    "conv-bn": (lambda: S(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)), IMAGE, "w a conv2d b"),
    "conv-bn-relu": (lambda: S(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(True)), IMAGE, "w a conv2d relu b"),
    "conv1d-bn-elu": (lambda: S(nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4), nn.ELU()), (2, 3, 8), "w a conv1d elu b"),
    "conv3d-silu": (lambda: S(nn.Conv3d(3, 4, 3), nn.SiLU()), (1, 3, 4, 4, 4), "w a conv3d silu b"),
    "same padding": (lambda: S(nn.Conv2d(3, 4, 3, padding="same"), nn.ReLU6()), IMAGE, "w a conv2d hardtanh b"),
    "transposed": (
        lambda: S(nn.ConvTranspose2d(4, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU()),
        (2, 4, 8, 8),
        "w a conv_transpose2d relu b",
    ),
    "linear-bn-gelu": (lambda: S(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.GELU()), (4, 6), "w a linear gelu b"),
    "linear-tanh": (lambda: S(nn.Linear(6, 5), nn.Tanh()), (2, 4, 6), "w a linear tanh b"),
    "chain": (lambda: S(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6)), (2, 6), "w w a linear relu b linear c"),
    "residual": (residual, IMAGE, "w w a conv2d relu b conv2d c add relu d"),
    "matmul": (
        attention,
        (2, 4, 6),
        "w w w w a linear b linear c transpose c matmul d softmax e linear f matmul g linear h",
    ),
    "mul by a parameter": (
        lambda: Fn(lambda self, x: self.one(x) * self.two.weight + 0.5, one=nn.Linear(6, 6), two=nn.LayerNorm(6)),
        (2, 6),
        "w w a linear b mul c add d",
    ),
    "pools and reshaping": (
        lambda: S(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4)),
        IMAGE,
        "w w a conv2d relu b adaptive_avg_pool2d b flatten b linear c",
    ),
    "cat": (branches, IMAGE, "w w w a conv2d relu b conv2d b max_pool2d b cat b avg_pool2d b flatten b linear c"),
    "slices": (
        lambda: S(nn.Linear(6, 6), Fn(lambda self, x: x[1:] * x[0])),
        (6, 6),
        "w a linear b slice b select b mul c",
    ),
    "dropout": (
        lambda: S(nn.Linear(6, 6), nn.ReLU(), nn.Dropout(), nn.Linear(6, 6)),
        (2, 6),
        "w w a linear relu b dropout linear c",
    ),
    "between others": (
        lambda: S(nn.LayerNorm(6), nn.Flatten(), nn.Linear(24, 6), nn.Softmax(-1)),
        (2, 4, 6),
        "w layer_norm flatten a linear b softmax",
    ),
    "nothing": (lambda: S(nn.LayerNorm(6), nn.GELU(), nn.BatchNorm1d(4)), (2, 4, 6), "layer_norm gelu batch_norm"),
}


def example(name: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    build, shape, _ = PATTERNS[name]
    return build(), torch.randn(shape)


def peers_quantizer(monkeypatch: pytest.MonkeyPatch) -> Any:
    """coremltools' own, with torchao where it looks for what PyTorch 2.13 has no longer."""
    key, before = "quantization_annotation", "torch.ao.quantization"

    def is_annotated(nodes: list[fx.Node]) -> bool:
        return any(key in node.meta and node.meta[key]._annotated for node in nodes)

    def mark(nodes: list[fx.Node]) -> None:
        for node in nodes:
            node.meta.setdefault(key, specs.QuantizationAnnotation())._annotated = True

    for name, found in {
        "quantizer": {},
        "quantizer.quantizer": vars(specs),
        "quantizer.xnnpack_quantizer": {"_get_module_name_filter": specs.get_module_name_filter},
        "quantizer.xnnpack_quantizer_utils": {"_is_annotated": is_annotated, "_mark_nodes_as_annotated": mark},
        "pt2e": {},
        "pt2e.utils": vars(pt2e.utils),
    }.items():
        module = types.ModuleType(name)
        vars(module).update(found)
        monkeypatch.setitem(sys.modules, f"{before}.{name}", module)
    from coremltools.optimize.torch.quantization import LinearQuantizerConfig as Config
    from coremltools.optimize.torch.quantization import _annotation_config
    from coremltools.optimize.torch.quantization._coreml_quantizer import CoreMLQuantizer as Peer

    monkeypatch.setattr(_annotation_config, "_aoquant", types.SimpleNamespace(FakeQuantize=pt2e.FakeQuantize))
    return Peer(Config.from_dict({"global_config": {}}))
