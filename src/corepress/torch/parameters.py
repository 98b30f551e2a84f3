"""The weights of a model that can be compressed: where each is, and which of its axes is which."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torch.nn.utils import parametrize, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from corepress.torch.distributed import is_split

_ATTENTION = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
# For each class: its weights, and the axis of their output channels.
_WEIGHTS: dict[type[nn.Module], tuple[tuple[str, ...], int]] = {
    nn.Linear: (("weight",), 0),
    nn.Embedding: (("weight",), 0),
    nn.Conv1d: (("weight",), 0),
    nn.Conv2d: (("weight",), 0),
    nn.Conv3d: (("weight",), 0),
    nn.ConvTranspose1d: (("weight",), 1),
    nn.ConvTranspose2d: (("weight",), 1),
    nn.ConvTranspose3d: (("weight",), 1),
    nn.MultiheadAttention: (_ATTENTION, 0),
}
SUPPORTED = tuple(_WEIGHTS)


@dataclass(frozen=True)
class Slot:
    """A place in a model that holds a tensor: a module, its name in the model, and the tensor's name in the module."""

    module: nn.Module
    module_name: str
    name: str

    @property
    def key(self) -> str:
        """Its name in the model's `state_dict`."""
        return f"{self.module_name}.{self.name}" if self.module_name else self.name

    @property
    def value(self) -> Tensor:
        value: Tensor = getattr(self.module, self.name)
        return value


S = TypeVar("S", bound=Slot)


@dataclass(frozen=True)
class Parameter(Slot):
    """A weight that can be compressed. `output_axis`, `input_axis`: those of its channels.

    `owner`, `owner_name`: the module whose configuration counts, that of an attention for its output projection; and
    its name, for the layer of a `Wrapper` that of the latter.
    """

    output_axis: int
    owner: nn.Module
    owner_name: str

    @property
    def input_axis(self) -> int:
        return 1 - self.output_axis

    def __str__(self) -> str:
        return f"{self.key} of a {type(self.module).__name__}"


class Wrapper(nn.Module):
    """A module in the place of a layer, which it holds: configurations know the layer by the name of the place."""

    layer: nn.Module


def parameters(model: nn.Module) -> Iterator[Parameter]:
    """The weights of all supported modules, in the model's order; a shared one once for each module that holds it."""
    attention: tuple[str, nn.Module] = ("", model)
    wrapped: dict[nn.Module, str] = {}
    for module_name, module in model.named_modules():
        names, output_axis = _weights_of(module)
        owner_name, owner = wrapped.get(module, module_name), module
        if isinstance(module, Wrapper):
            wrapped[module.layer] = module_name
        elif isinstance(module, nn.MultiheadAttention):
            attention = module_name, module
        elif isinstance(module, NonDynamicallyQuantizableLinear):
            owner_name, owner = attention
        for name in names:
            if isinstance(getattr(module, name, None), Tensor):
                yield Parameter(module, module_name, name, output_axis, owner, owner_name)


def together(found: Iterable[S]) -> list[list[S]]:
    """Those that are one tensor, or one place in memory, in one list; in the order of the first of each."""
    groups: dict[Any, list[tuple[S, Tensor]]] = {}  # holds the tensors: an `id` or a place is used again
    for slot in found:
        value = slot.value
        groups.setdefault(_place(value), []).append((slot, value))
    return [[slot for slot, _ in group] for group in groups.values()]


def _place(value: Tensor) -> Any:
    if value.is_meta or value.numel() == 0 or is_split(value):
        return id(value)
    return value.device, value.data_ptr(), value.dtype, value.shape, value.stride()


def _weights_of(module: nn.Module) -> tuple[tuple[str, ...], int]:
    for kind, found in _WEIGHTS.items():
        if isinstance(module, kind):
            return found
    # Hugging Face's, of GPT-2: a linear layer with its weight as (in, out). Not worth an import of transformers.
    if type(module).__name__ == "Conv1D" and hasattr(module, "nf"):
        return ("weight",), 1
    return (), 0


def copy_of(model: nn.Module) -> nn.Module:
    """A deep copy, also of tensors that were computed from others, as weight norm leaves them: as plain ones."""
    return _copy(model, {})


def _copy(model: nn.Module, memo: dict[int, Any]) -> nn.Module:
    computed = (
        value
        for module in model.modules()
        for value in vars(module).values()
        if isinstance(value, Tensor) and not value.is_leaf
    )
    return copy.deepcopy(model, memo | {id(value): value.detach().clone() for value in computed})


def borrowing_copy_of(model: nn.Module) -> nn.Module:
    """A deep copy whose weights are still in the memory of the model's: for `rewrite.rewrite`, which gives each
    weight its own. Nobody may write to them before."""
    memo: dict[int, Any] = {}
    for parameter in parameters(model):
        value = parameter.value
        if type(value) is nn.Parameter and value.is_contiguous():
            memo[id(value)] = nn.Parameter(value.detach(), value.requires_grad)
    return _copy(model, memo)


def has_parametrizations(model: nn.Module) -> bool:
    """Are there weights that are computed from others, as by weight norm?"""
    return any(
        parametrize.is_parametrized(module)
        or any(isinstance(hook, (WeightNorm, SpectralNorm)) for hook in module._forward_pre_hooks.values())
        for module in model.modules()
    )


def bake_parametrizations(model: nn.Module) -> None:
    """Replace weights that are computed from others, as by weight norm, by plain ones of the same value."""
    for module in model.modules():
        if parametrize.is_parametrized(module):
            own_class(module)
            for name in list(module.parametrizations):  # type: ignore[arg-type]
                parametrize.remove_parametrizations(module, name, leave_parametrized=True)
                value = getattr(module, name)
                if not isinstance(value, nn.Parameter):  # where what it was computed from is not trained
                    setattr(module, name, nn.Parameter(value.detach(), requires_grad=False))
        for hook in list(module._forward_pre_hooks.values()):
            if isinstance(hook, WeightNorm):
                remove_weight_norm(module, hook.name)
            elif isinstance(hook, SpectralNorm):
                remove_spectral_norm(module, hook.name)


def own_class(module: nn.Module) -> None:
    """PyTorch makes a class for a parametrized module, which copies of it share, and later removes properties of it."""
    cls = type(module)
    names = {name: value for name, value in vars(cls).items() if name not in ("__dict__", "__weakref__")}
    module.__class__ = type(cls.__name__, cls.__bases__, names)
