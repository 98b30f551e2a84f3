"""What `torchao.quantization.pt2e.convert_pt2e` leaves in a graph of a model that `CoreMLQuantizer` annotated."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from corepress.torch.metadata import array_of
from corepress.weights import Quantized

_LIBRARY = "quantized_decomposed"


def exported_pairs(graph: fx.Graph) -> list[tuple[fx.Node, fx.Node]]:
    """The nodes that round an activation to 8-bit integers, each with one that makes floating point of it."""
    found = [node for node in graph.nodes if _kind(node) == "quantize_per_tensor"]
    return [(node, user) for node in found for user in node.users if _kind(user) == "dequantize_per_tensor"]


def exported_weights(graph: fx.Graph) -> list[fx.Node]:
    """The nodes that make floating point of the integers of a weight."""
    kinds = ("dequantize_per_tensor", "dequantize_per_channel")
    return [node for node in graph.nodes if _kind(node) in kinds and _is_held(node.args[0])]


def exported_form(module: fx.GraphModule, node: fx.Node) -> Quantized:
    """The compressed weight that such a node makes floating point of."""
    held: list[Any] = [_held(module, argument) if _is_held(argument) else argument for argument in node.args]
    integers, scale, offset = array_of(held[0]), np.asarray(_numbers(held[1])), np.asarray(_numbers(held[2]))
    low, high = held[-3], held[-2]
    shape = [1] * integers.ndim
    if _kind(node) == "dequantize_per_channel":
        shape[held[3]] = -1
    return Quantized(
        integers,
        scale.astype(np.float32).reshape(shape),
        offset.astype(integers.dtype).reshape(shape) if offset.any() else None,
        bits=4 if high - low < 16 else 8,
    )


def forget_unused(module: fx.GraphModule) -> None:
    """Remove parameters and buffers that the graph does not read any more, and no module that it calls holds."""
    for node in list(module.graph.nodes):
        if node.op == "get_attr" and not node.users:
            module.graph.erase_node(node)
    read = {str(node.target) for node in module.graph.nodes if node.op == "get_attr"}
    called = tuple(f"{node.target}." for node in module.graph.nodes if node.op == "call_module")
    for name in [*dict(module.named_parameters()), *dict(module.named_buffers())]:
        if name not in read and not name.startswith(called):
            place, _, own = name.rpartition(".")
            delattr(module.get_submodule(place), own)


def _kind(node: Any) -> str:
    """The name of an operation of quantization; the empty string of others."""
    target = getattr(node, "target", None)
    if not isinstance(target, torch._ops.OpOverload) or target.namespace != _LIBRARY:
        return ""
    return str(target._schema.name).partition("::")[2]


def _is_held(argument: Any) -> bool:
    return isinstance(argument, fx.Node) and argument.op == "get_attr"


def _held(module: fx.GraphModule, node: Any) -> Tensor:
    place, _, name = str(node.target).rpartition(".")
    found: Tensor = getattr(module.get_submodule(place), name)
    return found


def _numbers(value: Any) -> Any:
    return array_of(value) if isinstance(value, Tensor) else value
