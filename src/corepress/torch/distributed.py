"""Models that several processes train: copies of one (`DistributedDataParallel`), or parts of one (`fully_shard`).

While a module that `fully_shard` split runs, its weights are whole; at all other times each is a `DTensor`, of which a
process holds some rows. What is here makes them whole: every process of the mesh has to call it.
"""

from __future__ import annotations

import copy
import sys
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def is_split(tensor: Any) -> bool:
    """Is it a `DTensor`? (Importing its module takes half a second; whoever has one has done so.)"""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def has_split_weights(model: nn.Module) -> bool:
    return any(is_split(parameter) for parameter in model.parameters())


def whole(tensor: Tensor) -> Tensor:
    """A tensor with the rows of all processes."""
    if not is_split(tensor):
        return tensor
    gathered: Tensor = tensor.full_tensor()  # type: ignore[attr-defined]
    return gathered


def unwrapped(model: nn.Module) -> nn.Module:
    """The model that `DistributedDataParallel` wraps."""
    wrapped: Any = model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
    return wrapped  # type: ignore[no-any-return]


@torch.no_grad()
def whole_copy(model: nn.Module) -> nn.Module:
    """A copy, on the CPU, of a model that `fully_shard` split: with whole weights, and no trace of the splitting."""
    from torch.distributed.fsdp import FSDPModule

    for module in model.modules():
        if isinstance(module, FSDPModule):  # it may still hold whole weights, from before the optimiser's step
            module.reshard()
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(whole(parameter).to("cpu", copy=True), parameter.requires_grad)
    for module in model.modules():
        memo |= {id(value): kept for value, kept in _without_traces(module)}
    with _own_classes(model):
        return copy.deepcopy(model, memo).cpu()


def _without_traces(module: nn.Module) -> Iterator[tuple[Any, Any]]:
    """What `fully_shard` wrote to, of a module's attributes: its hooks, and its own state. Each, and what to keep."""
    for name, value in vars(module).items():
        if name.startswith("__composable_api_state"):
            yield value, {}
        elif name.endswith("_hooks") and isinstance(value, dict):
            own = (hook for hook in value.items() if not _is_of_fsdp(hook[1]))
            yield value, OrderedDict(own)


def _is_of_fsdp(hook: Any) -> bool:
    return str(getattr(hook, "__module__", "")).startswith("torch.distributed.fsdp")


@contextmanager
def _own_classes(model: nn.Module) -> Iterator[None]:
    """`fully_shard` gives each module a class of its own, derived from the module's, which can't be copied."""
    from torch.distributed.fsdp import FSDPModule

    split = {module: type(module) for module in model.modules() if isinstance(module, FSDPModule)}
    for module, cls in split.items():
        module.__class__ = cls.__mro__[2]  # after the class made for it, and `FSDPModule`
    try:
        yield
    finally:
        for module, cls in split.items():
            module.__class__ = cls


def shared_seed() -> int:
    """A seed from PyTorch's generator; in a distributed training that of the first process, for all."""
    seed = torch.randint(1 << 62, ())
    if is_distributed():
        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        seed = seed.to(device)
        dist.broadcast(seed, 0)
    return int(seed)


def is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
