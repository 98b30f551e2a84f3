"""What operations of Core AI are called in ML programs, and how their arguments.

Configurations, the tables of `opsets.py` and the runtime use these words. Any other operation keeps its own name, and
may be a product for all that is known. One more is one more line.
"""

from __future__ import annotations

from typing import NamedTuple


class Words(NamedTuple):
    """The type of an operation in ML programs, and its arguments in the order of its operands: the last one begins with
    a star where it takes all that are left, and an empty one is of no use.

    `texts`: attributes that are arguments, too, by Core AI's name. `dtype`: the argument that names the type of the
    result.
    """

    type: str
    arguments: tuple[str, ...] = ()
    texts: tuple[tuple[str, str], ...] = ()
    dtype: str = ""


_CONV = ("x", "weight", "strides", "dilations", "groups")
_CONV_TRANSPOSE = ("x", "weight", "strides", "pad", "dilations", "output_padding", "groups")
_ONE, _TWO, _AXES = ("x",), ("x", "y"), ("x", "axes")
_SLICE, _ORDER = ("x", "begin", "end", "stride"), ("x", "axis", "descending", "stable")
_POOL = ("x", "kernel_sizes", "strides", "dilations")
_RANGES = ("input", "scale", "offset", "minimum", "axis")

_WORDS = {
    "conv2d": Words("conv", _CONV),
    "conv3d": Words("conv", _CONV),
    "conv_transpose2d": Words("conv_transpose", _CONV_TRANSPOSE),
    "conv_transpose3d": Words("conv_transpose", _CONV_TRANSPOSE),
    "batch_matmul": Words("matmul", _TWO),
    "gather_nd": Words("gather_nd", ("x", "indices")),
    "gather_along_axis": Words("gather_along_axis", ("x", "indices", "axis")),
    "scatter_nd": Words("scatter_nd", ("data", "indices", "updates")),
    "scatter_along_axis": Words(
        "scatter_along_axis", ("data", "indices", "updates", "axis"), (("scatter_mode", "mode"),)
    ),
    "transpose": Words("transpose", ("x", "perm")),
    "reshape": Words("reshape", ("x", "shape")),
    "expand_dims": Words("expand_dims", _AXES),
    "shrink_dims": Words("squeeze", _AXES),
    "broadcast_to": Words("tile", ("x", "shape")),
    "broadcast_in_dims": Words("tile", ("x", "sizes", "axes")),
    "broadcast_shapes": Words("broadcast_shapes", _TWO),
    "tile": Words("tile", ("x", "reps")),
    "slice": Words("slice_by_index", _SLICE),
    "slice_update": Words("slice_update", (*_SLICE, "update")),
    "split": Words("split", ("x", "split_sizes", "axis")),
    "concat": Words("concat", ("axis", "*values")),
    "pad": Words("pad", ("x", "pad", "constant_val"), (("padding_mode", "mode"),)),
    "reverse": Words("reverse", _AXES),
    "cast": Words("cast", _ONE, dtype="dtype"),
    "get_shape": Words("shape", _ONE),
    "non_zero": Words("non_zero", _ONE),
    "range": Words("range_1d", ("start", "end", "step")),
    "scan": Words("scan", ("x", "axis", "reverse"), (("scan_op", "mode"),)),
    "sort": Words("sort", _ORDER),
    "argsort": Words("argsort", _ORDER),
    "argmax": Words("argmax", ("x", "axis")),
    "softmax": Words("softmax", ("x", "axis")),
    "gelu": Words("gelu", _ONE, (("approximate", "mode"),)),
    "divide": Words("real_div", _TWO),
    "floor_divide": Words("floor_div", _TWO),
    "modulo": Words("mod", _TWO),
    "and": Words("logical_and", _TWO),
    "or": Words("logical_or", _TWO),
    "xor": Words("logical_xor", _TWO),
    "not": Words("logical_not", _ONE),
    "where": Words("select", ("cond", "a", "b")),
    "max_pool_2d": Words("max_pool", (*_POOL, "ceil_mode")),
    "max_pool_3d": Words("max_pool", (*_POOL, "ceil_mode")),
    "sum_pool_2d": Words("avg_pool", _POOL),
    "sum_pool_3d": Words("avg_pool", _POOL),
    "interpolate": Words("interpolate", ("x", "shape", "scale", "offset"), (("interpolation_mode", "mode"),)),
    "quantize": Words("quantize", _RANGES, dtype="output_dtype"),
    "dequantize": Words("dequantize", _RANGES),
    "read_handle": Words("read_state", ("input", "")),
    "write_handle": Words("write_state", ("input", "data", "")),
    "if": Words("cond", ("pred",)),
    "while": Words("while_loop", ("*loop_vars",)),
    "invoke": Words("invoke", ("*values",), (("callee", "function"),)),
    "reduce_product": Words("reduce_prod", _AXES),
    **{name: Words(name, _AXES) for name in ("reduce_max", "reduce_mean", "reduce_min", "reduce_sum", "all", "any")},
    **{
        name: Words(name, _TWO)
        for name in (
            "add", "sub", "mul", "pow", "maximum", "minimum", "equal", "not_equal", "greater", "bitwise_and",
            "bitwise_or", "bitwise_xor",
        )
    },
    **{
        name: Words(name, _ONE)
        for name in (
            "abs", "acos", "acosh", "asin", "asinh", "atan", "atanh", "cos", "cosh", "erf", "exp", "log", "relu",
            "round", "rsqrt", "sigmoid", "silu", "sin", "sinh", "sqrt", "tan", "tanh",
        )
    },
}  # fmt: skip
# What multiplies or looks up in a weight: of the operations that a converter makes of one, that which has its name.
PRODUCTS = frozenset({"conv", "conv_transpose", "matmul", "gather_nd", "gather_along_axis"})


def plain_name(operation: str) -> str:
    """Core AI's name without what says only where it came from: "add" of "coreai.decomposable.broadcasting_add"."""
    return operation.removeprefix("coreai.").removeprefix("decomposable.").removeprefix("broadcasting_")


def words(operation: str) -> Words:
    """Of an operation, by its name in Core AI's program."""
    plain = plain_name(operation)
    return _WORDS.get(plain, Words(plain))
