"""Holds models that are committed to a size: the hook `small-models` for pre-commit, of `.pre-commit-hooks.yaml`.

    python -m corepress.cli.committed --max-size 10MB --max-bits 8 FILE ...

A file inside a package stands for the package. The exit code is 1 when a model is too large.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from corepress.description import describe
from corepress.errors import ConfigError, CorepressError
from corepress.sizes import bytes_of, size


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE")
    parser.add_argument("--max-size", type=given_size, default=math.inf, help='of a model, such as "10 MB"')
    parser.add_argument("--max-bits", type=float, default=math.inf, help="for each weight, on average")
    options = parser.parse_args(arguments)
    said = [text for model in models(options.files) for text in complaints(model, options.max_size, options.max_bits)]
    if said:
        print("\n".join(said))
    return int(bool(said))


def models(files: Sequence[Path]) -> list[Path]:
    """The models that the files belong to, each once."""
    found = {}
    for file in files:
        packages = [path for path in (file, *file.parents) if path.suffix == ".mlpackage"]
        if packages or file.suffix == ".mlmodel":
            found[packages[-1] if packages else file] = True
    return [model for model in found if model.exists()]


def complaints(model: Path, max_size: float, max_bits: float) -> Iterator[str]:
    """What is wrong with a model, in sentences that say what to do."""
    try:
        described = describe(model)
    except CorepressError as error:
        yield str(error)
        return
    if described.size > max_size:
        yield f"{model}: it has {size(described.size)}, but {size(int(max_size))} are allowed. {_advice(model)}"
    elements = sum(math.prod(weight.shape) for weight in described.weights)
    bits = 8 * described.stored_bytes / elements if elements else 0
    if bits > max_bits:
        yield f"{model}: its weights have {bits:.1f} bits on average, but {max_bits:g} are allowed. {_advice(model)}"


def _advice(model: Path) -> str:
    return f"Make it smaller: corepress palettize {model} -o {model.with_stem(f'{model.stem}-small')} --nbits 4"


def given_size(text: str) -> int:
    """The bytes of a size, as argparse wants it."""
    try:
        return bytes_of(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size: {error}") from error


if __name__ == "__main__":
    sys.exit(main())
