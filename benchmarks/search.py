"""How far `corepress.search` goes, beside others at the same bytes: writes the tables of `docs/search.md`.

    python benchmarks/search.py                              # all, some hours on two cores
    python benchmarks/search.py --tasks digits MNIST         # these anew; the rest stays as it was measured last
    python benchmarks/search.py --ways AIMET "corepress search"
    python benchmarks/search.py --quick                      # prints a part, from little data, in a minute

Each way runs in a process of its own, for its peak memory. See `tests/minilm.py`, `tests/lite.py` and
`search_crepe.py` for what to install; the files of MNIST are in `data/mnist`, or where the variable MNIST says.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markdown import Markdown

sys.path.insert(0, str(Path(__file__).parent))
from elsewhere import elsewhere
from search_page import page, put
from search_tasks import ROOT, TASKS
from search_ways import RANKS, WAYS, Row

OUTPUT = ROOT / "docs" / "search.md"
CACHE = Path(tempfile.gettempdir(), "corepress-search")
MARKS = "<!-- benchmarks/search.py writes from here -->", "<!-- to here -->"
# Samples to learn from, and of each kind to judge by.
COUNTS, FEW = {"EfficientNet-Lite1": (128, 128)}, (32, 32)
_SMALL = [Row(bits, fitted=fitted) for fitted in (False, True) for bits in (4, 3, 2)]
ROWS = dict.fromkeys(TASKS, _SMALL) | {"MiniLM": [Row(3), Row(3, 16, fitted=True), Row(2, 16, fitted=True)]}
QUICK_WAYS = ("corepress, uniform", "AIMET", "corepress search", RANKS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="digits at 3 bits, from few images; writes nothing")
    parser.add_argument(
        "--tasks", nargs="+", choices=TASKS, default=[*TASKS], metavar="TASK", help="measure only these"
    )
    parser.add_argument(
        "--ways", nargs="*", choices=[*WAYS, RANKS], default=[*WAYS, RANKS], metavar="WAY", help="by these"
    )
    parser.add_argument("--plain", action="store_true", help="only budgets for forms without data")
    parser.add_argument("--folder", type=Path, default=CACHE, help="where packages and results are kept")
    options = parser.parse_args()
    if options.quick:
        with tempfile.TemporaryDirectory() as folder:
            found = {"digits": {way: measure("digits", way, [Row(3)], FEW, Path(folder)) for way in QUICK_WAYS}}
        print(page(found))
        return
    options.folder.mkdir(exist_ok=True, parents=True)
    results = options.folder / "results.json"
    for title in options.tasks:
        counts = COUNTS.get(title, (256, 128))
        rows = [row for row in ROWS[title] if not (options.plain and row.fitted)]
        for way in options.ways:
            lines = measure(title, way, rows, counts, options.folder)
            known = json.loads(results.read_text()) if results.exists() else {}
            given = [line["row"] for line in lines if way != RANKS]
            others = [line for line in known.get(title, {}).get(way, ()) if way != RANKS and line["row"] not in given]
            known.setdefault(title, {})[way] = [*lines, *others]
            results.write_text(json.dumps(known, indent=1))
            put(OUTPUT, MARKS, page(known))
    Console(width=200).print(Markdown(page(json.loads(results.read_text()))))


def measure(title: str, way: str, rows: Sequence[Row], counts: tuple[int, int], folder: Path) -> list[dict[str, Any]]:
    """What `search_ways.py` finds in a process of its own."""
    script = Path(__file__).with_name("search_ways.py")
    arguments = [folder, title, *counts, way, json.dumps([asdict(row) for row in rows])]
    return elsewhere(script, *arguments)


if __name__ == "__main__":
    main()
