"""Sequences on disk: what is written in the documented layouts is read back, and what is not one is refused."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corepress.errors import ConfigError, DataError
from corepress.formats.features import Feature, Interface
from corepress.runtime.samples import read_samples

IDS = Feature("ids", "array", (1, 1), np.int32, ranges=((1, 1), (1, 8)))
MASK = Feature("mask", "array", (1, 4), np.float32)
STATE = Feature("cache", "array", (4, 4), np.float16)
INTERFACE = Interface((IDS, MASK), (), (STATE,))
NO_STATE = Interface((IDS, MASK), (), ())


def step(length: int, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {"ids": rng.integers(0, 9, (1, length)).astype(np.int32), "mask": rng.random((1, 4)).astype(np.float32)}


def same(one: Any, other: Any) -> bool:
    return len(one) == len(other) and all(
        a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)
        for a, b in zip(one, other, strict=True)
    )


LENGTHS = st.lists(st.lists(st.integers(1, 8), min_size=1, max_size=12), min_size=1, max_size=3)


def made(lengths: list[list[int]]) -> list[list[dict[str, Any]]]:
    return [[step(n, 100 * i + j) for j, n in enumerate(own)] for i, own in enumerate(lengths)]


@settings(max_examples=20, deadline=None)
@given(LENGTHS, st.integers(1, 3))
def test_folders_of_steps(lengths, digits) -> None:
    sequences = made(lengths)
    with tempfile.TemporaryDirectory() as folder:
        for i, sequence in enumerate(sequences):
            own = Path(folder) / f"text{i:0{digits}}"
            own.mkdir()
            for j, arrays in enumerate(sequence):
                np.savez(own / f"{j:0{digits}}.npz", **arrays)  # 10 comes after 9, with or without zeros before it
        found = list(read_samples(folder, INTERFACE))
    assert all(map(same, found, sequences)) and len(found) == len(sequences)


@settings(max_examples=20, deadline=None)
@given(LENGTHS, st.integers(1, 3))
def test_files_of_steps(lengths, digits) -> None:
    sequences = made(lengths)
    with tempfile.TemporaryDirectory() as folder:
        for i, sequence in enumerate(sequences):
            arrays = {f"{j:0{digits}}/{name}": value for j, own in enumerate(sequence) for name, value in own.items()}
            np.savez(Path(folder) / f"{i}.npz", **arrays)
        found = list(read_samples(folder, INTERFACE))
    assert all(map(same, found, sequences)) and len(found) == len(sequences)


def test_batches_of_sequences_in_one_file(tmp_path) -> None:
    """The first axis counts the sequences, and what has no number belongs to each step."""
    ids = [np.arange(6).reshape(3, 2), np.arange(3).reshape(3, 1, 1)]
    mask = np.ones((1, 4), np.float32)
    np.savez(tmp_path / "data.npz", mask=mask, other=mask, **{f"{j}/ids": own for j, own in enumerate(ids)})
    found = list(read_samples(tmp_path / "data.npz", INTERFACE))
    assert [[own["ids"].tolist() for own in one] for one in found] == [
        [[[0, 1]], [[0]]], [[[2, 3]], [[1]]], [[[4, 5]], [[2]]],
    ]  # fmt: skip
    assert all(np.array_equal(own["mask"], mask) and own.keys() == {"ids", "mask"} for one in found for own in one)


def write(folder: Path, layout: dict[str, dict[str, Any]]) -> None:
    for name, arrays in layout.items():
        (folder / name).parent.mkdir(exist_ok=True)
        np.savez(folder / name, **arrays)


ONE = step(1, 0)
BATCH = {"ids": np.zeros((3, 1, 1)), "mask": np.zeros((3, 1, 4))}


@pytest.mark.parametrize(("layout", "error", "message"), [
    ({"a.npz": ONE, "b/0.npz": ONE}, DataError, "it holds the sample a.npz and the folder of steps b: keep one kind"),
    ({"b/0.npz": ONE, "b/1.npz": BATCH}, ConfigError, "1.npz: it holds 3 samples, but is one step of a sequence"),
    ({"b/0.npz": {f"{j}/{name}": ONE[name] for j in (0, 1) for name in ONE}}, ConfigError, "it holds a sequence, but"),
    ({"a.npz": {"0/ids": ONE["ids"], "0/mask": ONE["mask"], "1/ids": ONE["ids"]}}, ConfigError,
     "a.npz: it has no array for the input 'mask' of step 1, but ids"),
    ({"a.npz": {"0/ids": ONE["ids"], "00/ids": ONE["ids"], "mask": ONE["mask"]}}, ConfigError,
     "it has two arrays for 'ids' of step 0"),
    ({"a.npz": {"0/ids": np.zeros((3, 9)), "mask": ONE["mask"]}}, ConfigError,
     "array 'ids' of step 0 is 3x9, but the input is 1x1..8"),
    ({"a.npz": {"0/ids": np.zeros((3, 1)), "1/ids": np.zeros((2, 1)), "mask": ONE["mask"]}}, ConfigError,
     r"its steps hold different numbers of samples \(0: 3, 1: 2\)"),
])  # fmt: skip
def test_layouts_that_are_none(tmp_path, layout, error, message) -> None:
    write(tmp_path, layout)
    with pytest.raises(error, match=message):
        list(read_samples(tmp_path, INTERFACE))


def test_beside_samples_for_a_model_without_a_state_folders_are_ignored(tmp_path) -> None:
    write(tmp_path, {"a.npz": ONE, "b/0.npz": ONE})
    assert same(list(read_samples(tmp_path, NO_STATE)), [ONE])


def test_an_input_may_be_named_as_a_step(tmp_path) -> None:
    odd = Interface((Feature("0/x", "array", (2,), np.float32),), (), ())
    np.savez(tmp_path / "a.npz", **{"0/x": np.ones(2)})
    (found,) = read_samples(tmp_path / "a.npz", odd)
    assert isinstance(found, dict) and found["0/x"].tolist() == [1, 1]
