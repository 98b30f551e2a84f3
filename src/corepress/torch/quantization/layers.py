"""Layers whose weights are quantized while they are trained."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import parametrize

from corepress.errors import DataError, OrderError
from corepress.torch import training
from corepress.torch.distributed import is_split
from corepress.torch.metadata import array_of, read_weight, write_weight
from corepress.torch.parameters import Parameter, Slot, Wrapper, parameters
from corepress.torch.quantization.fake_quantize import FakeQuantize
from corepress.weights import Quantized, Sparse, decompress


class FakeQuantizedLayer(Wrapper):
    """A convolution, linear layer or embedding that computes with its weight rounded, and a batch norm behind it.

    In training, the weight is rounded as it will be once the batch norm is folded into it, by the running statistics;
    then the result is unfolded again and normalized by the statistics of the batch (Krishnamoorthi 2018,
    arXiv:1806.08342, section 3.2.2). In evaluation, and from `freeze_bn` on, the batch norm is folded.

    A pruner at work on the layer comes first: it is the masked weight that is rounded. Of a weight that was pruned
    before, zeros stay zero.
    """

    def __init__(self, layer: nn.Module, weight_fake_quant: FakeQuantize | None, bn: nn.Module | None = None):
        super().__init__()
        self.layer = layer
        self.weight_fake_quant = weight_fake_quant
        self.bn: Any = bn
        self.freeze_bn = False
        self.output_axis = weight_of(layer).output_axis
        self.keep_zeros = isinstance(read_weight(weight_of(layer)), Sparse)

    @property
    def weight(self) -> Tensor:
        weight: Tensor = self.layer.weight  # type: ignore[assignment]
        return weight * (weight != 0) if self.keep_zeros else weight  # zeros get no gradient

    @property
    def stored(self) -> Tensor:
        """The weight as it is trained, without the masks that it passes through."""
        with self._unmasked():
            weight: Tensor = self.layer.weight  # type: ignore[assignment]
            return weight

    def _unmasked(self) -> AbstractContextManager[None]:
        return training.idle(training.siblings(Slot(self.layer, "", "weight"), training.Part))

    @property
    def bias(self) -> Tensor | None:
        bias: Tensor | None = getattr(self.layer, "bias", None)  # type: ignore[assignment]
        return bias

    def forward(self, x: Tensor, *arguments: Any) -> Tensor:
        if self.bn is None:
            return self._compute({"weight": self._rounded(self.weight)}, x, *arguments)
        factor = self._factor()
        replaced = {"weight": self._rounded(self.weight * self._along_weight(factor))}
        if self.bias is not None:
            replaced["bias"] = torch.zeros_like(self.bias)
        y = self._compute(replaced, x, *arguments)
        if self.freeze_bn or not self.bn.training:
            return y + _along_channels(self._folded_bias(factor), y)
        y = y / _along_channels(factor, y)
        normalized: Tensor = self.bn(y if self.bias is None else y + _along_channels(self.bias, y))
        return normalized

    def _compute(self, replaced: dict[str, Tensor], *arguments: Any) -> Tensor:
        if not parametrize.is_parametrized(self.layer, "weight"):
            result: Tensor = functional_call(self.layer, replaced, arguments)
            return result
        replaced["parametrizations.weight.original"] = replaced.pop("weight")
        with self._unmasked():
            result = functional_call(self.layer, replaced, arguments)
        return result

    def _rounded(self, weight: Tensor) -> Tensor:
        if is_split(weight):
            raise OrderError("call fully_shard on a FakeQuantizedLayer, or what holds it, not on the layer in it")
        if self.weight_fake_quant is None:
            return weight
        rounded: Tensor = self.weight_fake_quant(weight)
        return rounded

    def _factor(self) -> Tensor:
        """What the batch norm multiplies each channel by; 1 for 0, which nothing can be divided by."""
        factor: Tensor = torch.rsqrt(self.bn.running_var + self.bn.eps)
        if self.bn.weight is None:
            return factor
        unfolds = self.bn.training and not self.freeze_bn
        return factor * (torch.where(self.bn.weight == 0, 1, self.bn.weight) if unfolds else self.bn.weight)

    def _folded_bias(self, factor: Tensor) -> Tensor:
        bias: Tensor = -self.bn.running_mean if self.bias is None else self.bias - self.bn.running_mean
        return bias * factor if self.bn.bias is None else bias * factor + self.bn.bias

    def _along_weight(self, channels: Tensor) -> Tensor:
        return channels.reshape([-1 if axis == self.output_axis else 1 for axis in range(self.weight.ndim)])

    @torch.no_grad()
    def finish(self, name: str) -> nn.Module:
        """The layer alone, with the batch norm folded in, its weight on the grid and the buffers that say so."""
        if self.bn is not None:
            self.bn.eval()
            factor = self._factor()
            bias = self._folded_bias(factor)
            self.stored.mul_(self._along_weight(factor))
            self.layer.bias = nn.Parameter(bias)  # type: ignore[assignment]
        fake_quant = self.weight_fake_quant
        if fake_quant is not None:
            if not bool(torch.isfinite(self.weight).all()):
                raise DataError(f"{name}.weight holds NaN or infinities: did the training diverge?")
            if not fake_quant.has_range:
                fake_quant.observe(self.weight)
            fake_quant.check(f"{name}.weight")
            form = self._form(fake_quant)
            kept = Sparse(decompress(form) != 0, form) if self.keep_zeros else form
            with self._unmasked():
                write_weight(weight_of(self.layer), kept)
        return self.layer

    def _form(self, fake_quant: FakeQuantize) -> Quantized:
        scale, zero_point = (array_of(value) for value in fake_quant.calculate_qparams())
        integers = fake_quant.integers(self.weight).cpu().numpy()
        shape = scale.shape if scale.ndim else (1,) * integers.ndim
        offset = zero_point.astype(integers.dtype).reshape(shape)
        symmetric = fake_quant.signed and fake_quant.symmetric
        return Quantized(
            integers, scale.astype(np.float32).reshape(shape), None if symmetric else offset, fake_quant.bits
        )

    def get_extra_state(self) -> Tensor:
        return torch.tensor([self.freeze_bn, self.bn is not None])

    def set_extra_state(self, state: Tensor) -> None:
        self.freeze_bn = bool(state[0])


def weight_of(layer: nn.Module) -> Parameter:
    """The weight of a supported layer."""
    return next(parameters(layer))


def _along_channels(channels: Tensor, y: Tensor) -> Tensor:
    """A vector in the shape that broadcasts over the second axis of `y`."""
    return channels.reshape(1, -1, *[1] * (y.ndim - 2))
