"""A model as a graph of its operations, by symbolic tracing with `torch.fx`.

`torch.fx.Tracer`, `Graph` and `Interpreter` are the stable, documented interface of PyTorch, on which its other tools
rest too; `torch.ao.quantization`, which is deprecated, is not used.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from corepress.errors import ConfigError, UnsupportedError
from corepress.torch.parameters import SUPPORTED

SCOPE = "corepress_scope"  # key of `Node.meta`: the module whose forward made the call
_TORCH = str(Path(torch.__file__).parent)


class _Tracer(fx.Tracer):
    """Looks into all modules but those of PyTorch, those whose weights are quantized, and those that are named."""

    def __init__(self, opaque: Iterable[str] = ()):  # none when a graph is unpickled
        super().__init__()
        self.opaque = set(opaque)
        self.scopes = [""]

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        named = module_qualified_name in self.opaque
        return named or isinstance(m, SUPPORTED) or super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        self.scopes.append(self.path_of_module(m))
        result = super().call_module(m, forward, args, kwargs)
        self.scopes.pop()  # not after an error, which happened there
        return result

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        node = super().create_node(*args, **kwargs)
        node.meta[SCOPE] = self.scopes[-1]
        return node


def capture(model: nn.Module, opaque: Iterable[str]) -> fx.GraphModule:
    """The graph of a model, with the model's own submodules and parameters.

    `opaque`: names of modules that are called, not looked into. Raises CorepressError with the module and the line
    where `forward` does what can't be captured, such as a branch on a value.
    """
    names = dict(model.named_modules())
    for name in opaque:
        if name not in names:
            raise ConfigError(f"non_traceable_module_names: the model has no module {name!r}")
    tracer = _Tracer(opaque)
    try:
        graph = tracer.trace(model)
    except Exception as error:
        raise UnsupportedError(_explanation(tracer.scopes[-1], names, error)) from error
    for node in graph.nodes:
        if isinstance(node.type, str):  # an annotation that was not evaluated, which can't be pickled
            node.type = None
    captured = fx.GraphModule(tracer.root, graph, type(model).__name__)
    _functional_dropout_to_modules(captured)
    return captured


def _explanation(scope: str, names: dict[str, nn.Module], error: Exception) -> str:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not _is_ours(frame.filename)]
    place = f", at {frames[-1].filename}:{frames[-1].lineno}: `{frames[-1].line}`" if frames else ""
    cls = type(names[scope]).__name__
    where = f"module {scope!r} ({cls})" if scope else f"the model ({cls})"
    return (
        f"the forward of {where} can't be captured by torch.fx{place}: {error}. "
        "Write it without branches on values, or put the module's name into non_traceable_module_names."
    )


def _is_ours(filename: str) -> bool:
    return filename.startswith((_TORCH, "<")) or filename == __file__


def _functional_dropout_to_modules(captured: fx.GraphModule) -> None:
    """`F.dropout(x, p, training=self.training)` was captured with the mode of the moment; a module follows the mode."""
    classes = {F.dropout: nn.Dropout, F.dropout1d: nn.Dropout1d, F.dropout2d: nn.Dropout2d, F.dropout3d: nn.Dropout3d}
    for number, node in enumerate(captured.graph.nodes):
        if node.op == "call_function" and node.target in classes:
            arguments = dict(zip(("input", "p", "training", "inplace"), node.args, strict=False)) | node.kwargs
            if not arguments.get("training", True):
                continue
            module = classes[node.target](float(arguments.get("p", 0.5)))
            module.train(captured.training)
            name = f"dropout_{number}"
            captured.add_submodule(name, module)
            node.op, node.target, node.args, node.kwargs = "call_module", name, (arguments["input"],), {}
    captured.recompile()
