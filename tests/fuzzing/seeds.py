"""The sound packages that damage begins with: of each structure, and compressed in each form."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from pathlib import Path

from corepress.formats.mlprogram import load
from tests import packages, structures
from tests.foreign.old import detector
from tests.fuzzing.targets import STEPS


def seeds(folder: Path) -> list[Path]:
    """Make them in a folder."""
    logging.getLogger("coremltools").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        made = [build(folder) for build in (structures.nested, structures.pipeline, structures.stateful,
                                            structures.multifunction, detector)]  # fmt: skip
        made += [packages.make_package(folder, target) for target in ("iOS15", "iOS18")]
    plain = made[-1]
    for number, step in enumerate(STEPS):
        made.append(step(load(plain)).save(folder / f"compressed{number}.mlpackage").path)
    return made
