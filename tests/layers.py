"""Which part of corepress may import which: the table that `test_layers.py` checks and `make docs` prints.

A part is a file or a folder of `src/corepress`; a file belongs to the longest name that it lies under. A part may
always import itself. A name that is allowed stands for all below it. The order is that of the floors, ground first.
"""

from __future__ import annotations

import ast
from pathlib import Path

SOURCE = Path(__file__).parent.parent / "src/corepress"

_FACES = {"formats", "targets", "weights", "errors", "fields", "configuration", "peer"}
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "version": set(),
    "threads": set(),
    "json_numbers": set(),
    "names": set(),
    "sizes": {"errors"},
    "durations": {"errors"},
    "engine": {"threads", "errors"},
    "tables": set(),
    "opsets": set(),
    "fields": {"errors"},
    "configuration": {"fields", "errors"},
    "peer": {"errors"},
    "sequences": set(),
    "split": {"sequences", "errors"},
    "resuming": {"split", "sequences", "errors"},
    "kernels": {"errors"},
    "metrics": {"kernels", "errors"},
    "language": {"metrics", "errors"},
    "weights": {"kernels", "errors"},
    "algorithms": {"weights", "kernels", "errors", "threads"},
    "algorithms/fitted": {"algorithms", "weights", "kernels", "errors", "threads"},
    "algorithms/learned": {"algorithms", "weights", "kernels", "errors", "threads"},
    "formats": {"weights", "errors", "threads"},
    "targets": {"weights", "errors"},
    "runtime": {"language", "sequences", "formats", "opsets", "weights", "kernels", "errors", "threads"},
    "runtime/ops": {"runtime/registry", "runtime/limits", "runtime/dtypes", "runtime/boxes"},
    "runtime/packed": {"weights", "kernels", "threads"},
    "runtime/networks/layers": {"runtime/networks/registry", "runtime/ops", "runtime/registry", "runtime/limits"},
    "tokenizing": {"runtime", "formats", "language", "sequences", "errors"},
    "augmenting": {"runtime", "formats", "language", "sequences", "errors"},
    "coreml": {*_FACES, "opsets", "algorithms", "threads", "engine"},
    "coreml/activations": {*_FACES, "sequences", "coreml", "runtime", "metrics", "split", "engine"},
    "coreml/experimental": {"coreml"},
    "verification": {"language", "sequences", "runtime", "formats", "metrics", "tables", "json_numbers", "errors"},
    "refining": {
        "verification", "augmenting", "coreml/interop", "coreml/rewrite", "algorithms", "runtime", "formats", "opsets",
        "metrics", "split",
        "sequences", "weights", "json_numbers", "durations", "engine", "fields", "peer", "errors",
        "resuming", "version",
    },
    "coreml/calibrated": {
        *_FACES, "augmenting", "sequences", "coreml", "algorithms", "runtime", "split", "metrics", "engine", "refining",
    },
    "neural_network": {
        "formats", "algorithms", "weights", "configuration", "fields", "names", "errors", "engine", "peer",
    },
    "neural_network/compare": {
        "neural_network/interop", "formats", "runtime", "metrics", "sequences", "errors", "peer",
    },
    "torch": {
        "algorithms", "formats/atomic", "weights", "errors", "fields", "configuration", "peer", "threads", "metrics",
        "version", "engine",
    },
    "description": {"formats", "opsets", "targets", "weights", "errors"},
    "linting": {"coreml/interop", "formats", "opsets", "tables", "targets", "weights", "sizes", "errors", "version"},
    "reports": {
        "verification", "linting", "coreml", "runtime", "formats", "targets", "metrics", "weights", "tables",
        "json_numbers", "sizes", "errors", "version",
    },
    "migrating": {"runtime", "formats", "weights", "engine", "fields", "errors"},
    "recipe": {
        "names", "coreml", "neural_network", "targets", "configuration", "fields", "split", "sequences", "durations",
        "refining", "errors",
    },
    "searching": {
        "recipe", "refining", "coreml", "neural_network", "runtime", "formats", "targets", "weights", "kernels",
        "metrics", "tables", "json_numbers", "split", "sequences", "language", "threads", "engine", "fields", "errors",
        "version", "peer", "linting", "sizes", "resuming",
    },
    "searching/workers": {"threads", "version", "errors"},
    "searching/networks": {
        "searching", "recipe", "neural_network", "runtime", "formats", "weights", "sequences", "engine", "errors",
    },
    "searching/modules": {"searching", "torch", "targets", "weights", "sequences", "engine", "errors"},
    "torch/refining": {
        "refining", "verification", "torch", "algorithms/learned", "metrics", "split", "sequences", "engine", "errors",
        "resuming",
    },
    "torch/core_ai": {"migrating", "torch", "weights", "fields", "errors"},
    "torch/searching": {"searching", "torch", "engine", "threads"},
    "cli": {
        "migrating", "refining", "searching", "tokenizing", "description", "linting", "verification", "reports",
        "recipe", "coreml", "neural_network", "runtime", "formats", "targets", "tables", "names",
        "json_numbers", "metrics", "split", "sequences", "fields", "errors", "version", "engine", "sizes",
    },
}  # fmt: skip
# The package itself hands out names of all parts, on first use.
_DOORS = {"__init__", "__main__"}


def files() -> dict[str, Path]:
    """Every source file, by its name such as "coreml/config"; a folder's `__init__` by the name of the folder."""
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        name = path.relative_to(SOURCE).with_suffix("").as_posix()
        found[name.removesuffix("/__init__")] = path
    return found


def part_of(name: str) -> str:
    """The part that a file belongs to; the empty string for the two doors of the package."""
    if name in _DOORS:
        return ""
    return max((part for part in ALLOWED if within(name, part)), key=len, default=name)


def within(name: str, part: str) -> bool:
    return name == part or name.startswith(f"{part}/")


def imports(path: Path, known: dict[str, Path]) -> set[str]:
    """The files of corepress that a file imports, at once or on first use."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "corepress":
            module = "/".join(node.module.split(".")[1:])
            for alias in node.names:
                inner = f"{module}/{alias.name}".lstrip("/")
                found.add(inner if inner in known else module or "__init__")
        elif isinstance(node, ast.Import):
            names = (alias.name.split(".") for alias in node.names)
            found |= {"/".join(name[1:]) or "__init__" for name in names if name[0] == "corepress"}
    return found


def table() -> str:
    """The table of `docs/architecture.md`: each part, the first sentence of its docstring, and what it may import."""
    rows = ["| part | what is in it | may import |", "| --- | --- | --- |"]
    known = files()
    for part, allowed in ALLOWED.items():
        name = f"{part}/" if known[part].stem == "__init__" else f"{part}.py"
        sentence = (ast.get_docstring(ast.parse(known[part].read_text(encoding="utf-8"))) or "").split("\n\n")[0]
        sentence = " ".join(sentence.split()).removesuffix(".").replace("|", "\\|")
        rows.append(f"| `{name}` | {sentence} | {', '.join(f'`{other}`' for other in sorted(allowed)) or 'nothing'} |")
    return "\n".join(rows) + "\n"
