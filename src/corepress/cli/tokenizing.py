"""What `corepress tokenize` does and shows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from corepress.cli import streams
from corepress.cli.options import Destination


def run(model: Path, files: Sequence[Path], tokenizer: Path, to: Destination, as_json: bool, **keywords: Any) -> None:
    """Make samples, write them, and say so."""
    from corepress.formats.atomic import check_destination
    from corepress.runtime.samples import NPZ, write_samples
    from corepress.sequences import steps_of
    from corepress.tokenizing.files import read_texts
    from corepress.tokenizing.tokenize import tokenize

    check_destination(to.output, NPZ, overwrite=to.overwrite, sources=[model])
    samples = tokenize(model, read_texts(files) if files else None, tokenizer, **keywords)
    write_samples(to.output, samples, overwrite=to.overwrite)
    steps = steps_of(samples[0])
    shapes = {name: [*array.shape] for name, array in steps[0].items()}
    if as_json:
        streams.document({"output": str(to.output), "samples": len(samples), "steps": len(steps), "inputs": shapes})
        return
    from corepress.cli.show import facts

    facts([
        ("written to", str(to.output)),
        ("samples", f"{len(samples)}, each of {len(steps)} steps" if len(steps) > 1 else str(len(samples))),
        ("inputs", ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in shapes.items())),
        ("next", "give it to --data of the commands that learn and compare"),
    ])  # fmt: skip
