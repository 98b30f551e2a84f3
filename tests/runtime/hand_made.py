"""Programs put together by hand, from the messages of the format, so that nothing checks them on the way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from corepress import runtime
from corepress.formats.dtypes import BY_NAME
from corepress.formats.mlprogram.values import immediate_value, set_tensor_type, string_value
from corepress.formats.schema import Model as ModelProto
from corepress.formats.schema import ModelDescription

FLOAT32 = BY_NAME["float32"]
ARRAY_TYPES = {"float32": 65568, "int32": 131104}


def add(block: Any, kind: str, *outputs: str, **arguments: Any) -> Any:
    """An operation: a string names a value, everything else is a constant (`string_value` makes one of a string)."""
    op = block.operations.add(type=kind)
    op.attributes.add(key="name").value.CopyFrom(string_value(f"the {kind}"))
    for key, given in arguments.items():
        argument = op.inputs.add(key=key).value
        for one in given if isinstance(given, list) else [given]:
            if isinstance(one, str):
                argument.arguments.add(name=one)
            else:
                argument.arguments.add().value.CopyFrom(one if hasattr(one, "immediateValue") else constant(one))
    for name in outputs:
        set_tensor_type(op.outputs.add(name=name).type, FLOAT32, (1,))
    return op


def constant(value: Any) -> Any:
    array = np.array(value)
    return immediate_value(array.astype({"f": np.float32, "i": np.int32}.get(array.dtype.kind, array.dtype)))


def model(shape: tuple[int, ...] = (1, 4), dtype: str = "float32", opset: str = "CoreML8") -> tuple[Any, Any]:
    """A model with the input x and the output y, and the block of its function, which computes nothing yet."""
    spec = ModelProto(specificationVersion=9)
    function = spec.mlProgram.functions.add(key="main").value
    function.opset = opset
    set_tensor_type(function.inputs.add(name="x").type, BY_NAME[dtype], shape)
    description = ModelDescription()
    for features, name in ((description.input, "x"), (description.output, "y")):
        array = features.add(name=name).type.multiArrayType
        array.shape.extend(shape)
        array.dataType = ARRAY_TYPES[dtype]
    spec.description = description.SerializeToString()
    block = function.block_specializations.add(key=opset).value
    block.outputs.append("y")
    return spec, block


def predict(spec: Any, folder: Path, inputs: dict[str, Any] | None = None) -> dict[str, Any]:
    """Save as an .mlmodel, load and run, on zeros."""
    path = folder / "hostile.mlmodel"
    path.write_bytes(spec.SerializeToString())
    program = runtime.load(path)
    feature = program.interface.inputs[0]
    given = {"x": np.zeros(feature.shape, feature.dtype)} if inputs is None else inputs
    return program.predict(given, program.make_state() if program.interface.states else None)
