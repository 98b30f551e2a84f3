"""Installs a release in fresh environments and tries it there, with several versions of Python: `make test-pythons`.

    python tools/pythons.py                     with those of python3.10 to python3.14 that are on the PATH
    python tools/pythons.py PYTHON ...          with those named
    python tools/pythons.py --quick PYTHON      the sdist only, and none of the tests
    python tools/pythons.py --dist dist PYTHON  what `make wheels` put there, instead of what is built here

The sdist and the wheel are each installed where nothing else is, and compress the package in `examples/`; the tests of
the kernels and of weights run against the wheel.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ROOM = ROOT / "build" / "pythons"
PYTHONS = ["python3.10", "python3.11", "python3.12", "python3.13", "python3.14"]
COMMANDS = ["palettize --nbits 4", "quantize --dtype int4 --granularity per_block", "prune --sparsity 0.5"]
# The templates of pages are among what is installed.
PAGES = "from importlib.resources import files; files('corepress.reports').joinpath('templates/page.html').read_text()"
TESTS = ["tests/kernels", "tests/weights"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pythons", nargs="*", metavar="PYTHON", default=PYTHONS)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--dist", type=Path)
    options = parser.parse_args()
    dist = (options.dist or built(quick=options.quick)).resolve()
    for name in options.pythons:
        python = shutil.which(name)
        version = python and asked(python, "import sys; print('%d.%d' % sys.version_info[:2])")
        if not python or not version:
            print(f"{name}: not on this machine")
            continue
        python = str(Path(python).absolute())  # not resolved: a link may belong to an environment
        try_sdist(python, version, dist)
        if not options.quick:
            try_wheel(python, version, dist)


def built(quick: bool) -> Path:
    """A folder with the sdist of these sources, and the wheel for this system."""
    dist = ROOM / "dist"
    shutil.rmtree(dist, ignore_errors=True)
    for kind in ["sdist"] if quick else ["sdist", "wheel"]:
        run(sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(dist), cwd=ROOT)
    return dist


def try_sdist(python: str, version: str, dist: Path) -> None:
    """Build a wheel from the sdist, as pip does where there is none, install it, and use it."""
    place = environment(python, ROOM / f"{version}-sdist")
    (sdist,) = dist.glob("corepress-*.tar.gz")
    run(place / "python", "-m", "pip", "install", "--quiet", str(sdist))
    use(place, f"Python {version}, sdist")


def try_wheel(python: str, version: str, dist: Path) -> None:
    """Install the one wheel that fits this system, use it, and run the tests that need nothing else against it."""
    place = environment(python, ROOM / version)
    pip = [place / "python", "-m", "pip", "install", "--quiet"]
    run(*pip, "--no-index", "--no-deps", "--only-binary", ":all:", "--find-links", str(dist), "corepress")
    run(*pip, "corepress", "hypothesis", "pytest", "pytest-timeout")
    use(place, f"Python {version}, wheel")
    # From elsewhere, so that the wheel is tested and not the sources beside the tests.
    settings = ["-q", "-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(ROOT)]
    tests = run(place / "python", "-m", "pytest", *settings, *(str(ROOT / test) for test in TESTS))
    print(f"Python {version}, wheel: {tests.strip().splitlines()[-1]}")


def use(place: Path, what: str) -> None:
    """Compress the example with the command, and look at what came out."""
    for command in COMMANDS:
        name, *arguments = command.split()
        example, output = ROOT / "examples" / "digits.mlpackage", ROOM / "out.mlpackage"
        report = run(place / "corepress", name, str(example), "-o", str(output), *arguments, "--overwrite", "--json")
        numbers = json.loads(report)
        assert numbers["compressed"] > 0 and numbers["size_after"] < numbers["size_before"], f"{what}: {report}"
        run(place / "corepress", "info", str(output))
        print(f"{what}: corepress {command}: ratio {numbers['ratio']:.2f}")
    run(place / "python", "-c", PAGES)


def environment(python: str, folder: Path) -> Path:
    """A fresh environment; the folder of its commands."""
    run(python, "-m", "venv", "--clear", str(folder))
    return folder / ("Scripts" if os.name == "nt" else "bin")


def asked(python: str, question: str) -> str:
    """What it prints; nothing where it does not run, as the name of a version that pyenv has not switched on."""
    return subprocess.run([python, "-c", question], capture_output=True, text=True, check=False).stdout.strip()


def run(*command: str | Path, cwd: Path = ROOM) -> str:
    cwd.mkdir(parents=True, exist_ok=True)
    # What leads a process to other sources or settings than those of its environment.
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run(list(map(str, command)), cwd=cwd, env=clean, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    main()
