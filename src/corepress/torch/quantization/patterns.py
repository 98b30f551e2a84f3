"""The table of what is quantized: which operations take and give integers in Core ML, and which are fused.

Add a line to quantize one more operation; nothing else knows their names. Those of `torch.ops.aten` are what graphs of
`torch.export` consist of.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from corepress.torch.quantization.layers import FakeQuantizedLayer


class Role(Enum):
    """What an operation means for the integers that go in and come out.

    weighted: multiplies by a weight; a batch norm and an activation function behind it are fused.
    joins: combines values; an activation function behind it is fused.
    normalizes: as `joins`, of one value.
    activates: applies a function to each value.
    moves: gives values that went in, so that they keep scale and zero point, and rounding may come before or after.
    averages: gives values between those that went in, which therefore share their scale and zero point.
    passes: does nothing in evaluation.
    looks_up: an embedding, whose weight is quantized, and nothing else.
    """

    weighted = "weighted"
    joins = "joins"
    normalizes = "normalizes"
    activates = "activates"
    moves = "moves"
    averages = "averages"
    passes = "passes"
    looks_up = "looks_up"


@dataclass(frozen=True)
class Rule:
    """The role of some operations: classes of modules, functions, and names of methods of tensors.

    non_negative: whatever comes in. keeps_sign: non-negative if all that comes in is. fixed: scale and zero point of
    results whose range is known.
    """

    role: Role
    kinds: tuple[Any, ...]
    non_negative: bool = False
    keeps_sign: bool = False
    fixed: tuple[float, int] | None = None


_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
# A convolution and the batch norm that can be folded into it.
FOLDED = dict(zip(_CONVOLUTIONS, _BATCH_NORMS * 2, strict=True))

_aten: Any = torch.ops.aten

# fmt: off
TABLE = (
    Rule(Role.weighted, (
        *_CONVOLUTIONS, nn.Linear, F.conv1d, F.conv2d, F.conv3d, F.linear,
        F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d,
        _aten.conv1d, _aten.conv2d, _aten.conv3d, _aten.linear,
        _aten.conv_transpose1d, _aten.conv_transpose2d, _aten.conv_transpose3d,
    )),
    Rule(Role.looks_up, (nn.Embedding,)),
    Rule(Role.joins, (
        operator.add, operator.iadd, torch.add, "add", "add_", operator.mul, operator.imul, torch.mul, "mul", "mul_",
        operator.matmul, torch.matmul, torch.bmm, "matmul", "bmm",
        _aten.add, _aten.add_, _aten.mul, _aten.mul_, _aten.matmul, _aten.bmm,
    ), keeps_sign=True),
    Rule(Role.joins, (operator.sub, operator.isub, torch.sub, "sub", "sub_", torch.einsum)),
    Rule(Role.normalizes, (*_BATCH_NORMS, _aten.batch_norm)),
    Rule(Role.activates, (
        nn.ReLU, nn.ReLU6, F.relu, F.relu_, F.relu6, torch.relu, torch.relu_, "relu", "relu_",
        _aten.relu, _aten.relu_, _aten.relu6, _aten.relu6_,
    ), non_negative=True),
    Rule(Role.activates, (
        nn.Sigmoid, nn.Hardsigmoid, nn.Softmax, F.sigmoid, F.hardsigmoid, F.softmax, torch.sigmoid, torch.softmax,
        "sigmoid", "softmax", _aten.sigmoid, _aten.sigmoid_, _aten.hardsigmoid, _aten.hardsigmoid_,
    ), non_negative=True, fixed=(1 / 256, 0)),
    Rule(Role.activates, (nn.Tanh, F.tanh, torch.tanh, "tanh", _aten.tanh, _aten.tanh_), fixed=(2 / 256, 128)),
    Rule(Role.activates, (
        nn.PReLU, nn.RReLU, nn.LeakyReLU, nn.LogSigmoid, nn.SiLU, nn.ELU, nn.CELU, nn.SELU, nn.GLU, nn.Mish, nn.GELU,
        nn.Hardtanh, nn.LogSoftmax, nn.Hardswish,
        F.prelu, F.rrelu, F.rrelu_, F.leaky_relu, F.leaky_relu_, F.logsigmoid, F.silu, F.elu, F.elu_, F.celu, F.celu_,
        F.selu, F.selu_, F.glu, F.mish, F.gelu, F.hardtanh, F.hardtanh_, F.log_softmax, F.hardswish, torch.exp2,
        _aten.leaky_relu, _aten.leaky_relu_, _aten.silu, _aten.silu_, _aten.elu, _aten.elu_, _aten.celu, _aten.celu_,
        _aten.selu, _aten.selu_, _aten.mish, _aten.mish_, _aten.hardtanh, _aten.hardtanh_, _aten.hardswish,
        _aten.hardswish_, _aten.gelu, _aten.log_sigmoid,
    )),
    Rule(Role.moves, (
        torch.cat, torch.concat, nn.Identity, nn.Flatten, nn.Unflatten, torch.flatten, torch.reshape, torch.permute,
        torch.transpose, torch.squeeze, torch.unsqueeze,
        "flatten", "reshape", "view", "permute", "transpose", "squeeze", "unsqueeze", "contiguous",
        nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, F.max_pool1d, F.max_pool2d, F.max_pool3d,
        torch.max_pool1d, torch.max_pool2d, torch.max_pool3d, nn.AdaptiveMaxPool2d, F.adaptive_max_pool2d,
        _aten.cat, _aten.flatten, _aten.unflatten, _aten.reshape, _aten.view, _aten.permute, _aten.transpose,
        _aten.squeeze, _aten.unsqueeze, _aten.contiguous, _aten.slice, _aten.select,
        _aten.max_pool1d, _aten.max_pool2d, _aten.max_pool3d,
    ), keeps_sign=True),
    Rule(Role.averages, (
        nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, F.avg_pool1d, F.avg_pool2d, F.avg_pool3d, torch.avg_pool1d,
        nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, F.adaptive_avg_pool1d, F.adaptive_avg_pool2d,
        F.adaptive_avg_pool3d, torch.adaptive_avg_pool1d, torch.mean, "mean",
        _aten.avg_pool1d, _aten.avg_pool2d, _aten.avg_pool3d, _aten.adaptive_avg_pool1d, _aten.adaptive_avg_pool2d,
        _aten.adaptive_avg_pool3d, _aten.mean,
    ), keeps_sign=True),
    Rule(Role.passes, (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, _aten.dropout), keeps_sign=True),
)
# fmt: on
_RULES = {kind: rule for rule in TABLE for kind in rule.kinds}


def kinds_of(node: fx.Node, modules: dict[str, nn.Module]) -> tuple[Any, ...]:
    """What an operation goes by: its class, the classes that this derives from, and its word; a function, of
    `torch.ops` without its overload; a method."""
    if node.op == "call_module":
        module = modules[str(node.target)]
        cls = type(module.layer if isinstance(module, FakeQuantizedLayer) else module)
        return (*cls.__mro__[: cls.__mro__.index(nn.Module)], cls.__name__)
    if isinstance(node.target, torch._ops.OpOverload):
        return (node.target.overloadpacket,)
    return (node.target,) if node.op in ("call_function", "call_method") else ()


def rule_of(node: fx.Node, modules: dict[str, nn.Module]) -> Rule | None:
    return next((_RULES[kind] for kind in kinds_of(node, modules) if kind in _RULES), None)


def operands(node: fx.Node, rule: Rule) -> Iterator[fx.Node]:
    """The values that an operation of the table reads, but for weights and other arguments."""
    given = [*node.args, *node.kwargs.values()]
    if rule.role is not Role.joins:
        given = given[:1]
    for argument in given:
        for value in argument if isinstance(argument, (list, tuple)) else (argument,):
            if isinstance(value, fx.Node):
                yield value
