"""Wall-clock time of the command line, from start to end, the second run of each command."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "examples" / "digits.mlpackage"


def measure() -> dict[str, float | None]:
    """Seconds by command; None where it fails."""
    with tempfile.TemporaryDirectory() as folder:
        output = str(Path(folder) / "out.mlpackage")
        palettize = ["palettize", str(PACKAGE), "-o", output, "--nbits", "4", "--overwrite"]
        return {"corepress --help": seconds(["--help"]), "corepress palettize digits": seconds(palettize)}


def seconds(arguments: list[str]) -> float | None:
    program = shutil.which("corepress", path=str(Path(sys.executable).parent)) or "corepress"
    taken = 0.0
    for _ in range(2):
        start = time.perf_counter()
        try:
            done = subprocess.run([program, *arguments], capture_output=True, check=False)
        except FileNotFoundError:
            return None
        taken = time.perf_counter() - start
        if done.returncode:
            return None
    return taken


if __name__ == "__main__":
    for command, taken in measure().items():
        print(f"{command}: {'failed' if taken is None else f'{taken:.2f} s'}")
