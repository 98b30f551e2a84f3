"""Files of arrays that are damaged; samples that do not fit, wherever they come from."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from corepress.errors import ConfigError, FormatError
from corepress.formats.features import Feature, Interface
from corepress.runtime.samples import checked, read_samples


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_damaged_arrays_are_refused(tmp_path: Path, save) -> None:
    """Each byte of the archive: either the arrays are read, or the file is refused as what it is."""
    path = tmp_path / "x.npz"
    save(path, x=np.arange(50, dtype=np.float32))
    data, rng, refused = path.read_bytes(), random.Random(0), 0
    for _ in range(600):
        damaged = bytearray(data)
        for _ in range(rng.choice((1, 2, 3))):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        path.write_bytes(damaged)
        try:
            list(read_samples(path, Interface((), (), ())))
        except FormatError as error:
            assert str(path) in str(error)
            refused += 1
    assert refused > 60


IMAGE = Feature("image", "array", (1, 2), np.float32)
INTERFACE = Interface((IMAGE,), (), ())


def test_samples_are_checked_one_at_a_time() -> None:
    good = {"image": np.zeros((1, 2))}
    taken = checked(iter([good, {None: np.ones((1, 2))}, {"image": np.zeros((1, 3))}]), INTERFACE, "data")
    assert next(taken) is good and list(next(taken)) == ["image"]
    with pytest.raises(ConfigError, match="sample 2 of data: input 'image' has the shape 1x3"):
        next(taken)


@pytest.mark.parametrize(("samples", "message"), [
    ([], "data is empty: at least one sample is needed"),
    ({"image": np.zeros((1, 2))}, "data must be a list or an iterable"),
    (3, "data must be a list or an iterable"),
    ([np.zeros((1, 2))], "sample 0 of data must be a dictionary"),
    ([{}], "sample 0 of data: input 'image' is missing"),
    ([{"other": 1}], "sample 0 of data: there is no input 'other'; the inputs are image"),
    ([{None: np.zeros((1, 2)), "image": 3}], "sample 0 of data: the name None stands for the only input"),
])  # fmt: skip
def test_what_does_not_fit_is_named(samples, message) -> None:
    with pytest.raises(ConfigError, match=message):
        list(checked(samples, INTERFACE, "data"))


def test_what_is_learnt_from_is_finite() -> None:
    broken = [{"image": np.array([[0, np.nan]])}]
    assert list(checked(broken, INTERFACE)) == broken
    with pytest.raises(ConfigError, match="sample 0 of sample_data: input 'image' holds NaN"):
        list(checked(broken, INTERFACE, finite=True))


def test_of_an_unknown_interface_only_the_kind_of_the_samples_is_checked() -> None:
    assert list(checked([{"anything": 1}], None)) == [{"anything": 1}]
