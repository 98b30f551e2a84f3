"""Calls of Apple's library that would end the process.

Where it can't read a program, its C++ throws an exception past a function that must not throw, and C++ then ends the
process. Before that it asks a handler, which may not return. Ours waits forever, in a thread of which nobody else
waits: the call failed, and the process goes on.

Where it runs out of stack there is nobody to ask. So a copy of the process goes first, where there is a cheap one: it
costs what the call does once more, some hundredths of a second.
"""

from __future__ import annotations

import ctypes
import faulthandler
import functools
import os
import select
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from corepress.errors import importing

T = TypeVar("T")
# By the number of its thread, each call that is under way.
_CALLS: dict[int, _Call] = {}
_HANDLER = ctypes.CFUNCTYPE(None)


# Seconds that a copy of the process may take; after these nothing is known.
_PATIENCE = 60


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


def outlived(call: Callable[[], Any]) -> bool:
    """Whether a copy of this process outlives a call; also where that can't be tried."""
    if sys.platform != "linux":
        return True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of other threads, which the copy has not; it calls the library alone
        child = os.fork()
    if child == 0:
        _try(call)
    try:
        with os.fdopen(os.pidfd_open(child)) as ended:
            if not select.select([ended], [], [], _PATIENCE)[0]:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                return True
        return not os.WIFSIGNALED(os.waitpid(child, 0)[1])
    except OSError:  # the caller lets nobody wait for children, or the system is too old to
        return True


def _try(call: Callable[[], Any]) -> None:
    """Call in a copy of the process, and end it: without a word, and without a file that says how."""
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        faulthandler.disable()
        nothing = os.open(os.devnull, os.O_WRONLY)
        for stream in (1, 2):
            os.dup2(nothing, stream)
        call()
    finally:
        os._exit(0)


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
