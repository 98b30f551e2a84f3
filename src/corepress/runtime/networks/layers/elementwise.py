"""Activations, and other functions of each element of one array or of several that broadcast."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from corepress.runtime.networks.registry import LAYERS, layer
from corepress.runtime.ops import activation as act
from corepress.runtime.ops import elementwise_binary as binary
from corepress.runtime.ops import elementwise_unary as single
from corepress.runtime.ops import select
from corepress.runtime.registry import Ints

Binary = Callable[[Tensor, Tensor], Tensor]

# Activations; the types of these are part of the name.

LAYERS.update(
    {
        "activation_linear": act.linear_activation,
        "activation_ReLU": act.relu,
        "activation_leakyReLU": act.leaky_relu,
        "activation_thresholdedReLU": act.thresholded_relu,
        "activation_tanh": lambda x: torch.tanh(x),
        "activation_scaledTanh": act.scaled_tanh,
        "activation_sigmoid": act.sigmoid,
        "activation_sigmoidHard": act.sigmoid_hard,
        "activation_ELU": act.elu,
        "activation_softsign": act.softsign,
        "activation_softplus": act.softplus,
    }
)


@layer
def activation_PReLU(x: Tensor, alpha: Tensor) -> Tensor:
    return torch.where(x > 0, x, alpha.view(-1, 1, 1) * x)


@layer
def activation_parametricSoftplus(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    return alpha.view(-1, 1, 1) * F.softplus(beta.view(-1, 1, 1) * x)


@layer
def unary(
    x: Tensor, *, type: str, alpha: float, epsilon: float = 1e-6, shift: float = 0.0, scale: float = 1.0
) -> Tensor:
    x = x * scale + shift
    return _UNARY[type](x, alpha, epsilon)


_UNARY: dict[str, Callable[[Tensor, float, float], Tensor]] = {
    "SQRT": lambda x, alpha, epsilon: x.sqrt(),
    "RSQRT": lambda x, alpha, epsilon: (x + epsilon).rsqrt(),
    "INVERSE": lambda x, alpha, epsilon: 1 / (x + epsilon),
    "POWER": lambda x, alpha, epsilon: x**alpha,
    "EXP": lambda x, alpha, epsilon: x.exp(),
    "LOG": lambda x, alpha, epsilon: (x + epsilon).log(),
    "ABS": lambda x, alpha, epsilon: x.abs(),
    "THRESHOLD": lambda x, alpha, epsilon: x.clamp(min=alpha),
}


# Sums and products.


def _folded(function: Binary, values: Sequence[Tensor], alpha: float | None = None) -> Tensor:
    if len(values) == 1 and alpha is not None:
        return function(values[0], torch.tensor(alpha, dtype=values[0].dtype, device=values[0].device))
    return functools.reduce(function, values)


@layer
def add(values: Sequence[Tensor], *, alpha: float) -> Tensor:
    return _folded(binary.add, values, alpha)


@layer
def multiply(values: Sequence[Tensor], *, alpha: float) -> Tensor:
    return _folded(binary.mul, values, alpha)


@layer
def average(values: Sequence[Tensor]) -> Tensor:
    return _folded(binary.add, values) / len(values)


@layer
def max_(values: Sequence[Tensor]) -> Tensor:
    return _folded(binary.maximum, values)


@layer
def min_(values: Sequence[Tensor]) -> Tensor:
    return _folded(binary.minimum, values)


LAYERS["addBroadcastable"] = lambda values: _folded(binary.add, values)
LAYERS["multiplyBroadcastable"] = lambda values: _folded(binary.mul, values)
LAYERS["maxBroadcastable"], LAYERS["minBroadcastable"] = max_, min_


def _spread(parameter: Tensor, shape: Ints, x: Tensor) -> Tensor:
    """A parameter in a shape that broadcasts over the last dimensions of `x`; a vector is one of channels."""
    if len(shape) == 1:
        return parameter.view(-1, 1, 1) if x.dim() > 2 else parameter
    return parameter.view(list(shape))


@layer
def scale(
    x: Tensor, scale: Tensor, bias: Tensor | None = None, *, shapeScale: Ints = (), shapeBias: Ints = ()
) -> Tensor:
    y = binary.mul(x, _spread(scale, shapeScale, x))
    return y if bias is None else binary.add(y, _spread(bias, shapeBias, x))


@layer
def bias(x: Tensor, bias: Tensor, *, shape: Ints = ()) -> Tensor:
    return binary.add(x, _spread(bias, shape, x))


# Functions of each element: those of MIL.

LAYERS.update(
    {
        "acos": single.acos,
        "asin": single.asin,
        "atan": single.atan,
        "atanh": single.atanh,
        "ceil": single.ceil,
        "clampedReLU": act.clamped_relu,
        "cos": single.cos,
        "cosh": single.cosh,
        "erf": single.erf,
        "exp2": single.exp2,
        "floor": single.floor,
        "gelu": act.gelu,
        "round": single.round_,
        "sign": single.sign,
        "sin": single.sin,
        "sinh": single.sinh,
        "tan": single.tan,
        "tanh": single.tanh,
        "divideBroadcastable": binary.real_div,
        "floorDivBroadcastable": binary.floor_div,
        "modBroadcastable": binary.mod,
        "powBroadcastable": binary.pow_,
        "subtractBroadcastable": binary.sub,
    }
)


@layer
def asinh(x: Tensor) -> Tensor:
    return torch.asinh(x)


@layer
def acosh(x: Tensor) -> Tensor:
    return torch.acosh(x)


@layer
def clip(x: Tensor, *, minVal: float, maxVal: float) -> Tensor:
    return single.clip(x, minVal, maxVal)


# Comparisons, of two arrays or with a number, and logic.


def _comparison(function: Binary) -> Callable[..., Tensor]:
    def compare(x: Tensor, y: Tensor | None = None, *, alpha: float) -> Tensor:
        other = torch.tensor(alpha, dtype=x.dtype, device=x.device) if y is None else y
        return function(x, other).to(x.dtype)

    return compare


LAYERS.update(
    {
        "equal": _comparison(binary.equal),
        "notEqual": _comparison(binary.not_equal),
        "lessThan": _comparison(binary.less),
        "lessEqual": _comparison(binary.less_equal),
        "greaterThan": _comparison(binary.greater),
        "greaterEqual": _comparison(binary.greater_equal),
    }
)


@layer
def logicalAnd(x: Tensor, y: Tensor) -> Tensor:
    return binary.logical_and(x, y).to(x.dtype)


@layer
def logicalOr(x: Tensor, y: Tensor) -> Tensor:
    return binary.logical_or(x, y).to(x.dtype)


@layer
def logicalXor(x: Tensor, y: Tensor) -> Tensor:
    return binary.logical_xor(x, y).to(x.dtype)


@layer
def logicalNot(x: Tensor) -> Tensor:
    return torch.logical_not(x).to(x.dtype)


@layer
def whereBroadcastable(condition: Tensor, x: Tensor, y: Tensor) -> Tensor:
    return select.select(condition != 0, x, y)
