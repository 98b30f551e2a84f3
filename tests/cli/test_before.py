"""Weights that were quantized before the model was converted: it is said, and what is said to keep them does."""

from __future__ import annotations

import json
import re
import shlex

import numpy as np
import pytest

import corepress
from tests.process import run as process

DIGITS = "examples/digits.mlpackage"


def run(*arguments):
    done = process([*map(str, arguments)])
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(params=["--mode linear", "--mode linear --float-zero-point", "--mode linear_symmetric"])
def dense_again(request, tmp_path):
    """A package whose weights came from 4 bits in blocks of 16, as from a file of GGUF, but are dense."""
    packed, dense = tmp_path / "packed.mlpackage", tmp_path / "dense.mlpackage"
    dtype = "int4" if "symmetric" in request.param else "uint4"
    options = f"--dtype {dtype} --granularity per_block --block-size 16 --no-smaller-block {request.param}"
    run("quantize", DIGITS, "-o", packed, *options.split())
    run("decompress", packed, "-o", dense)
    return dense


def test_what_is_said_keeps_them(dense_again, tmp_path) -> None:
    said = run("info", dense_again).stdout
    line = re.search(r"quantized before +(.*(?:\n {4,}.*)*)", said)
    assert line is not None
    words = " ".join(line.group(1).split())
    assert "blocks of 16" in words
    command = shlex.split(words.partition("converted: ")[2].partition(" keeps ")[0])
    run(command[0], dense_again, "-o", tmp_path / "again.mlpackage", *command[1:])
    again = {weight.name: weight for weight in corepress.load(tmp_path / "again.mlpackage").weights()}
    kept = json.loads(run("info", dense_again, "--json").stdout)["quantized_before"]
    assert kept
    for weight in corepress.load(dense_again).weights():
        if weight.name in kept:
            dense = weight.dense().astype(np.float32)
            # The value, the scale times up to 15 and the zero point times the scale, each rounded to a float16.
            limit = 3 * 2**-11 * 2 * np.abs(dense).max()
            np.testing.assert_allclose(again[weight.name].dense(), dense, atol=limit)


def test_other_forms_say_what_they_lose(dense_again, tmp_path) -> None:
    found = run("palettize", dense_again, "-o", tmp_path / "out.mlpackage", "--nbits", "3", "--json")
    assert "before the model was converted" in json.loads(found.stdout)["hint"]


def test_nothing_is_said_of_others(tmp_path) -> None:
    assert "quantized before" not in run("info", DIGITS).stdout
