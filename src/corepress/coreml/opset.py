"""Raise a model to a newer deployment target, with a check that every operation means the same there.

The table below lists what changed from one operation set to the next. It was read off the operation definitions and
their documentation in coremltools 9.0.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from corepress.errors import ConfigError
from corepress.formats.mlprogram import Model
from corepress.formats.mlprogram.constexpr import read_weight, set_name, write_weight
from corepress.formats.mlprogram.program import Node, edit, nodes, program_models, programs
from corepress.formats.mlprogram.values import immediate_value, read_tensor, string_value, tensor_type
from corepress.targets import Target, by_opset, by_spec_version
from corepress.targets import target as find_target

log = logging.getLogger(__name__)

# Operations of the iOS15 set; all of them exist in every later one.
_IOS15 = frozenset(
    """
    abs acos add affine argsort asin atan atanh avg_pool band_part batch_norm batch_to_space cast ceil clamped_relu
    classify clip concat cond const conv conv_quantized conv_transpose cos cosh crop crop_resize cumsum
    depth_to_space einsum elu equal erf exp exp2 expand_dims fill flatten2d floor floor_div gather
    gather_along_axis gather_nd gelu greater greater_equal gru identity instance_norm inverse l2_norm l2_pool
    layer_norm leaky_relu less less_equal linear linear_activation list_gather list_length list_read list_scatter
    list_write local_response_norm log logical_and logical_not logical_or logical_xor lstm make_list matmul max_pool
    maximum minimum mod mul non_maximum_suppression non_zero not_equal one_hot pad pixel_shuffle pow prelu
    random_bernoulli random_categorical random_normal random_uniform range_1d real_div reduce_argmax reduce_argmin
    reduce_l1_norm reduce_l2_norm reduce_log_sum reduce_log_sum_exp reduce_max reduce_mean reduce_min reduce_prod
    reduce_sum reduce_sum_square relu relu6 resample reshape resize_bilinear resize_nearest_neighbor reverse
    reverse_sequence rnn round rsqrt scaled_tanh scatter scatter_along_axis scatter_nd select shape sigmoid
    sigmoid_hard sign silu sin sinh slice_by_index slice_by_size sliding_windows softmax softplus
    softplus_parametric softsign space_to_batch space_to_depth split sqrt square squeeze stack sub tan tanh
    threshold thresholded_relu tile topk transpose upsample_bilinear upsample_nearest_neighbor while_loop
    """.split()  # noqa: SIM905 - a list of 150 strings is no easier to read
)
_ADDED = {
    7: frozenset({"fill_like", "reshape_like", "pixel_unshuffle", "constexpr_affine_dequantize", "constexpr_cast",
                  "constexpr_lut_to_dense", "constexpr_sparse_to_dense"}),
    8: frozenset({"resize", "quantize", "dequantize"}),
    9: frozenset({"scaled_dot_product_attention", "slice_update", "read_state", "coreml_update_state", "write_state",
                  "constexpr_blockwise_shift_scale", "constexpr_lut_to_sparse",
                  "constexpr_sparse_blockwise_shift_scale"}),
}  # fmt: skip
OPERATIONS = _IOS15.union(*_ADDED.values())
"""All operations that corepress knows."""


class Change(NamedTuple):
    """What is new in an operation from specification version `since` on: parameters to `add`, with the values that
    keep its meaning; or `broken`, the reason why its meaning can't be kept."""

    since: int
    add: tuple[tuple[str, int | bool | str], ...] = ()
    broken: str = ""
    negative_indices: bool = False


_UNCHECKED = Change(8, (("validate_indices", False),), negative_indices=True)
_CHANGES: dict[str, tuple[Change, ...]] = {
    "crop_resize": (Change(8, broken="the boxes and their indices became two inputs"),),
    "non_maximum_suppression": (Change(8, broken="a score threshold is no longer applied"),),
    "gather": (Change(7, (("batch_dims", 0),)), _UNCHECKED),
    "gather_nd": (Change(7, (("batch_dims", 0),)), _UNCHECKED),
    "gather_along_axis": (_UNCHECKED,),
    "scatter": (_UNCHECKED,),
    "scatter_nd": (_UNCHECKED,),
    "scatter_along_axis": (_UNCHECKED,),
    "reduce_argmax": (Change(8, (("output_dtype", "int32"),)),),
    "reduce_argmin": (Change(8, (("output_dtype", "int32"),)),),
    "topk": (
        Change(7, (("sort", True), ("return_indices", True))),
        Change(8, (("output_indices_dtype", "int32"),)),
    ),
}


def raise_target(model: Model, target: Any) -> list[str]:
    """Raise `model`, in place, to a deployment target such as "iOS18"; returns what was done, in sentences.

    Opsets and specification version go up, existing compressed weights move to the new generation of operations, and
    operations get the parameters that keep their meaning. Raises ConfigError for an operation that can't mean the
    same there. A model that is new enough already is left as it is.
    """
    goal = find_target(target)
    reached = oldest_target(model)
    if min(reached.spec_version, model.spec_version) >= goal.spec_version:
        return []
    done = [f"raised from {reached.name} to {goal.name}"]
    replacements: list[tuple[Node, Sequence[Any]]] = []
    for node in nodes(model.spec):
        old = by_opset(node.function.opset)
        if old.spec_version < goal.spec_version:
            done += _raise_operation(node, old, goal, model)
            if old.constexpr == "attributes" and goal.constexpr == "inputs" and node.is_constexpr:
                replacements.append((node, _next_generation(node, model)))
    if replacements:
        done.append(f"moved {len(replacements)} compressed weights to the operations of {goal.name}")
    edit(replacements)
    _raise_functions(model.spec, goal)
    for sentence in done:
        log.info("%s: %s", model.path, sentence)
    return done


def reach(model: Model, needed: str, purpose: str, target: Any) -> None:
    """Raise `model`, in place, to the target `needed`, which the `purpose` can't do without, and further to `target`.

    A rise that nobody asked for is warned of: the model no longer runs on the older system. Raises ConfigError for a
    `target` that is older than the model, which can't be lowered, or than `needed`.
    """
    before, least = oldest_target(model), find_target(needed)
    if target is None:
        raise_target(model, least)
        if before.spec_version < least.spec_version:
            log.warning(
                "%s was raised from %s to %s, which %s need: it no longer runs on older systems",
                *(model.path, before.name, least.name, purpose),
            )
        return
    goal = find_target(target)
    if goal.spec_version < least.spec_version:
        raise ConfigError(f"target {goal.name} is too old: {purpose} need {least.name} or newer")
    if goal.spec_version < before.spec_version:
        raise ConfigError(
            f"target {goal.name} has no effect: the model is for {before.name} already and can't be lowered; convert "
            f"it anew for {goal.name}, or leave the target out"
        )
    raise_target(model, goal)


def oldest_target(model: Model) -> Target:
    """The target of the oldest function of a model: what all its weights can be held in."""
    functions = (function.value for _, program in programs(model.spec) for function in program.functions)
    found = [by_opset(function.opset) for function in functions]
    return min(found, key=lambda target: target.spec_version, default=by_spec_version(model.spec_version))


def _raise_operation(node: Node, old: Target, goal: Target, model: Model) -> list[str]:
    known = _IOS15.union(*(added for version, added in _ADDED.items() if version <= goal.spec_version))
    if node.type not in known:
        raise ConfigError(f"{node}: not an operation that {goal.name} is known to have; keep the model's own target")
    notes = []
    for change in _CHANGES.get(node.type, ()):
        if not old.spec_version < change.since <= goal.spec_version:
            continue
        if change.broken:
            raise ConfigError(f"{node}: its meaning changed after {old.name} ({change.broken}); convert the model anew")
        for name, value in change.add:
            _add_parameter(node, name, value)
        if change.negative_indices and _may_be_negative(node, model):
            notes.append(f"{node}: check that its indices are never negative, which {goal.name} does not allow")
    return notes


def _add_parameter(node: Node, name: str, value: int | bool | str) -> None:
    if node.operand(name) is not None:
        return
    if isinstance(value, str):
        content = string_value(value)
    else:
        content = immediate_value(np.array(value, np.bool_ if isinstance(value, bool) else np.int32))
    node.op.inputs.add(key=name).value.arguments.add().value.CopyFrom(content)


def _may_be_negative(node: Node, model: Model) -> bool:
    operand = node.operand("indices")
    if operand is not None and operand.node is not None and operand.node.is_const:
        operand = operand.node.operand("val")
    if operand is None or operand.value is None or tensor_type(operand.value) is None:
        return True
    indices = read_tensor(operand.value, model, f"{node}, indices")
    return bool(indices.size and indices.min() < 0)


def _next_generation(node: Node, model: Model) -> list[Any]:
    if node.type == "constexpr_cast":
        return [_attributes_as_inputs(node.op)]
    weight = read_weight(node, model)
    assert not isinstance(weight, np.ndarray)
    operations = write_weight(weight, node.op.outputs[0].name, generation=2, store=model.store)
    set_name(operations[-1], node.name)
    return operations


def _attributes_as_inputs(op: Any) -> Any:
    moved = type(op).FromString(op.SerializeToString())
    del moved.attributes[:]
    for entry in op.attributes:
        if entry.key == "name":
            moved.attributes.add(key=entry.key).value.CopyFrom(entry.value)
        else:
            moved.inputs.add(key=entry.key).value.arguments.add().value.CopyFrom(entry.value)
    return moved


def _raise_functions(spec: Any, goal: Target) -> None:
    for _, program in programs(spec):
        for function in program.functions:
            if by_opset(function.value.opset).spec_version < goal.spec_version:
                for block in function.value.block_specializations:
                    if block.key == function.value.opset:
                        block.key = goal.opset
                function.value.opset = goal.opset
    for model in program_models(spec):
        model.specificationVersion = max(model.specificationVersion, goal.spec_version)
