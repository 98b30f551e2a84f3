"""Makes of a trained model one that `coremltools.convert` reads: no fake quantization, but integers.

Core ML Tools 9.0 reads quantized activations in one form only: `torch.quantize_per_tensor` and `dequantize` in a traced
model. They become `quantize` and `dequantize`. PyTorch 2.13 warns that it will drop this function some day (its issue
184982): then `_insert_pair`, the only place that knows it, has to write whatever the converter reads by then.
"""

from __future__ import annotations

import logging

import torch
from torch import fx, nn

from corepress.torch.quantization.fake_quantize import FakeQuantize
from corepress.torch.quantization.insertion import replace_module
from corepress.torch.quantization.layers import FakeQuantizedLayer

log = logging.getLogger(__name__)


def finish_activations(model: fx.GraphModule) -> None:
    """Replace the calls of `FakeQuantize` by pairs of operations on all values of its group."""
    graph = model.graph
    found: dict[FakeQuantize, str] = {}
    for node in list(graph.nodes):
        module = model.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, FakeQuantize):
            found.setdefault(module, str(node.target))
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
    nodes = {node.name: node for node in graph.nodes}
    for module, name in found.items():
        if not module.has_range:
            log.warning("%s: left in floating point: no data went through it while its observer was on", name)
            continue
        module.check(f"activation {module.members[0]!r}")
        scale, zero_point = (value.item() for value in module.calculate_qparams())
        for member in module.members:
            if member in nodes:
                _insert_pair(graph, nodes[member], scale, int(zero_point))
    for name in found.values():
        model.delete_submodule(name)
    graph.lint()
    model.recompile()


def _insert_pair(graph: fx.Graph, node: fx.Node, scale: float, zero_point: int) -> None:
    with graph.inserting_after(node):
        quantized = graph.call_function(torch.quantize_per_tensor, (node, scale, zero_point, torch.quint8))
    with graph.inserting_after(quantized):
        pair = graph.call_method("dequantize", (quantized,))
    node.replace_all_uses_with(pair, delete_user_cb=lambda user: user is not quantized)


def pairs(graph: fx.Graph) -> list[tuple[fx.Node, fx.Node]]:
    """The nodes that `_insert_pair` put into a graph."""
    found = [node for node in graph.nodes if node.target is torch.quantize_per_tensor]
    return [(node, user) for node in found for user in node.users if user.target == "dequantize"]


def finish_layers(model: fx.GraphModule) -> None:
    """Put each layer back into its place, its batch norm folded in and its weight made of integers."""
    layers = {name: module for name, module in model.named_modules() if isinstance(module, FakeQuantizedLayer)}
    _untie(list(layers.values()))
    for name, module in layers.items():
        replace_module(model, name, module.finish(name))


def _untie(layers: list[FakeQuantizedLayer]) -> None:
    """Give layers that share a weight, but not how it is rounded, a weight each."""
    seen: dict[int, FakeQuantizedLayer] = {}
    for module in layers:
        first = seen.setdefault(id(module.stored), module)
        if first is not module and not _rounds_alike(first, module):
            module.layer.weight = nn.Parameter(module.weight.detach().clone())


def _rounds_alike(one: FakeQuantizedLayer, other: FakeQuantizedLayer) -> bool:
    if one.bn is not None or other.bn is not None or one.weight_fake_quant is None or other.weight_fake_quant is None:
        return False
    return one.weight_fake_quant.extra_repr() == other.weight_fake_quant.extra_repr() and torch.equal(
        one.weight_fake_quant.scale, other.weight_fake_quant.scale
    )
