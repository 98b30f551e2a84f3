"""A fault of the program is one sentence for the user; a mistake in an operation of ours is no fault of the program."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from corepress.errors import CorepressError, FormatError
from corepress.formats.mlprogram.values import immediate_value, string_value
from corepress.runtime.forms import Form, fitted
from corepress.runtime.registry import OPERATIONS
from tests.runtime.hand_made import add, model, predict

WORDS = ("valid", "same", "custom", "fp16", "int32", "uint8", "fp32", "add", "linear", "DEFAULT", "ab,bc->ac", "")


def tensors(rng: random.Random) -> Any:
    """A constant of some type and shape, with some numbers that make trouble."""
    shape = tuple(rng.choice((0, 1, 1, 2, 3, 4)) for _ in range(rng.choice((0, 0, 1, 1, 2, 3, 4, 5))))
    dtype = rng.choice(("float32", "float32", "float16", "int32", "int32", "bool", "int8", "uint8", "int16", "uint16"))
    numbers = rng.choice(((0,), (1,), (2, 1), (0, 1, 2), (-1,), (0, -1, 5), (2**31 - 1,), (-(2**31),), (1e30, -1.5)))
    array = np.resize(np.array(numbers, np.float64), shape)
    with np.errstate(all="ignore"):
        if dtype.startswith("float") and rng.random() < 0.1:
            array = np.resize(np.array([np.nan, np.inf, -np.inf, 0.5]), shape)
        return immediate_value(np.asarray(array, dtype))


def argument(form: Form, rng: random.Random) -> Any:
    """Something that may be of the wanted form, or anything else."""
    anything = rng.random() < 0.15
    if form.kinds == (str,) or (anything and rng.random() < 0.4):
        return string_value(rng.choice(WORDS))
    if anything and rng.random() < 0.5:
        return rng.choice(("list", "label", "likeliest", ["x", "list"], []))
    if not form.python and rng.random() < 0.5:
        return rng.choice(("x", "whole", ["x", "x"] if form.many else "x"))
    if form.python and form.many:
        return immediate_value(
            np.array([rng.choice((0, 0, 1, 1, 2, -1, 3)) for _ in range(rng.randrange(5))], np.int32)
        )
    if form.python and rng.random() < 0.8:
        return immediate_value(np.array(rng.choice((0, 1, 1, 2, 3, -1, 0.5, 2**31 - 1)), np.float32))
    return tensors(rng)


def attack(kind: str, rng: random.Random) -> Any:
    """A program with one operation whose arguments are drawn at random."""
    spec, block = model(rng.choice(((1, 4), (1, 2, 3, 4), (4,), (2, 2, 4))))
    add(block, "cast", "whole", x="x", dtype=string_value("int32"))
    add(block, "make_list", "list", elem_shape=[np.ones(1, np.int32)])
    add(block, "classify", "label", "likeliest", probabilities=1.0, classes=np.ones(1, np.int32))
    known = OPERATIONS[kind]
    names = [name for name in known.forms if name in known.required or rng.random() < 0.5]
    names = [name for name in names if rng.random() < 0.97]
    given = {name: argument(known.forms[name], rng) for name in names}
    results = "yzuvw"[: rng.choice((1, 1, 1, 2, 3, 4))]
    add(block, kind, *results, **given)
    add(block, "identity", "out", x=rng.choice(results))
    return spec


def test_whatever_the_arguments_are_it_is_a_sentence(tmp_path) -> None:
    """Each operation, with a few draws: only a CorepressError, never what a mistake of ours would raise."""
    rng = random.Random(0)
    ran = 0
    for kind, number in itertools.product(sorted(OPERATIONS), range(5)):
        try:
            predict(attack(kind, rng), tmp_path)
            ran += 1
        except CorepressError as error:
            assert "\n" not in str(error), error
        except BaseException as error:
            raise AssertionError(f"{kind}, draw {number}: {type(error).__name__}: {error}") from error
    assert ran > len(OPERATIONS) // 4  # the draws are not so wild that nothing is ever computed


@pytest.mark.parametrize("mistake", [AttributeError, TypeError, KeyError, NameError, AssertionError])
def test_a_mistake_of_ours_is_not_called_a_fault_of_the_program(mistake, tmp_path, monkeypatch) -> None:
    spec, block = model()
    add(block, "relu", "y", x="x")

    def broken(x: torch.Tensor) -> torch.Tensor:
        raise mistake("'Tensor' object has no attribute 'frobnicate'")

    monkeypatch.setitem(OPERATIONS, "relu", replace(OPERATIONS["relu"], function=broken))
    with pytest.raises(mistake, match="frobnicate"):
        predict(spec, tmp_path)


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory"), None])
def test_memory_that_runs_out_has_its_own_sentence(error, tmp_path, monkeypatch) -> None:
    def greedy(x: torch.Tensor) -> torch.Tensor:
        if error is not None:
            raise error
        return torch.empty(1 << 60)  # PyTorch's own error

    spec, block = model()
    add(block, "relu", "y", x="x")
    monkeypatch.setitem(OPERATIONS, "relu", replace(OPERATIONS["relu"], function=greedy))
    with pytest.raises(CorepressError, match="not enough memory to compute relu 'the relu'") as raised:
        predict(spec, tmp_path)
    assert not isinstance(raised.value, FormatError)


INT, INTS, TEXTS = Form((int,)), Form((int,), many=True), Form((int, str), many=True)


@pytest.mark.parametrize(
    "value,form,expected",
    [
        (np.array([[3.0]]), INT, 3),
        (torch.tensor(True), INT, 1),
        (torch.tensor([[1, 2], [3, 4]]), INTS, [1, 2, 3, 4]),
        (np.array(2.0), INTS, [2]),
        ([True, 2.0], INTS, [1, 2]),
        (np.array(0.1, np.float32), Form((float,)), float(np.float32(0.1))),
        (np.array(2), Form((bool,)), True),
        ("is0", TEXTS, ["is0"]),
        ([3, "is0"], TEXTS, [3, "is0"]),
        (np.array([4, 5]), TEXTS, [4, 5]),
    ],
)
def test_numbers_take_the_form_that_is_wanted(value, form, expected) -> None:
    found = fitted(value, form, "it")
    assert found == expected
    wanted, kinds = (expected, found) if isinstance(expected, list) else ([expected], [found])
    assert [type(item) for item in kinds] == [type(item) for item in wanted]


@pytest.mark.parametrize(
    "value,form",
    [
        (np.array(0.5), INT),
        (np.array(np.nan), INT),
        (np.array(np.inf), INT),
        (np.array(1e30), INT),
        (np.array(2**63, np.uint64), INT),
        (np.array([1, 2]), INT),
        (np.zeros(0), INT),
        ("1", INT),
        ([[1]], INTS),
        (["1"], INTS),
        (np.array(1), Form((str,))),
        (3, Form((torch.Tensor,))),
    ],
)
def test_what_has_another_form_is_refused(value, form) -> None:
    with pytest.raises(FormatError, match=r"^it: .* needed, not "):
        fitted(value, form, "it")


def test_the_argument_is_named(tmp_path) -> None:
    for arguments, words in (
        ({}, "relu 'the relu' .*'x' is missing"),
        ({"x": ["x", "x"]}, "relu 'the relu' .*, x: one value is needed, not 2"),
        ({"x": string_value("a")}, "relu 'the relu' .*, x: a tensor is needed, not text"),
        ({"x": "list"}, "relu 'the relu', x: a tensor is needed, not a TensorList"),
        ({"x": "x", "return": "x"}, "no argument 'return'"),
    ):
        spec, block = model()
        add(block, "make_list", "list", elem_shape=[np.ones(1, np.int32)])
        add(block, "relu", "y", **arguments)
        with pytest.raises(FormatError, match=words):
            predict(spec, tmp_path)
