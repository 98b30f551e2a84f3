"""Compiles `src/corepress/kernels/c` into one shared library; the build hook of `pyproject.toml` (hatchling).

    python tools/build_kernels.py [--sanitize] [OUTPUT]     builds it in place, or as OUTPUT: `make kernels`

It takes the compiler of the environment variable CC, else the system's, else that of the package `ziglang`, which
`COREPRESS_TARGET` (one of TARGETS) makes compile for another system: `make wheels`.
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

KERNELS = Path("src/corepress/kernels")
# What keeps results the same bits: no product and sum are fused unless the source says so. The other two change no
# result, and let loops vectorise.
FLAGS = ["-std=c11", "-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]
FLAGS += ["-Wno-psabi"]  # vectors are passed only to functions that are inlined, so no convention of calls matters
FLAGS += ["-fvisibility=hidden", "-Wall", "-Wextra", "-Werror=implicit-function-declaration"]
SANITIZE = ["-g", "-O1", "-fno-omit-frame-pointer", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
LEVELS = {
    "baseline": [],
    "avx2": ["-mavx2", "-mfma", "-mf16c", "-mbmi", "-mbmi2"],
    "avx512": ["-mavx2", "-mfma", "-mf16c", "-mbmi", "-mbmi2", "-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl"],
}


class Target(NamedTuple):
    """A system to build for: the triple of `zig cc`, the platform tag of its wheel, the name of the library."""

    triple: str
    tag: str
    file: str


TARGETS = {
    "linux-x86_64": Target("x86_64-linux-gnu.2.17", "manylinux_2_17_x86_64", "libcorepress.so"),
    "linux-aarch64": Target("aarch64-linux-gnu.2.17", "manylinux_2_17_aarch64", "libcorepress.so"),
    "macos-x86_64": Target("x86_64-macos.11.0", "macosx_11_0_x86_64", "libcorepress.dylib"),
    "macos-arm64": Target("aarch64-macos.11.0", "macosx_11_0_arm64", "libcorepress.dylib"),
    "windows-x86_64": Target("x86_64-windows-gnu", "win_amd64", "corepress.dll"),
    "windows-arm64": Target("aarch64-windows-gnu", "win_arm64", "corepress.dll"),
}


class Hook(BuildHookInterface[Any]):
    """Puts the library into wheels, also editable ones; an sdist takes the sources as they are."""

    def dependencies(self) -> list[str]:
        cross = "COREPRESS_TARGET" in os.environ
        return ["ziglang>=0.13"] if cross or not system_compiler() else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        name = os.environ.get("COREPRESS_TARGET")
        if name and name not in TARGETS:
            sys.exit(f"COREPRESS_TARGET is {name!r}, but the kernels are built for {', '.join(TARGETS)}.")
        target = TARGETS[name] if name else native()
        kernels = Path(self.root) / KERNELS
        if version == "editable":
            if not is_current(kernels / target.file, kernels / "c"):
                build(kernels / "c", kernels / target.file)
            return
        # Elsewhere, so that a build for another system leaves the library of this one in place.
        self.made = tempfile.TemporaryDirectory()
        output = Path(self.made.name) / target.file
        build(kernels / "c", output, target if name else None)
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{target.tag}"
        build_data["force_include"][str(output)] = f"corepress/kernels/{target.file}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if version != "editable":
            self.made.cleanup()


def is_current(library: Path, sources: Path) -> bool:
    """Whether a library is there and newer than all that it is made of. (`make kernels` builds it in any case.)"""
    made_of = [*sources.iterdir(), Path(__file__)]
    return library.exists() and library.stat().st_mtime >= max(file.stat().st_mtime for file in made_of)


def build(sources: Path, output: Path, target: Target | None = None, sanitize: bool = False) -> None:
    """Compile each file for each level of vector instructions, `cpu.c` once, and link them; `target`: None is here."""
    compiler = system_compiler() if target is None else None
    zig = compiler is None
    if compiler and sys.platform == "darwin":
        compiler += ["-arch", platform.machine(), "-mmacosx-version-min=11.0"]
    if compiler is None:
        triple = (target or native()).triple
        compiler = [sys.executable, "-m", "ziglang", "cc", "-target", triple, "-mcpu=baseline", "-s"]
    machine = target.triple if target else platform.machine().lower()
    levels = list(LEVELS) if machine.startswith(("x86_64", "amd64")) else ["baseline"]
    common = FLAGS + (SANITIZE if sanitize else []) + ([] if output.suffix == ".dll" else ["-fPIC"])
    jobs = [(file, level) for file in sorted(sources.glob("*.c")) if file.name != "cpu.c" for level in levels]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count()) as pool:

        def compile(job: tuple[Path, str]) -> str:
            file, level = job
            made = Path(folder) / f"{file.stem}.{level}.o"
            run([*compiler, *common, *LEVELS[level], f"-DLEVEL={level}", "-c", str(file), "-o", str(made)])
            return str(made)

        objects = list(pool.map(compile, [*jobs, (sources / "cpu.c", "baseline")]))
        linked = Path(folder) / output.name
        # A DLL with Microsoft's C library would first compile that, for minutes; the kernels call nothing of it.
        bare = ["-nostdlib", "-Wl,--no-entry"] if zig and output.suffix == ".dll" else []
        run([*compiler, *(SANITIZE if sanitize else []), "-shared", *bare, *objects, "-o", str(linked)])
        output.parent.mkdir(parents=True, exist_ok=True)
        # Replaced at once: a process that has the old one loaded keeps it, and none finds half of the new one.
        shutil.copy(linked, output.with_suffix(".new"))
        output.with_suffix(".new").replace(output)


def native() -> Target:
    """This system, as a target."""
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine().lower())
    if sys.platform == "win32":
        return TARGETS["windows-arm64" if machine == "aarch64" else "windows-x86_64"]
    if sys.platform == "darwin":
        return TARGETS["macos-arm64" if machine == "aarch64" else "macos-x86_64"]
    libc = "gnu.2.17" if platform.libc_ver()[0] == "glibc" else "musl"
    tag = sysconfig.get_platform().replace("-", "_").replace(".", "_")
    return Target(f"{machine}-linux-{libc}", tag, "libcorepress.so")


def system_compiler() -> list[str] | None:
    """The compiler that CC names, else the system's, if it has one that can build the kernels.

    On Windows only CC counts: Microsoft's compiler has other options, and GCC takes the stack there for aligned to
    more than it is (GCC's bug 54412).
    """
    if given := os.environ.get("CC", "").strip():
        command = shlex.split(given, posix=sys.platform != "win32")
        if not (shutil.which(command[0]) and _works(command)):
            sys.exit(f"CC is {given!r}, which can't compile the kernels. Without CC, another compiler is looked for.")
        return command
    names = [] if sys.platform == "win32" else ["cc", "gcc", "clang"]
    return next(([name] for name in names if shutil.which(name) and _works([name])), None)


def _works(compiler: list[str]) -> bool:
    """Some systems have a compiler without the headers of C, or one that is too old, such as GCC 8."""
    program = """
#include <math.h>
#include <stdint.h>
#include <string.h>
typedef float Floats __attribute__((vector_size(32)));
typedef int32_t Integers __attribute__((vector_size(32)));
void whole(const Floats *values, Integers *out) { *out = __builtin_convertvector(*values, Integers); }
"""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "try.c"
        file.write_text(program)
        command = [*compiler, "-shared", *([] if sys.platform == "win32" else ["-fPIC"]), str(file), "-o", f"{file}.so"]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0


def run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{shlex.join(command)} failed:\n{done.stderr}")
    if done.stderr:
        print(done.stderr, file=sys.stderr)


def main() -> None:
    root = Path(__file__).resolve().parent.parent
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", nargs="?", type=Path, default=root / KERNELS / native().file)
    parser.add_argument(
        "--sanitize", action="store_true", help="with the sanitizers of addresses and undefined behaviour"
    )
    options = parser.parse_args()
    build(root / KERNELS / "c", options.output, sanitize=options.sanitize)
    print(options.output)


if __name__ == "__main__":
    main()
