"""Files of arrays that are damaged."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from corepress.errors import FormatError
from corepress.formats.features import Interface
from corepress.runtime.samples import read_samples


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_damaged_arrays_are_refused(tmp_path: Path, save) -> None:
    """Each byte of the archive: either the arrays are read, or the file is refused as what it is."""
    path = tmp_path / "x.npz"
    save(path, x=np.arange(50, dtype=np.float32))
    data, rng, refused = path.read_bytes(), random.Random(0), 0
    for _ in range(2000):
        damaged = bytearray(data)
        for _ in range(rng.choice((1, 2, 3))):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        path.write_bytes(damaged)
        try:
            list(read_samples(path, Interface((), (), ())))
        except FormatError as error:
            assert str(path) in str(error)
            refused += 1
    assert refused > 200
