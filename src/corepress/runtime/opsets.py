"""Which operations MIL has, and since when: the registry of coremltools 9.0, taken down as data."""

from __future__ import annotations

from dataclasses import dataclass

OPSETS = ("iOS15", "iOS16", "iOS17", "iOS18")

# The groups whose operations the interpreter carries out itself.
BY_INTERPRETER = frozenset({"constexpr", "control_flow", "states"})

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


@dataclass(frozen=True)
class Known:
    """An operation of MIL: the group in which it stands, and the first operation set that has it."""

    group: str
    since: str

    @property
    def opsets(self) -> tuple[str, ...]:
        """All that have it: no operation was ever withdrawn."""
        return OPSETS[OPSETS.index(self.since) :]


KNOWN: dict[str, Known] = {
    name: Known(group, since)
    for group, introduced in _INTRODUCED.items()
    for since, names in introduced.items()
    for name in names.split()
}
