"""Calls of Apple's library that would end the process.

Where it can't read a program, its C++ throws an exception past a function that must not throw, and C++ then ends the
process. Before that it asks a handler, which may not return. Ours waits forever, in a thread of which nobody else
waits: the call failed, and the process goes on.
"""

from __future__ import annotations

import ctypes
import functools
import threading
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from corepress.errors import importing

T = TypeVar("T")
# By the number of its thread, each call that is under way.
_CALLS: dict[int, _Call] = {}
_HANDLER = ctypes.CFUNCTYPE(None)


class GuardedError(Exception):
    """The library would have ended the process."""


class _Call(NamedTuple):
    """`found`: what it gave or raised, once there is something. `ended`: whether there is."""

    found: list[Callable[[], Any]]
    ended: threading.Event


def guarded(call: Callable[[], T]) -> T:
    """What a call gives; raises what it raises, and GuardedError where the library would have ended the process."""
    if not _watched():
        return call()
    state = _Call([], threading.Event())

    def run() -> None:
        _CALLS[threading.get_ident()] = state
        try:
            value = call()
            state.found.append(lambda: value)
        except BaseException as error:
            state.found.append(functools.partial(_raise, error))
        finally:
            del _CALLS[threading.get_ident()]
            state.ended.set()

    threading.Thread(target=run, daemon=True).start()
    state.ended.wait()
    found: T = state.found[0]()
    return found


def _raise(error: BaseException) -> Any:
    raise error


@functools.cache
def _watched() -> bool:
    """Whether C++ asks us before it ends the process; from now on it does, where its library lets itself be found."""
    with importing("reading a Core AI model"):
        from coreai._compiler._mlir_libs import _mlir

    try:
        install = ctypes.CDLL(_mlir.__file__)["_ZSt13set_terminatePFvvE"]  # std::set_terminate
    except (OSError, AttributeError):
        return False
    install.argtypes, install.restype = [_HANDLER], ctypes.c_void_p
    before: list[Any] = []

    def asked() -> None:
        state = _CALLS.get(threading.get_ident())
        if state is None:  # it is nothing of ours
            _HANDLER(before[0])()
            return
        state.found.append(functools.partial(_raise, GuardedError("it is damaged")))
        state.ended.set()
        threading.Event().wait()

    _KEPT.append(_HANDLER(asked))
    before.append(install(_KEPT[0]))
    return True


# What C++ calls must live as long as the process.
_KEPT: list[Any] = []
