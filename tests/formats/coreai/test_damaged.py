"""Programs that are damaged, with a hash that fits: one sentence, and the process goes on."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import corepress
from corepress import runtime
from corepress.errors import CorepressError, FormatError
from corepress.formats.coreai.guarded import outlived
from tests.formats.coreai.made import COLUMNS, layer

pytest.importorskip("coreai")
ENDS = 4096  # bytes: what describes operations lies before and behind the constants


def damaged(source: Path, place: Path, seeds: range) -> Iterator[Path]:
    """Copies of a model in which one to four bytes are others."""
    data = (source / "main.mlirb").read_bytes()
    for seed in seeds:
        rng, changed = random.Random(seed), bytearray(data)
        for _ in range(rng.randint(1, 4)):
            ends = rng.randrange(ENDS), len(data) - 1 - rng.randrange(ENDS)
            changed[rng.choice((rng.randrange(len(data)), *ends))] = rng.randrange(256)
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(source, place)
        (place / "main.mlirb").write_bytes(changed)
        (place / "main.hash").write_bytes(hashlib.sha256(changed).digest())
        yield place


def taken(path: Path) -> bool:
    """Whether a model can be read, and its weights; else it was refused in one sentence."""
    try:
        for weight in corepress.load(path).weights():
            weight.read()
    except CorepressError as error:
        assert "\n" not in str(error) and len(str(error)) < 400 + len(str(path))
        return False
    return True


@pytest.mark.parametrize("seeds", [range(30), pytest.param(range(30, 700), marks=pytest.mark.slow)], ids=str)
def test_the_process_goes_on(seeds: range, tmp_path: Path, capfd: Any) -> None:
    source = layer(tmp_path / "dense.aimodel")
    found = [taken(path) for path in damaged(source, tmp_path / "damaged.aimodel", seeds)]
    assert 0 < sum(found) < len(found)
    assert capfd.readouterr().err == ""  # the library itself says nothing
    assert taken(source)


@pytest.mark.skipif(sys.platform != "linux", reason="a copy of the process is cheap on Linux alone")
@pytest.mark.parametrize(("place", "byte"), [(122, 83), (125, 19), (144, 7), (164, 7)])
def test_an_attribute_that_contains_itself_is_one_sentence(place: int, byte: int, tmp_path: Path, capfd: Any) -> None:
    """The library runs out of stack, in a copy of the process."""
    path = layer(tmp_path / "dense.aimodel")
    changed = bytearray((path / "main.mlirb").read_bytes())
    changed[place] = byte
    (path / "main.mlirb").write_bytes(changed)
    (path / "main.hash").write_bytes(hashlib.sha256(changed).digest())
    with pytest.raises(FormatError, match="Core AI can't read it: it is damaged"):
        corepress.load(path)
    assert capfd.readouterr().err == ""


@pytest.mark.skipif(sys.platform != "linux", reason="a copy of the process is cheap on Linux alone")
def test_a_copy_of_the_process_goes_first() -> None:
    assert outlived(lambda: None)
    assert outlived(lambda: 1 / 0)  # an error is no end
    assert not outlived(lambda: os.kill(os.getpid(), signal.SIGSEGV))
    assert not outlived(os.abort)


@pytest.mark.parametrize("seeds", [range(6), pytest.param(range(6, 120), marks=pytest.mark.slow)], ids=str)
def test_what_can_not_be_read_is_not_run(seeds: range, tmp_path: Path) -> None:
    """The runtime would end the process for the same programs; it doesn't get them."""
    source = layer(tmp_path / "dense.aimodel")
    for path in damaged(source, tmp_path / "damaged.aimodel", seeds):
        try:
            model = runtime.load(path)
        except CorepressError as error:
            assert "\n" not in str(error)
            continue
        try:
            model.predict({"x": np.eye(COLUMNS, dtype=np.float16)})
        except CorepressError as error:
            assert "\n" not in str(error)
