"""Values rounded to the integers that they will be stored as, and back, while the gradient passes straight through."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from corepress.errors import ConfigError, DataError
from corepress.torch.distributed import is_distributed
from corepress.torch.quantization.quantization_config import ObserverType

# The part of the way that the known range goes to that of a batch; None: it only grows.
_BLEND = {ObserverType.min_max: None, ObserverType.moving_average_min_max: 0.01, ObserverType.ema_min_max: 0.1}
_EPSILON = torch.finfo(torch.float32).eps


class _Rounded(torch.autograd.Function):
    """`scale * clamp(round(x / scale), low, high)`; the gradient is 1 where nothing is clamped, else 0.

    PyTorch's own `fake_quantize_per_tensor_affine` takes 40 times as long on a processor: it is not vectorized.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, low: Tensor, high: Tensor) -> Tensor:
        ctx.save_for_backward(x, (low - 0.5) * scale, (high + 0.5) * scale)
        y = torch.div(x, scale).round_()
        # `clamp_` by tensors takes four times as long.
        torch.minimum(torch.maximum(y, low, out=y), high, out=y)
        return y.mul_(scale).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]
        x, low, high = ctx.saved_tensors
        return gradient * (x >= low).logical_and_(x <= high), None, None, None


class FakeQuantize(nn.Module):
    """Observes the range of a value, and rounds it to `scale * (integer - zero_point)`.

    bits, signed: of the integers. symmetric: the zero point is the middle of their range.
    channel_axis, shape: of a weight with a scale for each channel; buffers then have this rank, else none.
    fixed: scale and zero point of a value whose range is known; nothing is observed.

    Buffers, float32: min_val, max_val; scale; zero_point, an integer. `observer_enabled` and `fake_quant_enabled` and
    `steps` go into the state dictionary too, with what the integers are, which must agree when it is loaded.

    A batch that holds NaN or infinities leaves the range as it was.
    """

    def __init__(
        self,
        observer: ObserverType,
        *,
        bits: int = 8,
        signed: bool = False,
        symmetric: bool = True,
        channel_axis: int | None = None,
        shape: tuple[int, ...] = (),
        fixed: tuple[float, int] | None = None,
    ):
        super().__init__()
        self.observer, self.bits, self.signed, self.symmetric = observer, bits, signed, symmetric
        self.channel_axis, self.fixed = channel_axis, fixed
        self.quant_min = -(2 ** (bits - 1)) if signed else 0
        self.quant_max = self.quant_min + 2**bits - 1
        self.observer_enabled = self.fake_quant_enabled = True
        self.synchronize = True
        self.steps = 0
        self.members: list[str] = []  # the nodes of the graph whose values it quantizes
        kept = [size if axis == channel_axis else 1 for axis, size in enumerate(shape)]
        blank = torch.ones(kept if channel_axis is not None else ())
        self.register_buffer("min_val", math.inf * blank)
        self.register_buffer("max_val", -math.inf * blank)
        self._register_parameters(blank)
        if fixed is not None:
            with torch.no_grad():
                self.scale.fill_(fixed[0])
                self.zero_point.fill_(fixed[1])

    min_val: Tensor
    max_val: Tensor
    scale: Tensor
    zero_point: Tensor

    def _register_parameters(self, blank: Tensor) -> None:
        self.register_buffer("scale", blank.clone())
        self.register_buffer("zero_point", torch.full_like(blank, self._middle))

    @property
    def _middle(self) -> int:
        """The symmetric zero point: that of PyTorch's observers."""
        return 0 if self.signed else 128 if self.bits == 8 else self.quant_max // 2

    @property
    def algorithm(self) -> str:
        return "vanilla"

    @property
    def has_range(self) -> bool:
        """Whether the scale is more than the one it starts with."""
        return self.fixed is not None or not bool(torch.isinf(self.min_val).any())

    def forward(self, x: Tensor, observe: bool = True) -> Tensor:
        if observe and self.observer_enabled and self.fixed is None and x.numel():
            self.observe(x)
        return self.simulate(x) if self.fake_quant_enabled else x

    @torch.no_grad()
    def observe(self, x: Tensor) -> None:
        """Let the range follow that of `x`, and the scale and zero point the range."""
        low, high = self._extremes(x.detach())
        blend, known = _BLEND[self.observer], torch.isfinite(self.min_val)
        old = torch.where(known, self.min_val, low), torch.where(known, self.max_val, high)
        if blend is None:
            new = torch.minimum(old[0], low), torch.maximum(old[1], high)
        else:
            new = torch.lerp(old[0], low, blend), torch.lerp(old[1], high, blend)
        sound = torch.isfinite(high - low)
        self.min_val.copy_(torch.where(sound, new[0], self.min_val))
        self.max_val.copy_(torch.where(sound, new[1], self.max_val))
        self.fit()

    def _extremes(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The least and the largest value, or those of each channel, in the shape of the buffers, float32."""
        if self.channel_axis is None:
            low, high = x.amin(), x.amax()  # `aminmax` reads it once, but at a tenth of the speed
        else:
            rows = x.movedim(self.channel_axis, 0).flatten(1)  # several axes at once are slow
            low, high = rows.amin(1), rows.amax(1)
        low, high = (value.to(self.min_val.dtype).reshape(self.min_val.shape) for value in (low, high))
        return self._over_processes(low, high)

    def _over_processes(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        if self.synchronize and is_distributed():
            dist.all_reduce(low, dist.ReduceOp.MIN)
            dist.all_reduce(high, dist.ReduceOp.MAX)
        return low, high

    @torch.no_grad()
    def fit(self) -> None:
        """Set scale and zero point from the range, widened to hold zero; those of PyTorch's observers."""
        low, high = self.min_val.clamp(max=0), self.max_val.clamp(min=0)
        known = torch.isfinite(self.min_val)
        steps = self.quant_max - self.quant_min
        if self.symmetric:
            scale = torch.maximum(-low, high).div_(steps / 2).clamp_(min=_EPSILON)
        else:
            scale = (high - low).div_(steps).clamp_(min=_EPSILON)
            zero = (self.quant_min - (low / scale).round_()).clamp_(self.quant_min, self.quant_max)
            self.zero_point.copy_(torch.where(known, zero, self.zero_point))
        self.scale.copy_(torch.where(known, scale, self.scale))

    def simulate(self, x: Tensor) -> Tensor:
        """`scale * (clamp(round(x / scale) + zero_point, quant_min, quant_max) - zero_point)`, of the shape of `x`."""
        low, high = self.quant_min - self.zero_point, self.quant_max - self.zero_point
        rounded: Tensor = _Rounded.apply(x, self.scale, low, high)  # type: ignore[no-untyped-call]
        return rounded

    @torch.no_grad()
    def integers(self, x: Tensor) -> Tensor:
        """The integers that stand for `x`, of its shape: int8 or uint8."""
        scale, zero_point = self.calculate_qparams()
        levels = (x / scale).round_().add_(zero_point).clamp_(self.quant_min, self.quant_max)
        return levels.to(torch.int8 if self.signed else torch.uint8)

    @torch.no_grad()
    def calculate_qparams(self) -> tuple[Tensor, Tensor]:
        """The scale and the zero point that are in force, of the shape of the buffers, float32."""
        zero_point = self.zero_point.round().clamp_(self.quant_min, self.quant_max)
        return self.scale.clamp(min=_EPSILON), zero_point

    def check(self, what: str) -> None:
        """Raise CorepressError if the scale is not finite."""
        if not bool(torch.isfinite(self.scale).all()):
            raise DataError(f"the scale of {what} is not finite: did the training diverge?")

    def get_extra_state(self) -> Tensor:
        return torch.tensor([*self._kind, self.observer_enabled, self.fake_quant_enabled, self.steps])

    def set_extra_state(self, state: Tensor) -> None:
        kind, (observes, simulates, steps) = tuple(state.tolist()[:-3]), state.tolist()[-3:]
        if kind != self._kind:
            names = "bits, signed, symmetric, axis, fixed, learnable"
            raise ConfigError(f"the state is that of another configuration: ({names}) are {kind}, not {self._kind}")
        self.observer_enabled, self.fake_quant_enabled, self.steps = bool(observes), bool(simulates), steps

    @property
    def _kind(self) -> tuple[int, ...]:
        axis = -1 if self.channel_axis is None else self.channel_axis
        learnable = self.algorithm == "learnable"
        return self.bits, int(self.signed), int(self.symmetric), axis, int(self.fixed is not None), int(learnable)

    def extra_repr(self) -> str:
        kind = f"{'' if self.signed else 'u'}int{self.bits}, {'symmetric' if self.symmetric else 'affine'}"
        return f"{kind}, {self.observer.value}, channel_axis={self.channel_axis}, fixed={self.fixed}"


def _scaled_gradient(x: Tensor, factor: float) -> Tensor:
    return (x - x * factor).detach() + x * factor


def _straight_round(x: Tensor) -> Tensor:
    return (x.round() - x).detach() + x


class LearnableFakeQuantize(FakeQuantize):
    """Its scale, and if not symmetric its zero point, are trained: learned step size quantization.

    Esser et al. 2019, arXiv:1902.08153; Bhalgat et al. 2020, arXiv:2004.09576. As long as the observer is on, they
    follow the observed range. They are parameters: make the optimizer after `prepare`.
    """

    def _register_parameters(self, blank: Tensor) -> None:
        learned = self.fixed is None
        self.scale = nn.Parameter(blank.clone(), requires_grad=learned)
        middle = torch.full_like(blank, self._middle)
        self.zero_point = nn.Parameter(middle, requires_grad=learned and not self.symmetric)

    @property
    def algorithm(self) -> str:
        return "learnable"

    def simulate(self, x: Tensor) -> Tensor:
        factor = 1 / math.sqrt(self._elements(x) / self.scale.numel() * self.quant_max)
        scale = _scaled_gradient(self.scale.clamp(min=_EPSILON), factor)
        zero = _straight_round(self.zero_point.clamp(self.quant_min, self.quant_max))
        if not self.symmetric:
            zero = _scaled_gradient(zero, factor)
        levels = _straight_round(x / scale + zero).clamp(self.quant_min, self.quant_max)
        return (levels - zero) * scale

    def _elements(self, x: Tensor) -> int:
        """How many there are; of an activation, in the batches of all processes that train together."""
        together = bool(self.members) and self.synchronize and is_distributed()
        return x.numel() * (dist.get_world_size() if together else 1)
