"""What a release says of itself: its version, its addresses, its extras, and what it needs."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import corepress

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = {
    name: needs for name, needs in PROJECT["optional-dependencies"].items() if name not in ("dev", "docs", "wheels")
}
# The package of PyPI that brings a module of another name.
DISTRIBUTIONS = {
    "PIL": "pillow",
    "google": "protobuf",
    "yaml": "PyYAML",
    "cattr": "cattrs",
    "attr": "attrs",
    "coreai": "coreai-core",
    "coreai_torch": "coreai-torch",
    "vl_convert": "vl-convert-python",
}
# What comes with PyTorch where it can be used.
WITH_TORCH = {"triton"}


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[\[><=~! ]", requirement)[0] for requirement in requirements}


def imported() -> dict[str, Path]:
    """The packages that a file of ours imports, wherever in the file, and one that does."""
    found = {}
    for file in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level and node.module:
                modules = [node.module]
            found |= {module.partition(".")[0]: file for module in modules}
    return {name: file for name, file in found.items() if name not in sys.stdlib_module_names | {"corepress"}}


def test_each_import_belongs_to_a_dependency_or_an_extra() -> None:
    known = names(PROJECT["dependencies"]).union(*map(names, EXTRAS.values())) | WITH_TORCH
    strangers = {name: file for name, file in imported().items() if DISTRIBUTIONS.get(name, name) not in known}
    assert not strangers


def test_each_extra_is_imported_somewhere() -> None:
    used = {DISTRIBUTIONS.get(name, name) for name in imported()} | {"torchao"}  # by importlib
    needed = set().union(*(names(needs) for extra, needs in EXTRAS.items() if extra != "all"))
    assert needed <= used


def test_all_holds_each_extra() -> None:
    (everything,) = EXTRAS["all"]
    assert everything == f"corepress[{','.join(name for name in EXTRAS if name != 'all')}]"


def test_the_version_stands_in_one_place() -> None:
    assert "version" in PROJECT["dynamic"] and "version" not in PROJECT
    assert re.fullmatch(r"\d+\.\d+\.\d+", corepress.__version__)


def test_the_changelog_begins_with_this_version_or_with_what_comes_next() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest, *older = re.findall(r"^## (.+)$", text, re.MULTILINE)
    released = older if newest == "Unreleased" else [newest, *older]
    assert all(re.fullmatch(r"\d+\.\d+\.\d+, \d{4}-\d{2}-\d{2}", heading) for heading in released)
    assert newest == "Unreleased" or newest.startswith(f"{corepress.__version__},")


def test_the_repository_has_one_address() -> None:
    """Where `pyproject.toml` says that it is; whoever moves it finds all places by this test."""
    home = PROJECT["urls"]["Homepage"]
    owner = home.removeprefix("https://github.com/").partition("/")[0]
    files = [
        *(ROOT / ".github").rglob("*.*"),
        *ROOT.glob("*.md"),
        *(ROOT / "action").glob("*.*"),
        ROOT / "pyproject.toml",
    ]
    for file in [*files, *ROOT.glob("*.yml"), *(ROOT / "docs").rglob("*.md")]:
        text = file.read_text(encoding="utf-8")
        for address in re.findall(r"https://github\.com/[\w-]+/corepress\b", text):
            assert address == home, file
        for named in re.findall(r"([\w-]+)/corepress/action@", text):
            assert named == owner, file
