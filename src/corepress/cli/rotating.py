"""What `corepress rotate` does and shows."""

from __future__ import annotations

from pathlib import Path

from corepress.cli import streams
from corepress.cli.options import Destination


def run(source: Path, to: Destination, seed: int, as_json: bool) -> None:
    """Rotate a package, save it, and say so."""
    from corepress.coreml import rotate
    from corepress.formats.opening import load
    from corepress.formats.package import check_output

    check_output(to.output, source, overwrite=to.overwrite)
    model = load(source)
    saved = rotate(model, seed=seed).save(to.output, overwrite=to.overwrite)
    if as_json:
        streams.document({"output": str(to.output), "size_before": model.size(), "size_after": saved.size()})
        return
    from corepress.cli.show import facts
    from corepress.sizes import size

    facts([
        ("written to", str(to.output)),
        ("size", f"{size(model.size())} -> {size(saved.size())}"),
        ("next", "palettize or quantize it, which loses less now; verify compares the answers"),
    ])  # fmt: skip
