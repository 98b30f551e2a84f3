"""What `corepress migrate` and `corepress info --coreai` do and show."""

from __future__ import annotations

import warnings
from pathlib import Path

from corepress.cli import streams
from corepress.cli.options import Destination
from corepress.errors import importing


def foresee(source: Path, as_json: bool) -> None:
    """Say what can be brought over to Core AI, and what not."""
    _need("corepress info --coreai")
    from corepress.migrating.migrate import foresee_migration

    found = foresee_migration(source)
    if as_json:
        streams.document({
            "possible": not found.obstacles, "functions": list(found.functions), "compressed": found.compressed,
            "notes": list(found.notes), "obstacles": list(found.obstacles),
        })  # fmt: skip
        return
    from corepress.cli.show import facts

    facts([
        ("Core AI", "it can't be migrated" if found.obstacles else "corepress migrate can bring it over"),
        ("functions", ", ".join(found.functions)),
        ("compressed weights", str(found.compressed)),
        *(("obstacle", obstacle) for obstacle in found.obstacles),
        *(("note", note) for note in found.notes),
    ])  # fmt: skip


def _need(purpose: str) -> None:
    with importing(purpose), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import coreai_torch  # noqa: F401  # its extra brings PyTorch, too


def run(source: Path, to: Destination, precision: str, as_json: bool) -> None:
    """Write a Core AI model of a package, and say so."""
    _need("corepress migrate")
    from corepress.cli.show import facts, progress
    from corepress.formats.package import bytes_on_disk
    from corepress.formats.read import load
    from corepress.migrating.migrate import migrate
    from corepress.sizes import size

    model = load(source)
    with progress("migrate") as tell:
        found = migrate(model, to.output, precision=precision, overwrite=to.overwrite, progress=tell)
    sizes = model.size(), bytes_on_disk(found.path)
    if as_json:
        streams.document({
            "output": str(to.output), "size_before": sizes[0], "size_after": sizes[1],
            "functions": list(found.functions), "compressed": found.compressed, "notes": list(found.notes),
        })  # fmt: skip
        return
    facts([
        ("written to", str(to.output)),
        ("size", f"{size(sizes[0])} -> {size(sizes[1])}"),
        ("functions", ", ".join(found.functions)),
        ("compressed weights", str(found.compressed)),
        *(("note", note) for note in found.notes),
        ("next", f"corepress verify {source} {to.output} --data DATA compares it, as Apple's runtime runs it"),
    ])  # fmt: skip
