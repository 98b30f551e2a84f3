"""The site: it builds without a warning, and its reference lists what is public."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
# The modules whose `__all__` is public, and what of those without one is.
PUBLIC = (
    "corepress",
    "corepress.coreml",
    "corepress.coreml.calibrated",
    "corepress.coreml.experimental",
    "corepress.linting",
    "corepress.neural_network",
    "corepress.neural_network.quantization_utils",
    "corepress.runtime",
    "corepress.torch.base_model_optimizer",
    "corepress.torch.layerwise_compression",
    "corepress.torch.optimization_config",
    "corepress.torch.palettization",
    "corepress.torch.pruning",
    "corepress.torch.quantization",
    "corepress.verification",
)


def listed() -> list[str]:
    """The full names in the reference."""
    pages = sorted((ROOT / "docs/reference").glob("*.md"))
    return [name for page in pages for name in re.findall(r"^::: (\S+)$", page.read_text(), flags=re.M)]


def found(name: str) -> object:
    """What a full name stands for."""
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


def public_names() -> list[str]:
    names = []
    for module in map(importlib.import_module, PUBLIC):
        names += [f"{module.__name__}.{name}" for name in module.__all__ if not inspect.ismodule(getattr(module, name))]
    return names


def test_the_reference_lists_every_public_name_once() -> None:
    things = [found(name) for name in listed()]
    here = {id(thing) for thing in things}
    assert [name for name in public_names() if id(found(name)) not in here] == []
    assert sorted(set(listed())) == sorted(listed())


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_of_pages_outside_the_site_lead_somewhere(page: str) -> None:
    links = re.findall(r"\]\((?![a-z]+:|#)([^)#\s]+)", (ROOT / page).read_text())
    assert [link for link in links if not (ROOT / link).exists()] == []


@pytest.mark.slow  # `make site`, which CI calls, builds it, too
def test_the_site_builds(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs_autorefs")
    pytest.importorskip("material")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", tmp_path / "site"],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and not done.stderr, done.stderr
    pages = {path.parent.name for path in tmp_path.glob("site/**/index.html")}
    assert {"app", "coreml", "glossary", "CHANGELOG", "architecture"} <= pages
    assert "constexpr_lut_to_dense" in (tmp_path / "site/guides/glossary/index.html").read_text()
    start = (tmp_path / "site/index.html").read_text()
    assert 'href="benchmarks/results/"' in start, "a page from outside docs/ is a page of the site"
    tutorials = (tmp_path / "site/tutorials/index.html").read_text()
    assert 'href="https://github.com/corepress/corepress/blob/main/README.md"' in tutorials
    assert 'href="app/"' in tutorials, "a notebook is a page of the site"
    assert "palettize_weights" in (tmp_path / "site/reference/coreml/index.html").read_text()
