"""The arrows between the folders point one way (docs/architecture.md)."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src/corepress"
ALLOWED = {
    "kernels": {"kernels", "errors"},
    "weights": {"weights", "kernels", "errors"},
    "algorithms": {"algorithms", "weights", "kernels", "errors"},
    "mlprogram": {"mlprogram", "weights", "errors"},
    "targets": {"targets", "weights", "errors"},
    "fields": {"fields", "errors"},
    "peer": {"peer", "errors"},
    "split": {"split", "errors"},
    "coreml": {"coreml", "fields", "peer", "algorithms", "mlprogram", "targets", "weights", "errors"},
    "coreml/calibrated": {"coreml", "split", "algorithms", "runtime", "mlprogram", "weights", "errors"},
    "coreml/experimental": {"coreml", "fields", "runtime", "mlprogram", "targets", "weights", "errors"},
    "description": {"description", "neural_network", "mlprogram", "targets", "errors"},
    "tables": {"tables"},
    "reports": {"reports", "tables", "coreml", "mlprogram", "neural_network", "targets", "kernels", "errors"},
    "runtime": {"runtime", "neural_network", "mlprogram", "weights", "kernels", "errors"},
    "torch": {"torch", "fields", "peer", "algorithms", "mlprogram/atomic", "weights", "errors"},
    "verification": {"verification", "tables", "runtime", "neural_network", "mlprogram", "errors"},
    "neural_network": {"neural_network", "algorithms", "mlprogram", "weights", "errors"},
    "neural_network/compare": {"neural_network", "runtime", "errors"},
    "recipe": {"recipe", "fields", "coreml", "targets", "errors"},
}


def imports(path: Path) -> set[str]:
    """The parts of corepress that a file imports, on first use or at once."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "corepress":
            parts = node.module.split(".")
            if parts[1:] == ["mlprogram", "atomic"]:  # how a file appears whole, whatever its format
                found.add("mlprogram/atomic")
            else:
                found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("corepress.")}
    return found


@pytest.mark.parametrize("part", ALLOWED)
def test_a_part_imports_only_what_it_may(part) -> None:
    folder = SOURCE / part
    apart = {other.rpartition("/")[2] for other in ALLOWED if other.startswith(f"{part}/")}
    files = [path for path in folder.rglob("*.py") if not apart & {*path.parts, path.stem}]
    for path in files or [SOURCE / f"{part}.py"]:
        allowed = ALLOWED[part]
        assert not {name for name in imports(path) if not {name, name.partition("/")[0]} & allowed}, path


def test_every_part_is_covered() -> None:
    parts = {path.stem for path in SOURCE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert parts - {"__init__", "__main__", "errors", "cli", "__pycache__"} == {part.split("/")[0] for part in ALLOWED}
