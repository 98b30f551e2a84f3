"""Builds the sdist and a wheel for each system into `dist/`, and looks into what came out: `make wheels`.

Only this system's wheel can run here. Of the others the library is read: that it is for the right processor, has every
kernel of the sources at every level, and needs nothing but the system's own C library, of an old enough version.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import lief
from build_kernels import KERNELS, LEVELS, TARGETS
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
PROCESSORS = {"x86_64": "X86_64", "aarch64": "ARM64", "arm64": "ARM64"}
LIBRARIES = {"libc.so.6", "libm.so.6", "/usr/lib/libSystem.B.dylib", "KERNEL32.dll"}
OLDEST_GLIBC = (2, 17)


def main() -> None:
    lief.logging.disable()
    table = Table("system", "wheel", "KB", "kernels", "needs")
    package("sdist")
    with tarfile.open(newest("*.tar.gz")) as source:
        built = [name for name in source.getnames() if name.endswith((".so", ".dll", ".dylib", ".pyc"))]
    assert not built, f"the sdist holds what was built: {built}"
    for name, target in TARGETS.items():
        package("wheel", COREPRESS_TARGET=name)
        wheel = newest(f"*{target.tag}.whl")
        with zipfile.ZipFile(wheel) as archive:
            inside = [entry for entry in archive.namelist() if entry.endswith((".so", ".dll", ".dylib"))]
            assert inside == [f"corepress/kernels/{target.file}"], f"{wheel} holds the libraries {inside}"
            assert not [entry for entry in archive.namelist() if entry.endswith((".c", ".h"))], wheel
            library = parsed(archive.read(inside[0]))
        processor = library.abstract.header.architecture.name
        assert processor == PROCESSORS[name.split("-")[1]], f"{wheel} is for {processor}"
        levels = list(LEVELS) if processor == "X86_64" else ["baseline"]
        kernels = {f"corepress_{kernel}_{level}" for kernel in sources() for level in levels} | {"corepress_level"}
        exported = {function.name.removeprefix("_") for function in library.abstract.exported_functions}
        assert kernels <= exported, f"{wheel} lacks {sorted(kernels - exported)}"
        needs = check_needs(library, str(wheel))
        table.add_row(name, wheel.name, str(wheel.stat().st_size // 1000), str(len(kernels)), needs or "nothing")
    Console(width=None if sys.stdout.isatty() else 140).print(table)


def package(kind: str, **environment: str) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(ROOT / "dist")]
    subprocess.run(command, check=True, cwd=ROOT, env=os.environ | environment, stdout=subprocess.DEVNULL)


def newest(pattern: str) -> Path:
    return max((ROOT / "dist").glob(pattern), key=lambda path: path.stat().st_mtime)


def sources() -> set[str]:
    """The names of all kernels, as the C files define them."""
    return {
        name
        for file in (ROOT / KERNELS / "c").glob("*.c")
        for name in re.findall(r"^KERNEL\([^,]+, (\w+)\)", file.read_text(), re.MULTILINE)
    }


def parsed(library: bytes) -> lief.Binary:
    binary = lief.parse(library)
    assert binary is not None
    return binary.at(0) if isinstance(binary, lief.MachO.FatBinary) else binary


def check_needs(library: lief.Binary, wheel: str) -> str:
    """The libraries that it needs, after a check that any system has them."""
    needs = {getattr(needed, "name", needed) for needed in library.libraries}
    needs = {name for name in needs if not name.endswith("corepress.dylib")}  # its own name
    assert needs <= LIBRARIES, f"{wheel} needs {needs}"
    if isinstance(library, lief.ELF.Binary):
        for needed in library.symbols_version_requirement:
            for symbol in needed.get_auxiliary_symbols():
                version = tuple(map(int, symbol.name.removeprefix("GLIBC_").split(".")))
                assert version <= OLDEST_GLIBC, f"{wheel} needs {symbol.name}"
    if isinstance(library, lief.MachO.Binary) and library.abstract.header.architecture.name == "ARM64":
        assert library.has_code_signature, f"{wheel} is not signed, so macOS would not load it"
    return ", ".join(sorted(needs))


if __name__ == "__main__":
    main()
