"""PyTorch as the judge: coremltools converts a function, and our operation must answer what the function answers."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class _Module(nn.Module):
    def __init__(self, function: Callable[..., Any]):
        super().__init__()
        self.function = function

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(*inputs)


def converted(kind: str, function: Callable[..., Any], *inputs: Tensor, target: str = "iOS18") -> dict[str, Any]:
    """The constants among the inputs of the one operation of a kind in a converted function or module."""
    logging.getLogger("coremltools").setLevel(logging.ERROR)
    import coremltools as ct

    module = _Module(function).eval().requires_grad_(False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = ct.convert(
            torch.jit.trace(module, inputs),
            inputs=[ct.TensorType(shape=given.shape) for given in inputs],
            convert_to="milinternal",
            minimum_deployment_target=getattr(ct.target, target),
            compute_precision=ct.precision.FLOAT32,
        )
    (op,) = program.functions["main"].find_ops(op_type=kind)
    return {name: var.val for name, var in op.inputs.items() if var is not None and var.val is not None}
