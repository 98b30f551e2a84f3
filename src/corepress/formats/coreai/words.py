"""What operations of Core AI are called in ML programs, and how their arguments.

Configurations and the tables of `opsets.py` use these words. Only what matters to weights has its line: products and
look-ups, what only moves numbers, and what computes with them one by one. Any other operation keeps its own name, and
may be a product for all that is known. One more is one more line.
"""

from __future__ import annotations

from typing import NamedTuple


class Words(NamedTuple):
    """The type of an operation in ML programs, and its arguments in order."""

    type: str
    arguments: tuple[str, ...] = ()


_CONV = ("x", "weight", "strides", "dilations", "groups")
_CONV_TRANSPOSE = ("x", "weight", "strides", "pad", "dilations", "output_padding", "groups")
_TWO = ("x", "y")

_WORDS = {
    "conv2d": Words("conv", _CONV),
    "conv3d": Words("conv", _CONV),
    "conv_transpose2d": Words("conv_transpose", _CONV_TRANSPOSE),
    "conv_transpose3d": Words("conv_transpose", _CONV_TRANSPOSE),
    "batch_matmul": Words("matmul", _TWO),
    "gather_nd": Words("gather_nd", ("x", "indices")),
    "gather_along_axis": Words("gather_along_axis", ("x", "indices", "axis")),
    "transpose": Words("transpose", ("x", "perm")),
    "reshape": Words("reshape", ("x", "shape")),
    "expand_dims": Words("expand_dims", ("x", "axes")),
    "shrink_dims": Words("squeeze", ("x", "axes")),
    "broadcast_to": Words("tile", ("x", "shape")),
    "broadcast_in_dims": Words("tile", ("x", "sizes", "axes")),
    "tile": Words("tile", ("x", "reps")),
    "slice": Words("slice_by_index", ("x", "begin", "end", "stride")),
    "split": Words("split", ("x", "split_sizes", "axis")),
    "concat": Words("concat"),
    "pad": Words("pad", ("x", "pad", "constant_val")),
    "reverse": Words("reverse", ("x", "axes")),
    "cast": Words("cast", ("x",)),
    "add": Words("add", _TWO),
    "sub": Words("sub", _TWO),
    "mul": Words("mul", _TWO),
    "divide": Words("real_div", _TWO),
    "floor_divide": Words("floor_div", _TWO),
    "modulo": Words("mod", _TWO),
    "pow": Words("pow", _TWO),
    "maximum": Words("maximum", _TWO),
    "minimum": Words("minimum", _TWO),
    "equal": Words("equal", _TWO),
    "not_equal": Words("not_equal", _TWO),
    "greater": Words("greater", _TWO),
    "where": Words("select", ("cond", "a", "b")),
    "max_pool_2d": Words("max_pool"),
    "sum_pool_2d": Words("avg_pool"),
    "if": Words("cond"),
    "while": Words("while_loop"),
}
# What multiplies or looks up in a weight: of the operations that a converter makes of one, that which has its name.
PRODUCTS = frozenset({"conv", "conv_transpose", "matmul", "gather_nd", "gather_along_axis"})


def words(operation: str) -> Words:
    """Of an operation, by its name in Core AI's program, such as "coreai.decomposable.broadcasting_add"."""
    plain = operation.removeprefix("coreai.").removeprefix("decomposable.").removeprefix("broadcasting_")
    return _WORDS.get(plain, Words(plain))
