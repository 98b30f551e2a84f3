"""The operations of MIL: since when there is each, what it does with what it reads, and what changed in it later.

The source is coremltools 9.0: its registry, and the definitions of its operations. `runtime/ops/__init__.py` says how
to add one.
"""

from __future__ import annotations

from typing import NamedTuple

SYSTEMS = ("iOS15", "iOS16", "iOS17", "iOS18", "iOS26")
"""The operation sets, by the systems that brought them; iOS26 has no operation that iOS18 lacks."""

BY_INTERPRETER = frozenset({"constexpr", "control_flow", "states"})
"""The groups whose operations are no functions of tensors; the runtime's interpreter carries them out itself."""

# By group and first operation set. `write_state` is what a file holds for `coreml_update_state`.
_INTRODUCED = {
    "activation": {
        "iOS15": (
            "clamped_relu elu gelu leaky_relu linear_activation prelu relu relu6 scaled_tanh sigmoid sigmoid_hard "
            "silu softmax softplus softplus_parametric softsign thresholded_relu"
        ),
    },
    "classify": {
        "iOS15": "classify",
    },
    "constexpr": {
        "iOS16": "constexpr_affine_dequantize constexpr_cast constexpr_lut_to_dense constexpr_sparse_to_dense",
        "iOS18": "constexpr_blockwise_shift_scale constexpr_lut_to_sparse constexpr_sparse_blockwise_shift_scale",
    },
    "control_flow": {
        "iOS15": "cond const while_loop",
    },
    "conv": {
        "iOS15": "conv conv_quantized conv_transpose",
    },
    "elementwise_binary": {
        "iOS15": (
            "add equal floor_div greater greater_equal less less_equal logical_and logical_or logical_xor maximum "
            "minimum mod mul not_equal pow real_div sub"
        ),
    },
    "elementwise_unary": {
        "iOS15": (
            "abs acos asin atan atanh cast ceil clip cos cosh erf exp exp2 floor inverse log logical_not round "
            "rsqrt sign sin sinh sqrt square tan tanh threshold"
        ),
    },
    "image_resizing": {
        "iOS15": (
            "affine crop crop_resize resample resize_bilinear resize_nearest_neighbor upsample_bilinear "
            "upsample_nearest_neighbor"
        ),
        "iOS17": "resize",
    },
    "linear": {
        "iOS15": "einsum linear matmul",
    },
    "lists": {
        "iOS15": "list_gather list_length list_read list_scatter list_write make_list",
    },
    "normalization": {
        "iOS15": "batch_norm instance_norm l2_norm layer_norm local_response_norm",
    },
    "pool": {
        "iOS15": "avg_pool l2_pool max_pool",
    },
    "quantization": {
        "iOS17": "dequantize quantize",
    },
    "random": {
        "iOS15": "random_bernoulli random_categorical random_normal random_uniform",
    },
    "recurrent": {
        "iOS15": "gru lstm rnn",
    },
    "reduction": {
        "iOS15": (
            "reduce_argmax reduce_argmin reduce_l1_norm reduce_l2_norm reduce_log_sum reduce_log_sum_exp "
            "reduce_max reduce_mean reduce_min reduce_prod reduce_sum reduce_sum_square"
        ),
    },
    "scatter_gather": {
        "iOS15": "gather gather_along_axis gather_nd scatter scatter_along_axis scatter_nd",
    },
    "select": {
        "iOS15": "select",
    },
    "states": {
        "iOS18": "coreml_update_state read_state write_state",
    },
    "tensor_operation": {
        "iOS15": (
            "argsort band_part concat cumsum fill flatten2d identity non_maximum_suppression non_zero one_hot pad "
            "range_1d shape split stack tile topk"
        ),
        "iOS16": "fill_like",
    },
    "tensor_transformation": {
        "iOS15": (
            "batch_to_space depth_to_space expand_dims pixel_shuffle reshape reverse reverse_sequence "
            "slice_by_index slice_by_size sliding_windows space_to_batch space_to_depth squeeze transpose"
        ),
        "iOS16": "pixel_unshuffle reshape_like",
        "iOS18": "slice_update",
    },
    "transformers": {
        "iOS18": "scaled_dot_product_attention",
    },
}


_RECURRENT = ("x", "initial_h", "weight_ih", "weight_hh")
# The arguments that a product multiplies and sums over, as matmul does: errors of rounding nearly cancel out. Sums
# without a product, as cumsum and reduce_sum, are not among them.
_SUMS = {
    "linear": ("x", "weight"),
    "matmul": ("x", "y"),
    "einsum": ("values",),
    "conv": ("x", "weight"),
    "conv_quantized": ("x", "weight"),
    "conv_transpose": ("x", "weight"),
    "scaled_dot_product_attention": ("query", "key", "value"),
    "lstm": (*_RECURRENT, "initial_c", "weight_ih_back", "weight_hh_back"),
    "gru": _RECURRENT,
    "rnn": _RECURRENT,
}
# The argument that it looks up in.
_TABLES = {"gather": "x", "gather_along_axis": "x", "gather_nd": "x"}
# Those that hand on the numbers they read, in another shape, order or type.
_MOVES = frozenset(
    """
    batch_to_space cast concat depth_to_space expand_dims flatten2d identity pad pixel_shuffle pixel_unshuffle reshape
    reshape_like reverse slice_by_index slice_by_size sliding_windows space_to_batch space_to_depth split squeeze stack
    tile transpose
    """.split()  # noqa: SIM905
)


class Change(NamedTuple):
    """What is new in an operation as of the set `since`: parameters to `add`, with the values that keep its meaning;
    or `broken`, the reason why its meaning can't be kept."""

    since: str
    add: tuple[tuple[str, int | bool | str], ...] = ()
    broken: str = ""
    negative_indices: bool = False


_UNCHECKED = Change("iOS17", (("validate_indices", False),), negative_indices=True)
_CHANGES = {
    "crop_resize": (Change("iOS17", broken="the boxes and their indices became two inputs"),),
    "non_maximum_suppression": (Change("iOS17", broken="a score threshold is no longer applied"),),
    "gather": (Change("iOS16", (("batch_dims", 0),)), _UNCHECKED),
    "gather_nd": (Change("iOS16", (("batch_dims", 0),)), _UNCHECKED),
    "gather_along_axis": (_UNCHECKED,),
    "scatter": (_UNCHECKED,),
    "scatter_nd": (_UNCHECKED,),
    "scatter_along_axis": (_UNCHECKED,),
    "reduce_argmax": (Change("iOS17", (("output_dtype", "int32"),)),),
    "reduce_argmin": (Change("iOS17", (("output_dtype", "int32"),)),),
    "topk": (
        Change("iOS16", (("sort", True), ("return_indices", True))),
        Change("iOS17", (("output_indices_dtype", "int32"),)),
    ),
}


class Known(NamedTuple):
    """An operation of MIL.

    `group`: the page of its documentation, and the file in `runtime/ops/`. `since`: the first operation set that has
    it. `sums`: the arguments that it sums over; `table`: the one that it looks up in. `moves`: whether it only hands
    on the numbers it reads. `changes`: what later operation sets changed.
    """

    group: str
    since: str
    sums: tuple[str, ...] = ()
    table: str = ""
    moves: bool = False
    changes: tuple[Change, ...] = ()

    @property
    def systems(self) -> tuple[str, ...]:
        """All that have it: no operation was ever withdrawn."""
        return SYSTEMS[SYSTEMS.index(self.since) :]


KNOWN: dict[str, Known] = {
    name: Known(
        *(group, since, _SUMS.get(name, ()), _TABLES.get(name, "")),
        moves=name in _MOVES,
        changes=_CHANGES.get(name, ()),
    )
    for group, introduced in _INTRODUCED.items()
    for since, names in introduced.items()
    for name in names.split()
}
"""All operations that corepress knows, by name."""
