"""coremltools as the judge: it loads our packages with all its checks and computes the value of each weight."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def peer_program(path: Path | str, function: str | None = None):
    """The program of a package as coremltools reads it; raises where one of its type checks fails."""
    import coremltools as ct
    from coremltools.converters.mil.frontend.milproto.load import load

    model = ct.models.MLModel(str(path), skip_model_load=True)
    return load(model.get_spec(), model.get_spec().specificationVersion, model.weights_dir)


def peer_weights(path: Path | str) -> dict[str, np.ndarray]:
    """By output name, the dense value of every constant and constexpr that an ordinary operation reads."""
    found: dict[str, np.ndarray] = {}
    for function in peer_program(path).functions.values():
        _collect(function, found)
    return found


def _collect(block, found) -> None:
    for op in block.operations:
        for inner in op.blocks:
            _collect(inner, found)
        if op.op_type == "const" or op.op_type.startswith("constexpr_"):
            for var in op.outputs:
                if any(not child.op_type.startswith("constexpr_") for child in var.child_ops):
                    value = peer_value(var)
                    if isinstance(value, np.ndarray):
                        found[var.name] = value


def peer_value(var):
    """The value of a variable by coremltools' own decompression of each operation in its chain."""
    op = var.op
    if op.op_type == "const":
        return var.val
    inputs = {
        name: peer_value(value)
        for name, value in op.inputs.items()
        if value is not None and not isinstance(value, (list, tuple))
    }
    if op.op_type == "constexpr_lut_to_dense" and "shape" in inputs:
        return op.materialized_val_inference()
    if op.op_type in ("constexpr_affine_dequantize", "constexpr_cast") or (
        op.op_type == "constexpr_sparse_to_dense" and "shape" in inputs
    ):
        return op.materialized_val_inference()
    arguments = {name: inputs.get(name) for name in op.input_spec.input_types}
    result = type(op).decompress(*arguments.values())
    return result[op.outputs.index(var)] if isinstance(result, tuple) else result
