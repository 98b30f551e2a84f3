"""Fields of layers that hold what they should not give one sentence, or an answer; never another exception."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from corepress.errors import CorepressError
from tests.runtime.networks.layers.test_layers import SEVERAL, SINGLE
from tests.runtime.networks.made import network, program
from tests.runtime.networks.test_control import choice, counting

CASES: list[tuple[Any, list[Any]]] = [
    *[(lambda b, case=case: add(b, case[0], case[1], 1), [case[2]]) for case in SINGLE],
    *[(lambda b, case=case: add(b, case[0], case[1], len(case[2])), case[2]) for case in SEVERAL],
    (choice, [[1], [1, 2]]),
    (lambda b: counting(b, max_iterations=3), [[1]]),
    (lambda b: b.add_convolution("l", 6, 4, 3, 3, 1, 1, "same", 1, np.ones((3, 3, 6, 4)), None, False, input_name="x0",
                                 output_name="y0"), [np.ones((1, 6, 5, 5))]),
    (lambda b: b.add_pooling("l", 3, 3, 1, 1, "AVERAGE", "VALID", "x0", "y0"), [np.ones((1, 6, 5, 5))]),
    (lambda b: b.add_pooling3d("l", "x0", "y0", "MAX", 2, 2, 2, 1, 1, 1), [np.ones((1, 2, 4, 4, 4))]),
    (lambda b: b.add_inner_product("l", np.ones((4, 3)), np.ones(4), 3, 4, True, "x0", "y0"), [[1, 2, 3]]),
    (lambda b: b.add_random_normal_static("l", "y0", [2, 3]), [[1]]),
    (lambda b: b.add_categorical_distribution("l", "x0", "y0", 5), [[1, 2, 3]]),
    (lambda b: b.add_scatter("l", ["x0", "x1", "x2"], "y0"), [[1, 2, 3], [0], [4]]),
    (lambda b: b.add_nms("l", ["x0", "x1"], ["y0", "a", "b", "c"]), [np.ones((1, 5, 4)), np.ones((1, 5, 2))]),
    (lambda b: b.add_crop_resize("l", ["x0", "x1"], "y0", 2, 2), [np.ones((1, 1, 2, 5, 5)), np.ones((1, 1, 4, 1, 1))]),
    (lambda b: b.add_reverse_sequence("l", ["x0", "x1"], "y0"), [np.ones((2, 3)), [1, 2]]),
    (lambda b: b.add_topk("l", ["x0"], ["y0", "a"], 1), [[1, 2, 3]]),
]  # fmt: skip
NUMBERS = [-1, 0, 1, 7, 1 << 31, -(1 << 31), (1 << 62) + 1, -(1 << 62), (1 << 64) - 1, float("nan"), 1e30, -0.5]


def add(b: Any, name: str, arguments: dict[str, Any], inputs: int) -> None:
    names = [f"x{i}" for i in range(inputs)]
    several = inputs > 1 or name in ("cumsum", "elementwise", "crop")
    given = {} if "input_names" in arguments else {"input_names": names} if several else {"input_name": "x0"}
    getattr(b, f"add_{name}")("l", output_name="y0", **given, **arguments)


def messages(message: Any) -> Iterator[Any]:
    """A message and all within it."""
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for inner in value if hasattr(value, "append") or hasattr(value, "add") else [value]:
                yield from messages(inner)


def damage(layer: Any, rng: random.Random) -> None:
    """Change one field of a layer or of a message in it."""
    message = rng.choice(list(messages(layer)))
    fields = [field for field in message.DESCRIPTOR.fields if field.message_type is None]
    if not fields:
        return
    field = rng.choice(fields)
    with contextlib.suppress(ValueError, TypeError, OverflowError):  # the field can't hold it
        value: Any = rng.choice(NUMBERS) if field.cpp_type != field.CPPTYPE_STRING else "nothing"
        value = int(value) if field.cpp_type in (1, 2, 3, 4, 7, 8) else value
        repeated = getattr(message, field.name)
        if not hasattr(repeated, "append"):
            setattr(message, field.name, value)
        elif len(repeated) and rng.random() < 0.5:
            del repeated[rng.randrange(len(repeated)) :]
        else:
            repeated.append(value)


@pytest.mark.parametrize("case", range(len(CASES)))
def test_damaged_layers(case) -> None:
    build, inputs = CASES[case]
    arrays = [np.asarray(x, np.float32) for x in inputs]
    whole = network(build, *(x.shape for x in arrays))
    rng = random.Random(case)
    for _ in range(25):
        spec = type(whole)()
        spec.CopyFrom(whole)
        damage(rng.choice(spec.neuralNetwork.layers), rng)
        with contextlib.suppress(CorepressError):
            program(spec).predict({f"x{i}": x for i, x in enumerate(arrays)})


@pytest.mark.parametrize("case", range(len(CASES)))
def test_other_numbers_of_inputs_and_outputs(case) -> None:
    build, inputs = CASES[case]
    arrays = [np.asarray(x, np.float32) for x in inputs]
    whole = network(build, *(x.shape for x in arrays))
    given = {f"x{i}": x for i, x in enumerate(arrays)}
    for change in (
        lambda layer: layer.ClearField("input"),
        lambda layer: layer.input.pop() if layer.input else None,
        lambda layer: layer.input.append("x0"),
        lambda layer: layer.output.append("more"),
        lambda layer: layer.output.insert(0, "first"),
        lambda layer: layer.ClearField(layer.WhichOneof("layer")),
    ):
        spec = type(whole)()
        spec.CopyFrom(whole)
        change(spec.neuralNetwork.layers[-1])
        with contextlib.suppress(CorepressError):
            program(spec).predict(given)
