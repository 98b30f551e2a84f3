"""The compiled library: found, checked, and its functions for this processor.

`COREPRESS_CPU=baseline|avx2|avx512` forces a level of vector instructions; `COREPRESS_LIBRARY` names another file, as
`make sanitize` does. Results are the same bits at each level.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corepress.errors import ConfigError, MissingDependencyError

LEVELS = ("baseline", "avx2", "avx512")
# The kinds of arguments: the address of an array (see `pointer`), a count or a choice, a number.
Pointer, Int, Float, Double = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float, ctypes.c_double
# How a kernel that takes several types is told which one an array has (`c/floats.h`).
_TYPES = {np.dtype(kind): number for number, kind in enumerate(("int8", "uint8", "int16", "float16", "float32"), 1)}
_SOURCES = Path(__file__).with_name("c")  # there only in a checkout that is installed as editable
_NAMES = {"win32": "corepress.dll", "darwin": "libcorepress.dylib"}


def kernel(name: str, *arguments: Any, returns: Any = None) -> Callable[..., Any]:
    """The function `name` of the library, in the version for this processor.

    `arguments`, `returns`: of Pointer, Int, Float, Double. Calls let go of the interpreter's lock. Raises
    CorepressError, naming the file, where the library is missing, does not load, or is of another version.
    """
    try:
        function = getattr(_load(), f"corepress_{name}_{level()}")
    except AttributeError:
        raise MissingDependencyError(
            f"{path()} is of another version of corepress: it lacks {name}. {_advice()}"
        ) from None
    function.argtypes, function.restype = arguments, returns
    return function  # type: ignore[no-any-return]


def pointer(array: NDArray[Any], *dtypes: Any, shape: tuple[int, ...] | None = None, out: bool = False) -> int:
    """The address of an array for a kernel, once its type and layout were checked.

    `dtypes`: those that the kernel can take; any if there are none. `shape`: the one that the kernel will believe.
    `out`: the kernel writes to it. Raises ValueError for anything else.
    """
    if dtypes and array.dtype not in dtypes:
        raise ValueError(f"a kernel takes {' or '.join(str(np.dtype(kind)) for kind in dtypes)}, not {array.dtype}")
    if not array.flags.c_contiguous or (out and not array.flags.writeable) or not array.dtype.isnative:
        raise ValueError("a kernel takes contiguous arrays of the machine's byte order, and writes to writable ones")
    if shape is not None and array.shape != shape:
        raise ValueError(f"a kernel takes an array of shape {shape} here, not {array.shape}")
    return array.ctypes.data


def type_of(array: NDArray[Any]) -> int:
    """The number of an array's type for kernels that take several; 0 for an array without elements."""
    if not array.size:
        return 0
    if array.dtype not in _TYPES:
        raise ValueError(f"a kernel takes arrays of {', '.join(map(str, _TYPES))}, not of {array.dtype}")
    return _TYPES[array.dtype]


def path() -> Path:
    """The file of the library."""
    given = os.environ.get("COREPRESS_LIBRARY")
    return Path(given).absolute() if given else Path(__file__).with_name(_NAMES.get(sys.platform, "libcorepress.so"))


@functools.cache
def level() -> str:
    """The level of vector instructions in use: the best that the processor has, or what COREPRESS_CPU asks for."""
    wanted = os.environ.get("COREPRESS_CPU")
    if not wanted:
        return levels()[-1]
    if wanted not in levels():
        raise ConfigError(f"COREPRESS_CPU is {wanted!r}, but this machine has {', '.join(levels())}.")
    return wanted


@functools.cache
def levels() -> tuple[str, ...]:
    """The levels that both the processor and the library have, the best one last."""
    return LEVELS[: int(_load().corepress_level()) + 1]


@functools.cache
def _load() -> ctypes.CDLL:
    if sys.maxsize < 2**32 or sys.byteorder != "little":
        raise MissingDependencyError(
            f"corepress needs a 64-bit, little-endian Python; this one is {8 * ctypes.sizeof(ctypes.c_void_p)}-bit, "
            f"{sys.byteorder}-endian."
        )
    file = path()
    if not file.exists():
        raise MissingDependencyError(f"{file} is missing: the compiled part of corepress was not built. {_advice()}")
    built = file.stat().st_mtime
    if any(source.stat().st_mtime > built for source in _SOURCES.glob("*.[ch]")):
        raise MissingDependencyError(f"{file} is older than its sources in {_SOURCES}. Build it anew: make kernels")
    try:
        library = ctypes.CDLL(str(file))
        library.corepress_level.restype = ctypes.c_int
    except (OSError, AttributeError) as error:
        import platform

        machine = f"{platform.system()} {platform.machine()}"
        raise MissingDependencyError(
            f"{file} does not load on this machine ({machine}): {error}. {_advice()}"
        ) from None
    return library


def _advice() -> str:
    return "Install corepress anew for this machine: pip install --force-reinstall --no-deps corepress"
