"""Tests are collected in seconds: what is slow to import is imported by the tests that use it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

FOLDER = Path(__file__).parent
SLOW = {"coremltools", "sklearn", "scipy", "torchao", "transformers", "mkdocs", "ray"}


def imported_at_once(body: list[ast.stmt]) -> Iterator[str]:
    """The packages that a file imports while it is imported itself; `importorskip` imports, too."""
    for statement in body:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        for node in ast.walk(statement):
            if isinstance(node, ast.Import):
                yield from (alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                yield node.module.partition(".")[0]
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
                given = node.args[0]
                if node.func.attr == "importorskip" and isinstance(given, ast.Constant):
                    yield str(given.value).partition(".")[0]


def test_no_file_imports_what_is_slow_at_its_top() -> None:
    slow = {}
    for file in FOLDER.rglob("*.py"):
        if found := SLOW & set(imported_at_once(ast.parse(file.read_text(encoding="utf-8")).body)):
            slow[str(file.relative_to(FOLDER))] = found
    assert not slow, "tests/lazy.py says how to import them on first use"
