"""The size of a core installation: corepress and all that it requires, without extras, as it lies on the disk."""

from __future__ import annotations

import re
from importlib.metadata import distribution
from pathlib import Path

import tomllib

ROOT = Path(__file__).resolve().parent.parent


def megabytes() -> float:
    """Of the versions that are installed here, bytecode included."""
    return sum(sizes().values()) / 1e6


def sizes() -> dict[str, int]:
    """Bytes by distribution."""
    package = ROOT / "src" / "corepress"
    found = {"corepress": sum(path.stat().st_size for path in package.rglob("*") if path.is_file())}
    waiting = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    while waiting:
        name = re.split(r"[^\w.-]", waiting.pop())[0]
        if name.lower() in found:
            continue
        installed = distribution(name)
        paths = (Path(str(file.locate())) for file in installed.files or ())
        found[name.lower()] = sum(path.stat().st_size for path in paths if path.is_file())
        # A requirement under a condition, such as an extra or an older Python, is none of this installation.
        waiting += [requirement for requirement in installed.requires or () if ";" not in requirement]
    return found


if __name__ == "__main__":
    for name, size in sorted(sizes().items(), key=lambda item: -item[1]):
        print(f"{size / 1e6:8.1f} MB  {name}")
    print(f"{megabytes():8.1f} MB  in all")
