"""Runs the notebooks of docs/tutorials and writes what they print into them: `make notebooks`."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parent.parent / "docs/tutorials"
TIMEOUT = 300  # seconds for one cell
_NO_TEXT = re.compile(r"\x1b\[[0-9;]*m| +$", flags=re.M)


def run(path: Path) -> Any:
    """The notebook with the outputs of a new run; raises where a cell fails. The file is left as it is."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, timeout=TIMEOUT, resources={"metadata": {"path": str(path.parent)}})
    commands = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # those of this Python
    client.execute(env=os.environ | {"PATH": commands, "PYTHONWARNINGS": "ignore"})
    return notebook


def tidied(notebook: Any) -> Any:
    """With plain text, and without what changes in each run: times, and what libraries say on standard error."""
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            printed = "".join(out.text for out in cell.outputs if out.get("name") == "stdout")
            cell.outputs = [out for out in cell.outputs if out.output_type != "stream"]
            if printed:
                cell.outputs.insert(0, nbformat.v4.new_output("stream", name="stdout", text=_NO_TEXT.sub("", printed)))
    return notebook


if __name__ == "__main__":
    for file in sorted(FOLDER.glob("*.ipynb")):
        nbformat.write(tidied(run(file)), file)
        print(f"wrote {file}")
