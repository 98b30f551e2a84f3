"""What MkDocs can't do by itself, for `make site` (mkdocs.yml names this file).

- Pages that lie outside docs/, such as the changelog, are pages of the site, too.
- Each notebook of docs/tutorials is a page: its texts, its cells, and what they printed.
- Links are written for the forge, relative to the file that they stand in. A link to a page becomes a link within the
  site; one to any other file of the repository leads to the forge, and a link to nothing fails the build.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
OUTSIDE = ("CHANGELOG.md", "CONTRIBUTING.md", "benchmarks/results.md")
_LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)#\s]+)(?=[)#])")
_CODE = re.compile(r"(^```.*?^```$)", flags=re.S | re.M)


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add the pages from outside docs/, and one for each notebook instead of its file."""
    for name in OUTSIDE:
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    for file in list(files):
        if file.src_uri.endswith(".ipynb"):
            files.remove(file)
            notebook = json.loads(file.content_string)
            name = file.src_uri.removesuffix(".ipynb") + ".md"
            files.append(File.generated(config, name, content="\n\n".join(notebook_page(notebook, file.src_uri))))


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Translate the links of a page."""
    known = {source_of(file.src_uri): file.src_uri for file in files}
    folder = source_of(page.file.src_uri).parent

    def translated(match: re.Match[str]) -> str:
        source = Path(os.path.normpath(folder / match[1]))
        page_of_it = known.get(source) or known.get(source.with_suffix(".md") if source.suffix == ".ipynb" else source)
        if page_of_it is not None:
            return os.path.relpath(page_of_it, Path(page.file.src_uri).parent)
        if not (ROOT / source).exists():
            raise PluginError(f"{page.file.src_uri} links to {match[1]}, which is not there")
        return f"{config.repo_url}/blob/main/{source}"

    parts = _CODE.split(markdown)
    parts[::2] = [_LINK.sub(translated, part) for part in parts[::2]]
    return "".join(parts)


def source_of(uri: str) -> Path:
    """Where the source of a page lies, from the root of the repository."""
    return Path(uri) if uri in OUTSIDE else Path("docs") / uri


def notebook_page(notebook: dict[str, Any], name: str) -> Iterator[str]:
    """A notebook's cells and printed output as Markdown."""
    for number, cell in enumerate(notebook["cells"]):
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            yield text
            if number == 0:
                yield f"This page is a notebook, which you can run: `docs/{name}`."
        else:
            yield f"```console\n{_as_commands(text)}\n```" if text.startswith("%%bash") else f"```python\n{text}\n```"
            printed = "".join(map(_text_of, cell["outputs"]))
            if printed:
                yield f"```text\n{printed.rstrip()}\n```"


def _as_commands(cell: str) -> str:
    return "\n".join(f"$ {line}" for line in cell.splitlines()[1:])


def _text_of(output: dict[str, Any]) -> str:
    return "".join(output["text"] if "text" in output else output["data"]["text/plain"])
