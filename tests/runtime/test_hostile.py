"""Programs that no converter writes: each gets one sentence that names the operation, before memory is spent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from corepress import runtime
from corepress.errors import CorepressError
from corepress.formats.dtypes import BY_NAME
from corepress.formats.mlprogram.values import set_tensor_type, string_value
from corepress.formats.schema import ModelDescription, Value
from tests.runtime.hand_made import ARRAY_TYPES, FLOAT32, add, model, predict

HUGE = 10**6


def refused(spec: Any, folder: Path, *words: str, **arguments: Any) -> None:
    with pytest.raises(CorepressError) as error:
        predict(spec, folder, **arguments)
    message = str(error.value)
    assert "\n" not in message and all(word in message for word in words), message


def test_the_builder_builds_what_runs(tmp_path) -> None:
    spec, block = model()
    add(block, "add", "y", x="x", y=2.0)
    np.testing.assert_array_equal(predict(spec, tmp_path)["y"], np.full((1, 4), 2))


def reads_itself(block: Any) -> None:
    add(block, "relu", "y", x="y")


def reads_a_later_result(block: Any) -> None:
    add(block, "relu", "a", x="y")
    add(block, "tanh", "y", x="a")


def reads_nothing(block: Any) -> None:
    add(block, "relu", "y", x="nowhere")


def reads_from_a_block(block: Any) -> None:
    op = add(block, "cond", "z", pred=True)
    for _ in range(2):
        inner = op.blocks.add()
        add(inner, "relu", "inside", x="x")
        inner.outputs.append("inside")
    add(block, "relu", "y", x="inside")


def reads_a_state_that_is_not_there(block: Any) -> None:
    add(block, "read_state", "y", input="memory")


def writes_a_state_that_is_not_there(block: Any) -> None:
    add(block, "write_state", input="memory", data="x")
    add(block, "relu", "y", x="x")


@pytest.mark.parametrize(
    "build,words",
    [
        (reads_itself, ("relu", "'y'")),
        (reads_a_later_result, ("relu", "'y'")),
        (reads_nothing, ("relu", "'nowhere'")),
        (reads_from_a_block, ("relu", "'inside'")),
        (reads_a_state_that_is_not_there, ("read_state", "'memory'")),
        (writes_a_state_that_is_not_there, ("write_state", "'memory'")),
    ],
)
def test_values_that_are_not_there(build, words, tmp_path) -> None:
    spec, block = model()
    build(block)
    refused(spec, tmp_path, *words)


def test_outputs_that_are_not_there(tmp_path) -> None:
    spec, block = model()
    add(block, "relu", "z", x="x")
    refused(spec, tmp_path, "'y'")
    del block.outputs[:]
    refused(spec, tmp_path, "'y'")


def test_outputs_that_are_not_what_they_are_said_to_be(tmp_path) -> None:
    spec, block = model()
    add(block, "relu", "y", "z", x="x")
    refused(spec, tmp_path, "relu")
    spec, block = model()
    add(block, "split", "y", x="x", axis=1, num_splits=2)
    refused(spec, tmp_path, "'y'")
    spec, block = model()
    add(block, "make_list", "y", elem_shape=[np.ones(1, np.int32)])
    refused(spec, tmp_path, "'y'")
    spec, block = model()
    description = ModelDescription.FromString(spec.description)
    description.output[0].type.doubleType = b""
    spec.description = description.SerializeToString()
    add(block, "fill", "y", shape=np.zeros(1, np.int32))
    refused(spec, tmp_path, "'y'")


def test_a_state_is_no_output(tmp_path) -> None:
    spec, _ = model()
    description = ModelDescription.FromString(spec.description)
    array = description.state.add(name="y").type.stateType.arrayType
    array.shape.append(1)
    array.dataType = ARRAY_TYPES["float32"]
    spec.description = description.SerializeToString()
    refused(spec, tmp_path, "'y'")


def test_a_type_that_numpy_does_not_have_is_converted(tmp_path) -> None:
    spec, block = model()
    add(block, "cast", "y", x="x", dtype=string_value("bfloat16")).outputs[0].type.tensorType.dataType = 13
    np.testing.assert_array_equal(predict(spec, tmp_path)["y"], np.zeros((1, 4)))


def test_constants_that_name_each_other(tmp_path) -> None:
    spec, block = model()
    op = add(block, "const", "a")
    op.inputs.add(key="val").value.arguments.add(name="a")
    add(block, "add", "y", x="x", y="a")
    refused(spec, tmp_path, "const", "'the const'")
    chain = [add(block, "constexpr_cast", f"c{i}", source_val=f"c{1 - i}", output_dtype="t") for i in range(2)]
    assert len(chain) == 2
    add(block, "add", "y", x="x", y="c1")
    refused(spec, tmp_path)


def test_operation_sets_and_operations_that_do_not_exist(tmp_path) -> None:
    spec, block = model(opset="CoreML99")
    add(block, "explode", "y", x="x")
    refused(spec, tmp_path, "explode", "CoreML99")
    spec.mlProgram.functions[0].value.opset = "CoreML7"
    refused(spec, tmp_path, "'main'", "CoreML7")


def damaged_list() -> Any:
    value = Value()
    value.type.listType = b""
    value.immediateValue.list = b"\xff\xff"
    return value


@pytest.mark.parametrize(
    "kind,arguments",
    [
        ("linear", {"x": "x"}),
        ("linear", {"x": "x", "weight": np.zeros((3, 5))}),
        ("linear", {"x": "x", "weight": np.zeros(())}),
        ("linear", {"x": "x", "weight": np.zeros((3, 4)), "bias": np.zeros(7)}),
        ("conv", {"x": "x", "weight": np.zeros((3, 4, 1, 1))}),
        ("matmul", {"x": "x", "y": np.zeros((5, 5)), "transpose_x": 3.5}),
        ("relu", {"x": "x", "alpha": 1.0}),
        ("relu", {"x": ["x", "x"]}),
        ("relu", {}),
        ("concat", {"values": [], "axis": 0}),
        ("concat", {"values": ["x", np.zeros((7, 7, 7))], "axis": 0}),
        ("transpose", {"x": "x", "perm": [0, 0]}),
        ("reshape", {"x": "x", "shape": [np.array([3, 3])]}),
        ("cast", {"x": "x", "dtype": string_value("complex7")}),
        ("cast", {"x": "x", "dtype": 3}),
        ("layer_norm", {"x": "x", "axes": [-1], "gamma": np.zeros(3)}),
        ("batch_norm", {"x": "x", "mean": np.zeros(2), "variance": np.zeros(2)}),
        ("cond", {"pred": "x"}),
        ("while_loop", {"loop_vars": ["x"]}),
        ("list_read", {"ls": "x", "index": 0}),
        ("split", {"x": "x", "num_splits": 3, "axis": 1}),
        ("gather", {"x": "x", "indices": 0, "axis": np.nan}),
        ("softmax", {"x": "x", "axis": np.inf}),
        ("softmax", {"x": "x", "axis": []}),
        ("write_state", {}),
        ("write_state", {"input": 1.0, "data": 2.0}),
        ("write_state", {"input": "memory", "data": ["x", "x"]}),
        ("slice_update", {"x": "x", "update": "x"}),
        ("classify", {"probabilities": "x", "classes": damaged_list()}),
        ("make_list", {"elem_shape": damaged_list()}),
        ("lstm", {"x": "x", "initial_h": "x", "initial_c": "x", "weight_ih": "x", "weight_hh": "x"}),
    ],
)
def test_operands_that_do_not_fit(kind, arguments, tmp_path) -> None:
    spec, block = model()
    add(block, kind, "y", **arguments)
    refused(spec, tmp_path, kind)


ROW = np.zeros((1, 1, 1, 4))
CUSTOM = string_value("custom")
EXPLOSIONS = [
    ("fill", {"shape": np.array([HUGE, HUGE]), "value": 1.0}),
    ("fill", {"shape": np.array([0, HUGE, HUGE, HUGE]), "value": 1.0}),
    ("random_normal", {"shape": np.array([HUGE, HUGE])}),
    ("random_uniform", {"shape": np.array([HUGE, HUGE]), "seed": 1}),
    ("random_bernoulli", {"shape": np.array([HUGE, HUGE])}),
    ("random_categorical", {"x": np.ones((3, 2)), "size": 2**31 - 1}),
    ("tile", {"x": "x", "reps": np.array([HUGE, HUGE])}),
    ("range_1d", {"start": 0.0, "end": 1e30, "step": 1.0}),
    ("range_1d", {"start": 0.0, "end": 1.0, "step": 0.0}),
    ("range_1d", {"start": 0.0, "end": np.inf, "step": 1.0}),
    ("pad", {"x": "x", "pad": np.array([HUGE, 0, HUGE, HUGE])}),
    ("pad", {"x": "x", "pad": np.array([0, 0, 0, 2**31 - 1]), "mode": string_value("replicate")}),
    ("one_hot", {"indices": np.zeros(4, np.int32), "one_hot_vector_size": 2**31 - 1}),
    ("split", {"x": np.zeros((0, 1)), "axis": 0, "num_splits": 2**31 - 1}),
    ("conv", {"x": ROW, "weight": ROW[..., :1], "pad_type": CUSTOM, "pad": [np.full(4, HUGE)]}),
    ("conv", {"x": ROW, "weight": ROW[..., :1], "pad_type": CUSTOM, "pad": [np.arange(4) * HUGE]}),
    ("conv_transpose", {"x": ROW, "weight": ROW[..., :2], "dilations": [np.full(2, 1)], "strides": [np.full(2, HUGE)],
                        "output_shape": [np.array([1, 1, HUGE, HUGE])]}),
    ("conv_transpose", {"x": ROW, "weight": ROW[..., :2], "dilations": [np.full(2, 2**31 - 1)]}),
    ("max_pool", {"x": ROW, "kernel_sizes": [np.ones(2)], "pad_type": CUSTOM, "pad": [np.full(4, HUGE)]}),
    ("avg_pool", {"x": ROW, "kernel_sizes": [np.ones(2)], "pad_type": CUSTOM, "pad": [np.full(4, HUGE)]}),
    ("upsample_nearest_neighbor", {"x": ROW, "scale_factor_height": 1e6, "scale_factor_width": 1e6}),
    ("upsample_bilinear", {"x": ROW, "scale_factor_height": 1e6, "scale_factor_width": 1e6}),
    ("upsample_bilinear", {"x": ROW, "scale_factor_height": np.inf}),
    ("resize_nearest_neighbor", {"x": ROW, "target_size_height": HUGE, "target_size_width": HUGE}),
    ("resize_bilinear", {"x": ROW, "target_size_height": HUGE, "target_size_width": HUGE}),
    ("resize", {"x": ROW, "shape": [np.array([HUGE, HUGE])], "resized_dims": 2}),
    ("crop_resize", {"x": ROW, "boxes": np.zeros((1, 4)), "target_height": HUGE, "target_width": HUGE}),
    ("local_response_norm", {"x": ROW, "size": 2**31 - 1}),
    ("space_to_batch", {"x": ROW, "block_shape": [np.ones(2)], "paddings": [np.full((2, 2), HUGE)]}),
    ("batch_to_space", {"x": ROW, "block_shape": [np.ones(2)], "crops": [np.full((2, 2), -HUGE)]}),
]  # fmt: skip


@pytest.mark.parametrize("kind,arguments", EXPLOSIONS, ids=lambda value: value if isinstance(value, str) else "")
def test_results_of_absurd_size(kind, arguments, tmp_path) -> None:
    spec, block = model()
    whole = {
        key: [v.astype(np.int32) for v in value] if isinstance(value, list) else value
        for key, value in arguments.items()
    }
    add(block, kind, "y", **whole)
    endless = kind == "range_1d" or any(value is np.inf for value in arguments.values())
    refused(spec, tmp_path, kind, *[] if endless or kind == "split" else ["elements"])


@pytest.mark.parametrize("kind", ["add", "matmul", "einsum", "linear", "gather", "select", "concat", "sliding_windows"])
def test_small_steps_to_absurd_sizes(kind, tmp_path) -> None:
    """Two tensors of a million elements, each harmless."""
    spec, block = model()
    add(block, "fill", "column", shape=np.array([HUGE, 1]), value=1.0)
    add(block, "fill", "row", shape=np.array([1, HUGE]), value=1.0)
    add(block, "fill", "flat", shape=np.array([HUGE]), value=1.0)
    arguments: dict[str, Any] = {
        "add": {"x": "column", "y": "row"},
        "matmul": {"x": "column", "y": "row"},
        "einsum": {"values": ["column", "row"], "equation": string_value("ab,bc->ac")},
        "linear": {"x": "column", "weight": "column"},
        "gather": {"x": "row", "indices": "flat", "axis": 0},
        "select": {"cond": True, "a": "column", "b": "row"},
        "concat": {"values": ["row"] * 3000, "axis": 0},
        "sliding_windows": {"x": "flat", "axis": 0, "size": HUGE // 2},
    }
    add(block, kind, "y", **arguments[kind])
    refused(spec, tmp_path, kind, "elements")


def test_integers_that_a_processor_can_not_divide(tmp_path) -> None:
    lowest = np.full(4, -(2**31), np.int32)
    for kind in ("real_div", "floor_div", "mod"):
        spec, block = model((4,), "int32")
        add(block, kind, "y", x="x", y=-1)
        assert predict(spec, tmp_path, {"x": lowest})["y"].shape == (4,)
        refused_by_zero, block = model((4,), "int32")
        add(block, kind, "y", x="x", y=0)
        refused(refused_by_zero, tmp_path, kind)


@pytest.mark.parametrize(
    "kind,arguments",
    [
        ("conv", {"weight": np.zeros((4, 4, 1, 1)), "groups": 0}),
        ("conv", {"weight": np.zeros((4, 4, 1, 1)), "strides": [np.zeros(2, np.int32)]}),
        ("conv", {"weight": np.zeros((4, 4, 1, 1)), "dilations": [np.zeros(2, np.int32)]}),
        ("conv_transpose", {"weight": np.zeros((4, 4, 1, 1)), "strides": [np.zeros(2, np.int32)]}),
        ("max_pool", {"kernel_sizes": [np.zeros(2, np.int32)], "pad_type": string_value("valid")}),
        ("avg_pool", {"kernel_sizes": [np.zeros(2, np.int32)], "pad_type": string_value("same")}),
        ("pixel_shuffle", {"upscale_factor": 0}),
        ("pixel_unshuffle", {"downscale_factor": 0}),
        ("depth_to_space", {"block_size": 0}),
        ("sliding_windows", {"axis": 0, "size": 1, "stride": 0}),
        ("resize_bilinear", {"target_size_height": 0, "target_size_width": -1}),
        ("gather", {"indices": np.array([7], np.int32), "axis": 0, "validate_indices": True}),
        ("topk", {"k": 99}),
        ("slice_by_size", {"begin": [np.full(4, 9, np.int32)], "size": [np.full(4, 9, np.int32)]}),
        ("scaled_dot_product_attention", {}),
    ],
)
def test_numbers_that_make_no_sense(kind, arguments, tmp_path) -> None:
    spec, block = model((1, 4, 3, 3))
    if kind == "scaled_dot_product_attention":  # more keys than values
        arguments = {"query": "x", "key": "x", "value": np.zeros((1, 4, 1, 3))}
        add(block, kind, "y", **arguments)
    else:
        add(block, kind, "y", x="x", **arguments)
    refused(spec, tmp_path, kind)


def test_a_loop_without_end(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("corepress.runtime.executor.MAX_ITERATIONS", 1000)
    spec, block = model()
    loop = add(block, "while_loop", "y", loop_vars=["x"])
    condition, body = loop.blocks.add(), loop.blocks.add()
    for inner in (condition, body):
        set_tensor_type(inner.inputs.add(name="v").type, FLOAT32, (1, 4))
    add(condition, "less", "yes", x=0.0, y=1.0)
    condition.outputs.append("yes")
    body.outputs.append("v")
    refused(spec, tmp_path, "while_loop", "1,000 rounds")


def test_a_loop_that_doubles_a_tensor(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("corepress.runtime.limits.LIMIT", 1 << 16)
    spec, block = model()
    loop = add(block, "while_loop", "y", loop_vars=["x"])
    condition, body = loop.blocks.add(), loop.blocks.add()
    for inner in (condition, body):
        set_tensor_type(inner.inputs.add(name="v").type, FLOAT32, (1, 4))
    add(condition, "less", "yes", x=0.0, y=1.0)
    condition.outputs.append("yes")
    add(body, "concat", "twice", values=["v", "v"], axis=0)
    body.outputs.append("twice")
    refused(spec, tmp_path, "concat", "elements")


@pytest.mark.parametrize("depth", [35, 5000])
def test_blocks_nested_without_end(depth, tmp_path) -> None:
    spec, _ = model()
    # By hand: the library itself does not write so deep a message. A block holds an operation, which holds a block...
    content = b""
    for _ in range(depth):
        content = field(3, field(1, b"cond") + field(4, content))
    function = field(3, field(1, b"CoreML8") + field(2, content))
    program = field(2, field(1, b"deep") + field(2, function))
    path = tmp_path / "deep.mlmodel"
    path.write_bytes(spec.SerializeToString() + field(502, program))
    with pytest.raises(CorepressError) as error:
        runtime.load(path)
    assert "\n" not in str(error.value)


def field(number: int, content: bytes) -> bytes:
    """A length-delimited field of a protobuf message."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def varint(number: int) -> bytes:
    head = b""
    while number > 127:
        head, number = head + bytes([number & 127 | 128]), number >> 7
    return head + bytes([number])


@pytest.mark.parametrize("shape", [(HUGE, HUGE), (-3, 4)])
def test_features_of_absurd_shapes(shape, tmp_path) -> None:
    spec, block = model()
    add(block, "relu", "y", x="x")
    for change in ("input", "state"):
        description = ModelDescription.FromString(spec.description)
        if change == "input":
            array = description.input[0].type.multiArrayType
            array.floatDefaultValue = 1.0
        else:
            state = description.state.add(name="memory")
            array = state.type.stateType.arrayType
            array.dataType = ARRAY_TYPES["float32"]
        del array.shape[:]
        array.shape.extend(shape)
        changed = type(spec).FromString(spec.SerializeToString())
        changed.description = description.SerializeToString()
        refused(changed, tmp_path, "'x'" if change == "input" else "'memory'", inputs={})


def test_what_is_given_in_another_type_is_converted_or_refused(tmp_path) -> None:
    """The program computes with what its description says, whatever its function declares."""
    spec, block = model()
    set_tensor_type(spec.mlProgram.functions[0].value.inputs[0].type, BY_NAME["int8"], (7,))
    add(block, "logical_not", "z", x="x")
    add(block, "bitwise", "y", x="z")
    refused(spec, tmp_path, "bitwise")
    spec, block = model()
    add(block, "gather", "y", x=np.arange(4.0), indices="x", axis=0)
    assert predict(spec, tmp_path)["y"].shape == (1, 4)
    spec, block = model()
    add(block, "quantize", "y", input="x", scale=1.0, output_dtype=string_value("fp32"))
    refused(spec, tmp_path, "quantize")
