"""`corepress.load`: a model in which weights can be compressed, of either format that holds programs."""

from __future__ import annotations

import os
from pathlib import Path

from corepress.errors import UnsupportedError
from corepress.formats.kinds import refusal
from corepress.formats.mlprogram import Model
from corepress.formats.read import read


def load(path: str | Path | os.PathLike[str]) -> Model:
    """Read an `.mlpackage`, or a bare `.mlmodel`, that holds ML programs; or an `.aimodel`, a Core AI model.

    Of a package only the program is read into memory; weights stay in their file. Every reference into the weight file
    is checked. A Core AI model is read by Apple's library, and seen as an ML program: operations and weights have the
    names that they have there.

    Args:
        path: The package, file or Core AI model.

    Returns:
        The model, to look at, to compress and to save.

    Raises:
        FormatError: For anything that is not a sound ML program or Core AI model.
        MissingDependencyError: For a Core AI model, without coreai-core.

    Examples:
        >>> model = cto.load("model.mlpackage")
        >>> model.spec_version, len(model.weights())
        (9, 10)
    """
    found = read(Path(path))
    if not isinstance(found, Model):
        assert found.package is not None  # it was read from a path
        raise UnsupportedError(f"{found.package.root}: {refusal(found.spec)}")
    return found
