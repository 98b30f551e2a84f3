"""What the methods that compress while a model is trained share: parts that a weight passes through on its way.

They are parametrizations (`torch.nn.utils.parametrize`): the trained weight stays dense, as
`parametrizations.weight.original`, and reading `module.weight` computes what the network sees.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from corepress.errors import ConfigError
from corepress.torch.distributed import whole
from corepress.torch.parameters import Parameter, Slot, own_class, parameters

P = TypeVar("P", bound="Part")


class Part(nn.Module):
    """One step of the way from a trained weight to the one that the network sees.

    Its state, but for buffers, is a row of numbers that `state_dict` holds, so that training can resume.
    `name`: of the weight, for messages. `idle`: let weights pass. `keep_zeros`: the weight is pruned.
    """

    stage: ClassVar[int]  # parts run in this order; other parametrizations, such as weight norm, are at 0
    makes_zeros: ClassVar[bool] = False
    idle = False
    keep_zeros = False

    def __init__(self, name: str):
        super().__init__()
        self.name = name

    def numbers(self) -> dict[str, float]:
        """What the state holds besides buffers."""
        raise NotImplementedError

    def set_numbers(self, numbers: dict[str, float]) -> None:
        raise NotImplementedError

    def get_extra_state(self) -> Tensor:
        return torch.tensor(list(self.numbers().values()), dtype=torch.float64)

    def set_extra_state(self, state: Tensor) -> None:
        known = self.numbers()
        if not isinstance(state, Tensor) or state.shape != (len(known),):
            raise ConfigError(f"the state of {self.name} is not that of a {type(self).__name__}")
        self.set_numbers(dict(zip(known, state.tolist(), strict=True)))


def attach(slot: Slot, part: Part) -> None:
    """Let a weight pass through a part, in the order of stages."""
    parametrize.register_parametrization(slot.module, slot.name, part, unsafe=True)
    chain = _chains(slot.module)[slot.name]
    for place, each in enumerate(sorted(chain, key=lambda each: getattr(each, "stage", 0))):
        chain[place] = each
    pruned = any(getattr(each, "makes_zeros", False) for each in chain)
    for each in siblings(slot, Part):
        each.keep_zeros = each.keep_zeros or pruned


def detach(slot: Slot) -> None:
    """Make a weight a plain parameter again, the same that it was before `attach`."""
    for part in siblings(slot, Part):
        part.idle = True
    own_class(slot.module)
    parametrize.remove_parametrizations(slot.module, slot.name, leave_parametrized=True)


def parts(model: nn.Module, kind: type[P]) -> Iterator[tuple[Slot, P]]:
    """Each part of a kind in a model, with the place of its weight."""
    for module_name, module in model.named_modules():
        for name, chain in _chains(module).items():
            for part in chain:
                if isinstance(part, kind):
                    yield Slot(module, module_name, name), part


def siblings(slot: Slot, kind: type[P]) -> list[P]:
    """The parts of a kind that a weight passes through."""
    return [part for part in _chains(slot.module).get(slot.name, ()) if isinstance(part, kind)]


def trained(slot: Slot) -> Tensor:
    """A weight as it is trained: whole, and before it passes through any part."""
    with idle(siblings(slot, Part)), torch.no_grad():
        return whole(slot.value.detach())


@torch.no_grad()
def passed(slot: Slot, stage: int) -> Tensor:
    """A trained weight after the parts before a stage."""
    value = trained(slot)
    for part in siblings(slot, Part):
        value = part(value) if part.stage < stage else value
    return value


def label(slot: Slot) -> str:
    """What reports call a weight that is trained: by its module, if that has but one."""
    return slot.module_name if slot.name == "weight" else slot.key


def weights(model: nn.Module) -> list[Parameter]:
    """`parameters` of a model that may have parts, which don't run."""
    with idle([part for _, part in parts(model, Part)]), torch.no_grad():
        return list(parameters(model))


def class_of(module: nn.Module) -> nn.Module:
    """What a configuration is chosen by: a module of the class that it had before it was parametrized."""
    kind = parametrize.type_before_parametrizations(module)
    return module if kind is type(module) else object.__new__(kind)


@contextmanager
def idle(some: list[P]) -> Iterator[None]:
    for part in some:
        part.idle = True
    try:
        yield
    finally:
        for part in some:
            part.idle = False


def _chains(module: nn.Module) -> dict[str, Any]:
    found: Any = module.parametrizations if parametrize.is_parametrized(module) else {}
    return dict(found.items())
