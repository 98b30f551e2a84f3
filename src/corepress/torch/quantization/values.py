"""Which values of a captured graph are real: tensors of floating-point numbers, which alone are quantized."""

from __future__ import annotations

import contextlib
import logging
import operator
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from corepress.errors import ConfigError

log = logging.getLogger(__name__)

_UNKNOWN = object()
_VIEWS = ("T", "mT", "H", "mH", "data", "real", "imag", "grad")  # attributes of a tensor that are tensors like it
_COMPARING = ("eq", "ne", "lt", "le", "gt", "ge")
# What gives no real numbers, whatever it reads: functions, and names of methods.
_NEVER_REAL = {
    len, *(getattr(place, name) for place in (operator, torch) for name in _COMPARING), *_COMPARING,
    torch.argmax, torch.argmin, torch.argsort, torch.nonzero, torch.isnan, torch.isinf, torch.isfinite,
    "argmax", "argmin", "argsort", "nonzero", "isnan", "isinf", "isfinite", "size", "dim", "ndimension", "numel",
    "long", "int", "bool", "short", "byte", "item", "tolist", "is_floating_point",
}  # fmt: skip


def real_values(captured: fx.GraphModule, example_inputs: Any) -> set[fx.Node]:
    """The nodes whose values are tensors of floating-point numbers.

    `example_inputs`: the arguments of `forward`; or only their shapes; or None. Types are found without computing, node
    by node; where they can't be, a run on tensors finds them, and without those the table of what never gives such.
    A warning says where the inputs don't fit the model.
    """
    given = _arguments(captured, example_inputs)
    modes = {module: module.training for module in captured.modules()}
    captured.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng():
            found, trouble = _types(captured, given)
            values = [given[node] for node in _inputs(captured) if node in given]
            if trouble and values and not any(isinstance(value, Tensor) and value.is_meta for value in values):
                trouble = "" if _run(captured, values, found) else trouble
    finally:
        for module, mode in modes.items():
            module.training = mode
    if trouble and given:
        log.warning("example_inputs do not fit the model (%s): only what is certain of its types is known", trouble)
    return {node for node, is_real in found.items() if is_real}


def _inputs(captured: fx.GraphModule) -> list[fx.Node]:
    return [node for node in captured.graph.nodes if node.op == "placeholder"]


def _arguments(captured: fx.GraphModule, given: Any) -> dict[fx.Node, Any]:
    """The values of the graph's inputs, as far as they are given; those of shapes are zeros on the meta device."""
    inputs = _inputs(captured)
    if isinstance(given, Mapping):
        named = {str(node.target): node for node in inputs}
        unknown = [name for name in given if name not in named]
        if unknown:
            raise ConfigError(f"example_inputs: the model has no input {unknown[0]!r}, but {', '.join(named)}")
        return {named[name]: _argument(named[name], value, captured) for name, value in given.items()}
    if given is None:
        return {}
    alone = isinstance(given, (Tensor, np.ndarray)) or _is_shape(given)
    values = [given] if alone else list(given)
    if len(values) > len(inputs):
        raise ConfigError(f"example_inputs are {len(values)}, but the model takes {len(inputs)}")
    return {node: _argument(node, value, captured) for node, value in zip(inputs, values, strict=False)}


def _is_shape(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) > 0 and all(type(size) is int for size in value)


def _argument(node: fx.Node, value: Any, captured: fx.GraphModule) -> Any:
    if isinstance(value, np.ndarray):
        return torch.from_numpy(np.ascontiguousarray(value))
    if not _is_shape(value):
        return value
    return torch.empty(value, dtype=torch.int64 if _names_rows(node, captured) else None, device="meta")


def _names_rows(node: fx.Node, captured: fx.GraphModule) -> bool:
    """Whether an embedding reads it."""
    for user in node.users:
        called = captured.get_submodule(str(user.target)) if user.op == "call_module" else user.target
        if isinstance(called, nn.Embedding) or called is F.embedding:
            return True
    return False


def _types(captured: fx.GraphModule, given: dict[fx.Node, Any]) -> tuple[dict[fx.Node, bool], str]:
    """For each node whether it is real, by PyTorch's own rules for types and shapes; and the first error, if any."""
    interpreter = fx.Interpreter(captured)
    found: dict[fx.Node, bool] = {}
    trouble = ""
    device = next((tensor.device for tensor in captured.parameters()), torch.device("cpu"))
    with FakeTensorMode(allow_non_fake_inputs=True), _no_tracebacks():
        for node in captured.graph.nodes:
            value: Any = _UNKNOWN
            if node.op == "placeholder":
                value = given.get(node, node.args[0] if node.args else _UNKNOWN)
                value = torch.empty_like(value, device=device) if isinstance(value, Tensor) else value
            elif node.op != "output" and all(interpreter.env[read] is not _UNKNOWN for read in node.all_input_nodes):
                try:
                    value = interpreter.run_node(node)
                except Exception as error:
                    trouble = trouble or f"{node.name}: {str(error).strip().splitlines()[0] if str(error) else error!r}"
            interpreter.env[node] = value
            known = isinstance(value, Tensor) and value.is_floating_point()
            found[node] = known if value is not _UNKNOWN else _may_be_real(node, captured, found)
    return found, trouble


@contextlib.contextmanager
def _no_tracebacks() -> Iterator[None]:
    """PyTorch prints one for each operation whose shapes don't fit, which is told here in a sentence."""
    theirs = logging.getLogger("torch._subclasses.fake_tensor")
    before, theirs.disabled = theirs.disabled, True
    try:
        yield
    finally:
        theirs.disabled = before


def _may_be_real(node: fx.Node, captured: fx.GraphModule, found: dict[fx.Node, bool]) -> bool:
    """Of a value that is not known: whether it can be real, by the operation and by what that reads."""
    if node.op == "placeholder":
        return not _names_rows(node, captured)
    if node.op == "output" or node.target in _NEVER_REAL or (node.target is getattr and node.args[1] not in _VIEWS):
        return False
    return node.op == "call_module" or any(found[read] for read in node.all_input_nodes)


class _Watching(fx.Interpreter):
    def __init__(self, module: fx.GraphModule):
        super().__init__(module)
        self.real: set[fx.Node] = set()

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor) and result.is_floating_point():
            self.real.add(n)
        return result


def _run(captured: fx.GraphModule, values: list[Any], found: dict[fx.Node, bool]) -> bool:
    """Correct what was found by a run on values; whether it came to its end."""
    watching = _Watching(captured)
    try:
        watching.run(*values)
    except Exception:  # which was met before, without values
        return False
    found |= {node: node in watching.real for node in found}
    return True
