"""Digests of models and data: equal bytes, equal digest. By them a checkpoint knows the run that it belongs to."""

from __future__ import annotations

import hashlib
import pickle
import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from corepress.errors import ConfigError

_ADDRESS = re.compile(r" at 0x[0-9a-f]+", re.IGNORECASE)  # in the texts of functions and objects; new in each process


def of_weights(model: nn.Module) -> str:
    """Of the names and values of all parameters and buffers, also those that `state_dict` leaves out."""
    return of_values([*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)])


def of_text(value: object) -> str:
    """Of what `repr` says, but for addresses in memory."""
    return of_values([_ADDRESS.sub("", repr(value))])


def of_values(values: Iterable[Any]) -> str:
    """Of tensors, arrays, and whatever else can be pickled, in their order.

    What is hashed are the pickled bytes, which are written nowhere: so nothing is copied, and data classes, images and
    nested lists need no rules of their own.
    """
    sink = _Sink()
    pickler = _Pickler(sink, protocol=5)
    pickler.fast = True  # equal values count, not whether one object stands at two places
    for value in values:
        try:
            pickler.dump(value)
        except Exception as error:
            raise ConfigError(
                f"checkpoint_dir= needs data that can be told apart from other data, but a {type(value).__name__} "
                f"can't be turned into bytes ({error}): give tensors, arrays, numbers, text, lists or dictionaries"
            ) from error
    return sink.digest.hexdigest()


class _Sink:
    """A file that hashes what is written to it."""

    def __init__(self) -> None:
        self.digest = hashlib.blake2b(digest_size=16)

    def write(self, content: Any) -> None:
        self.digest.update(content)


class _Pickler(pickle.Pickler):
    """PyTorch's own pickles of tensors hold addresses in memory."""

    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return NotImplemented
        content: Any = None  # there is none on the meta device
        if not value.is_meta:
            flat = value.detach().cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
            content = flat.view(torch.uint8).numpy() if flat.numel() else b""
        return _described, (str(value.dtype), tuple(value.shape), content)


def _described(dtype: str, shape: tuple[int, ...], content: Any) -> None:
    """Stands in a pickle for a tensor; nobody reads it."""
