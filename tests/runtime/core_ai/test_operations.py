"""Single operations of Core AI programs. The oracle is Apple's own runtime, on programs of Apple's own functions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from corepress import runtime
from corepress.errors import UnsupportedError
from corepress.formats.coreai import library
from corepress.formats.coreai.words import plain_name
from corepress.runtime.registry import CORE_AI
from tests.runtime.core_ai.made import built, same

author: Any = pytest.importorskip("coreai.authoring")
constant: Any = pytest.importorskip("coreai.authoring.constant").constant


def numbers(seed: int, *shape: int, dtype: str = "float32", low: float = -2, high: float = 2) -> NDArray[Any]:
    rng = np.random.default_rng(seed)
    if dtype == "bool":
        return rng.random(shape) < 0.5
    if np.dtype(dtype).kind == "f":
        return rng.uniform(low, high, shape).astype(dtype)
    return rng.integers(int(low), int(high) + 1, shape).astype(dtype)


def ints(*values: int) -> NDArray[Any]:
    return np.array(values, np.int32)


def sizes(*values: int) -> NDArray[Any]:
    return np.array(values, np.uint32)


X, IMAGE = numbers(0, 3, 4, 5), numbers(1, 2, 4, 9, 8)
UNARY = (
    "abs_", "asin", "acos", "atan", "atanh", "asinh", "cos", "cosh", "erf", "exp", "relu", "round_", "sigmoid", "silu",
    "sin", "sinh", "tan", "tanh", "gelu",
)  # fmt: skip
BINARY = (
    "add", "sub", "mul", "divide", "floor_divide", "modulo", "maximum", "minimum", "equal", "not_equal", "greater",
)  # fmt: skip
LOGICAL = ("and", "or", "xor")

# By name: what makes values of values, and the arrays that these are like.
CASES: dict[str, Any] = {
    "elements": (lambda x: [getattr(author, name)(x) for name in UNARY], numbers(2, 3, 7, low=-0.9, high=0.9)),
    "elements above 1": (
        lambda x: [author.acosh(x), author.log(x), author.rsqrt(x), author.sqrt(x)], numbers(3, 40, low=1, high=9),
    ),
    "halves are rounded to even": (author.round_, np.array([-1.5, -0.5, 0.5, 1.5, 2.5], "f4")),
    "gelu, approximated": (lambda x: [author.gelu(x, approximate=how) for how in ("tanh", "sigmoid")], X),
    "two": (lambda x, y: [getattr(author, f"broadcasting_{name}")(x, y) for name in BINARY], X, numbers(4, 4, 1)),
    "two, of whole numbers": (
        lambda x, y: [getattr(author, f"broadcasting_{name}")(x, y) for name in BINARY],
        numbers(5, 6, 8, dtype="int32", low=-20, high=20), np.array([[-3], [7], [2], [-5], [1], [9]], np.int32),
    ),
    "power": (author.broadcasting_pow, numbers(6, 3, 4, low=0.1), numbers(7, 4)),
    "true and false": (
        lambda x, y: [author.not_(x), *(getattr(author, f"broadcasting_{name}")(x, y) for name in LOGICAL)],
        numbers(8, 4, 5, dtype="bool"), numbers(9, 5, dtype="bool"),
    ),
    "bits": (
        lambda x, y: [getattr(author, f"bitwise_{name}")(x, y) for name in LOGICAL],
        numbers(10, 9, dtype="int32", low=-99, high=99), numbers(11, 9, dtype="int32", low=-99, high=99),
    ),
    "where": (author.broadcasting_where, numbers(12, 4, 1, dtype="bool"), numbers(13, 1, 5), numbers(14, 4, 5)),
    "casts": (
        lambda x: [author.cast(x, kind) for kind in (np.int32, np.uint8, np.uint32, np.bool_, np.float16)],
        np.array([0.0, 0.9, 1.5, 2.5, 77.7], "f4"),
    ),
    "wrapped": (lambda x: author.cast(x, np.uint32), ints(-1, -2, 3)),
    "reduced": (
        lambda x: [
            getattr(author, f"reduce_{name}")(x, ints(0, -1)) for name in ("max", "mean", "min", "product", "sum")
        ],
        X,
    ),
    "all and any": (lambda x: [author.all_(x, ints(1)), author.any_(x, ints(0, 1))], numbers(15, 3, 2, dtype="bool")),
    "largest": (lambda x: author.argmax(x, np.int32(1)), np.array([[1, 3, 3, 0], [0, 0, 0, 0], [5, 2, 9, 9]], "f4")),
    "prefixes": (
        lambda x: [
            author.scan(x, np.uint32(axis), reverse, combiner=how)
            for axis, reverse in ((0, False), (2, True)) for how in ("sum", "product", "min", "max")
        ],
        X,
    ),
    "softmax": (lambda x: [author.softmax(x, np.int32(axis)) for axis in (0, -1)], X),
    "products": (
        lambda x, y, z: [author.broadcasting_batch_matmul(x, y), author.batch_matmul(x, z)],
        X, numbers(16, 5, 6), numbers(17, 3, 5, 2),
    ),
    "shapes": (
        lambda x: [
            author.transpose(x, sizes(2, 0, 1)), author.reshape(x, ints(5, -1)), author.expand_dims(x, ints(3, -4)),
            author.shrink_dims(author.reshape(x, ints(1, 60, 1)), ints(0, -1)), author.reverse(x, ints(0, -1)),
            author.tile(x, sizes(2, 3)), author.get_shape(x),
        ],
        X,
    ),
    "broadcast": (
        lambda x: [
            author.broadcast_to(x, sizes(2, 3, 4)), author.broadcast_in_dims(x, sizes(6), ints(-2)),
            author.broadcast_shapes(author.get_shape(x), sizes(5, 3, 4)),
        ],
        numbers(18, 1, 4),
    ),
    "slices": (
        lambda x: [
            author.slice_(x, ints(*begin), ints(*end), ints(*step))
            for begin, end, step in (
                ((0, 1, 2), (3, 3, 99), (1, 1, 1)), ((-2, -3, -99), (-1, -1, -1), (1, 2, 3)),
                ((2, 3, 4), (0, 0, 1), (-1, -1, -2)), ((-1, -1, -2), (-4, -5, -6), (-1, -2, -1)),
            )
        ],
        X,
    ),
    "slice update": (
        lambda x, y: [
            author.slice_update(x, ints(0, 1, 2), ints(2, 3, 5), ints(1, 1, 1), y),
            author.slice_update(x, ints(2, 3, 4), ints(0, 0, 1), ints(-1, -2, -1), y),
        ],
        X, numbers(19, 2, 2, 3),
    ),
    "split": (lambda x: [*author.split(x, sizes(1, 3), np.int32(1)), *author.split(x, np.uint32(2), np.int32(-1))], X),
    "concat": (lambda x, y: author.concat(np.int32(1), [x, y, x]), X, numbers(20, 3, 2, 5)),
    "padded": (
        lambda x: [
            author.pad(x, sizes(1, 2, 0, 3, 2, 1), np.float32(0.5), padding_mode=how)
            for how in ("constant", "replicate", "reflect", "symmetric", "circular")
        ],
        numbers(21, 3, 4, 5),
    ),
    "gathered": (
        lambda x, i, j: [author.gather_along_axis(x, i, np.int32(1)), author.gather_nd(x, j)],
        X, numbers(22, 3, 6, 5, dtype="int32", low=-4, high=3), numbers(23, 7, 2, dtype="int32", low=-3, high=2),
    ),
    "scattered": (
        lambda x, i, y: [
            author.scatter_along_axis(x.type, x, i, y, np.int32(1), scatter_mode=how)
            for how in (None, "update", "add", "sub", "mul", "max", "min")
        ],
        X, np.argsort(numbers(24, 3, 4, 5), 1)[:, :2].astype("i4"), numbers(25, 3, 2, 5),
    ),
    "scattered by rows": (author.scatter_nd, X, ints(2, 0)[:, None], numbers(26, 2, 4, 5)),
    "ordered": (
        lambda x: [
            order(x, np.int32(axis), np.bool_(down), np.bool_(True))
            for order in (author.sort, author.argsort) for axis, down in ((0, False), (-1, True))
        ],
        numbers(27, 6, 7),
    ),
    "not zero": (lambda x: author.cast(author.non_zero(x), np.int32), numbers(28, 4, 5, dtype="int32", low=0, high=1)),
    "range": (lambda x: author.add(author.range_(ints(3)[0], ints(12)[0], ints(2)[0]), x), ints(0, 0, 0, 0, 0)),
    "convolutions": (
        lambda x, w, v: [
            author.conv2d(x, w, sizes(2, 1), sizes(1, 2), np.uint32(1)),
            author.conv2d(x, v, sizes(1, 1), sizes(1, 1), np.uint32(4)),
        ],
        IMAGE, numbers(29, 3, 4, 3, 2), numbers(30, 8, 1, 2, 2),
    ),
    "convolution of volumes": (
        lambda x, w: author.conv3d(x, w, sizes(1, 2, 1), sizes(1, 1, 1), np.uint32(1)),
        numbers(31, 1, 2, 4, 5, 6), numbers(32, 3, 2, 2, 2, 3),
    ),
    "transposed convolutions": (
        lambda x, w, v: [
            author.conv_transpose2d(x, w, sizes(2, 3), sizes(1, 0), sizes(1, 2), sizes(1, 0), np.uint32(1)),
            author.conv_transpose2d(x, v, sizes(1, 1), sizes(0, 1), sizes(1, 1), sizes(0, 0), np.uint32(2)),
        ],
        IMAGE, numbers(33, 4, 3, 3, 2), numbers(34, 4, 3, 2, 3),
    ),
    "transposed convolution of volumes": (
        lambda x, w: author.conv_transpose3d(
            x, w, sizes(2, 1, 1), sizes(0, 1, 0), sizes(1, 1, 1), sizes(1, 0, 0), np.uint32(1)
        ),
        numbers(37, 1, 2, 3, 4, 5), numbers(38, 2, 3, 2, 2, 2),
    ),
    "windows of volumes": (
        lambda x: [
            author.sumpool3d(x, sizes(2, 3, 2), sizes(2, 1, 1), constant(sizes(1, 1, 1))),
            author.maxpool3d(
                author.TensorType((1, 2, 2, 3, 5), author.float32), x, sizes(2, 3, 2), sizes(2, 1, 1), sizes(1, 1, 1),
                np.bool_(False),
            ),
        ],
        numbers(39, 1, 2, 4, 5, 6),
    ),
    "sums of windows": (
        lambda x: [
            author.sumpool2d(x, sizes(3, 2), sizes(2, 1), constant(sizes(*gaps))) for gaps in ((1, 1), (2, 3))
        ],
        IMAGE,
    ),
    "largest of windows": (
        lambda x: author.maxpool2d(
            author.TensorType((2, 4, 4, 7), author.float32), x, sizes(3, 2), sizes(2, 1), sizes(1, 1), np.bool_(False)
        ),
        IMAGE,
    ),
    "images of other sizes": (
        lambda x: [
            author.interpolate(
                x, ints(2, 4, h, w), np.array([1, 1, *scale], "f4"), np.array([0, 0, *shift], "f4"),
                interpolation_mode=how,
            )
            for h, w, scale, shift in (
                (18, 16, (2, 2), (0, 0)), (5, 4, (5 / 9, 0.5), (0, 0)), (17, 15, (2, 2), (-0.5, -0.5)),
            )
            for how in ("linear", "nearest_neighbor")
        ],
        IMAGE,
    ),
    "rounded activations": (
        lambda x: [
            author.dequantize(
                author.quantize(x, np.float32(0.02), low, np.float32(0.1), ints(0, 1, 2)),
                np.float32(0.02), low, np.float32(0.1), ints(0, 1, 2),
            )
            for low in (np.int8(-3), np.uint8(128))
        ],
        numbers(35, 3, 4, 5, low=-3, high=3),
    ),
    "rounded by channels": (
        lambda x: author.quantize(
            x, np.array([0.1, 0.2, 0.05, 0.01], "f4"), np.array([0, 1, -2, 3], "i1"), np.zeros(4, "f4"), np.int32(1)
        ),
        numbers(36, 3, 4, 5),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_an_operation_gives_what_apples_runtime_does(name: str, tmp_path: Path) -> None:
    build, *arrays = CASES[name]
    path = built(tmp_path / "one.aimodel", build, *arrays)
    same(path, {f"x{i}": array for i, array in enumerate(arrays)})


# The library computes them itself where shapes are fixed, and `linear` is there in the view only.
_ELSEWHERE = {"linear", "get_shape", "range", "expand_dims", "shrink_dims", "broadcast_to", "broadcast_shapes"}


def test_every_operation_is_tested(tmp_path: Path) -> None:
    """Here, or in `test_networks.py` and below."""
    seen = {
        plain_name(operation.name)
        for number, (build, *arrays) in enumerate(CASES.values())
        for operation in library.operations(library.load(built(tmp_path / f"{number}.aimodel", build, *arrays)))
    }
    assert set(CORE_AI) - seen == _ELSEWHERE


def test_shapes_broadcast_as_in_numpy() -> None:
    for one, two in (((3, 1, 5), (4, 1)), ((), (2, 3)), ((7,), (1, 1, 7))):
        common = np.broadcast_shapes(one, two)
        assert tuple(CORE_AI["broadcast_shapes"].function(one, two)) == common
        found = CORE_AI["broadcast_to"].function(torch.ones(one), common)
        assert np.array_equal(found, np.broadcast_to(np.ones(one, "f4"), common))


def test_an_unknown_operation_is_named(tmp_path: Path) -> None:
    path = built(tmp_path / "one.aimodel", lambda x: author.real_part(author.create_complex(x, x)), X)
    with pytest.raises(UnsupportedError, match=r"create_complex 'create_complex' of function main: .* not know"):
        runtime.load(path, precision="float32")
