"""`corepress.torch.for_coreai`: a compressed module in the form that coreai-torch converts to a Core AI model.

coreai-torch knows compressed weights by its operations on what is stored (`coreai::lut_to_dense` and others), and
quantized activations by `coreai::quantize` and `coreai::dequantize`: what coreai-opt leaves in a module, too.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.func import functional_call
from torch.nn.utils import parametrize

from corepress.errors import ConfigError, DataError, OrderError
from corepress.fields import some
from corepress.migrating.constants import BITS, Constant, compressed, know_operations
from corepress.torch.distributed import has_split_weights
from corepress.torch.metadata import array_of, described, forget, read_weight
from corepress.torch.parameters import Slot, bake_parametrizations, copy_of, together
from corepress.torch.quantization.exported import exported_form, exported_pairs, exported_weights, forget_unused
from corepress.torch.quantization.fake_quantize import FakeQuantize
from corepress.torch.quantization.finishing import pairs
from corepress.torch.training import Part
from corepress.weights import CompressedWeight, Palettized, Quantized, Sparse, decompress

__all__ = ["for_coreai"]

log = logging.getLogger(__name__)


def for_coreai(model: nn.Module) -> nn.Module:
    """Make a compressed module one that `coreai_torch` converts to a Core AI model with the weights as compressed.

    The result answers as the module does. Each weight is computed from its indices, tables, integers, scales and masks,
    which coreai-torch stores as they are; activations that `LinearQuantizer` quantized stay so. It is what coreai-opt
    leaves in a module by `finalize(backend=ExportBackend.CoreAI)`, made of any module that `coremltools.convert` would
    convert to compressed weights.

    Args:
        model: What `compress` or `finalize` of any class of `corepress.torch` gave, or `refine`, or torchao's
            `convert_pt2e` by a `CoreMLQuantizer`; it stays as it is.

    Returns:
        A copy for `torch.export` and `coreai_torch.TorchConverter`; not for training.

    Raises:
        ConfigError: If nothing of the module is compressed.
        OrderError: For a model that is being trained still: `finalize` comes first.
        DataError: If a weight was changed after it was compressed.
        MissingDependencyError: Without coreai-torch.

    Examples:
        >>> import coreai_torch
        >>> from corepress.torch.palettization import PostTrainingPalettizer, PostTrainingPalettizerConfig
        >>> model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10)).eval()
        >>> config = PostTrainingPalettizerConfig.from_dict({"global_config": {"n_bits": 4}})
        >>> small = PostTrainingPalettizer(model, config).compress()
        >>> program = torch.export.export(cto.torch.for_coreai(small), (torch.randn(1, 64),))
        >>> program = program.run_decompositions(coreai_torch.get_decomp_table())
        >>> converted = coreai_torch.TorchConverter().add_exported_program(program).to_coreai()
        coreai-torch ...: converting 1 program(s) to Core AI
        >>> str(converted).count("coreai.lut_to_dense")
        2
    """
    know_operations("corepress.torch.for_coreai")
    _check_finished(model)
    result = copy_of(model)
    bake_parametrizations(result)
    weights = together(described(result))
    quantized = _quantize_activations(result)
    if not weights and not quantized:
        raise ConfigError(
            "nothing of the module is compressed: it goes to coreai-torch as it is; compress() or finalize() first"
        )
    wide = []
    for slots in weights:
        form, dense = read_weight(slots[0]), slots[0].value.detach()
        if isinstance(form, np.ndarray):
            continue
        _check_unchanged(slots[0], form)
        if _indices_of(form) and _indices_of(form) not in BITS:
            wide.append(slots[0].key)
        _store(result, slots, compressed(form).to(dense.device), dense.dtype)
    for module in result.modules():
        forget(module)
    if wide:
        log.warning(
            "%s: indices of 3 bits take 4, as coreai-torch can't store them: corepress.coreml.narrow_indices makes 3 "
            "of them in the .aimodel",
            some(wide),
        )
    return result


class _Stored(nn.Module):
    """A weight that is computed from what is stored of it, in the type of the layer."""

    def __init__(self, constant: nn.Module, dtype: torch.dtype):
        super().__init__()
        self.constant, self._dtype = constant, dtype

    def forward(self, original: Tensor) -> Tensor:
        """See the class; nothing is left of the original."""
        value: Tensor = self.constant()
        return value if value.dtype == self._dtype else value.to(self._dtype)


class _Elsewhere(nn.Module):
    """A constant whose parts are buffers of the whole model."""

    def __init__(self, root: nn.Module, constant: Constant):
        super().__init__()
        names = {name: f"stored_{len(root._buffers)}_{name.replace('.', '_')}" for name, _ in constant.named_buffers()}
        for name, part in constant.named_buffers():
            root.register_buffer(names[name], part)
        self._names = names
        self._others = root, constant  # in a tuple they are no children

    def forward(self) -> Tensor:
        """See `Constant`."""
        root, constant = self._others
        parts = {name: getattr(root, held) for name, held in self._names.items()}
        value: Tensor = functional_call(constant, parts, ())
        return value


class _Quantize(nn.Module):
    """An activation, rounded to the 8-bit integers that stand for it, and back."""

    def __init__(self, scale: float, zero_point: int):
        super().__init__()
        self.register_buffer("scale", torch.tensor(scale))
        self.register_buffer("zero_point", torch.tensor(zero_point, dtype=torch.uint8))

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        integers = torch.ops.coreai.quantize(x, self.scale, torch.uint8, self.zero_point)
        value: Tensor = torch.ops.coreai.dequantize(integers, self.scale, self.zero_point)
        return value


def _store(root: nn.Module, slots: Sequence[Slot], constant: Constant, dtype: torch.dtype) -> None:
    """Let all places of one weight compute it from what is stored of it."""
    # coreai-torch 0.4 takes the first argument with "lut" in its name for the table, though that is a "convolution".
    named = any("lut" in slot.module_name for slot in slots)
    stored = _Stored(_Elsewhere(root, constant) if named else constant, dtype)
    for slot in slots:
        parametrize.register_parametrization(slot.module, slot.name, stored, unsafe=True)
        chains: Any = slot.module.parametrizations
        chains[slot.name].original = nn.Parameter(torch.empty(0, dtype=dtype), requires_grad=False)


def _quantize_activations(model: nn.Module) -> int:
    """Replace the pairs of operations of PyTorch by those of Core AI; how many there are."""
    count = 0
    for module in [module for module in model.modules() if isinstance(module, fx.GraphModule)]:
        for quantize, dequantize in [*pairs(module.graph), *exported_pairs(module.graph)]:
            value, scale, zero_point = quantize.args[:3]
            _replace(module, dequantize, _Quantize(scale, zero_point), value)  # type: ignore[arg-type]
            if not quantize.users:
                module.graph.erase_node(quantize)
            count += 1
        if weights := exported_weights(module.graph):
            for node in weights:
                _replace(module, node, compressed(exported_form(module, node)))
            forget_unused(module)
        count += len(weights)
        module.recompile()
    return count


def _replace(module: fx.GraphModule, node: fx.Node, by: nn.Module, *arguments: Any) -> None:
    """Let a module compute the value of a node of the graph."""
    name = f"core_ai_{node.name}"
    module.add_module(name, by)
    with module.graph.inserting_after(node):
        node.replace_all_uses_with(module.graph.call_module(name, arguments))
    module.graph.erase_node(node)


def _check_finished(model: nn.Module) -> None:
    if has_split_weights(model):
        raise OrderError("the model's weights are split over processes (DTensor): finalize() makes a whole copy")
    if any(isinstance(module, Part | FakeQuantize) for module in model.modules()):
        raise OrderError("the model is prepared for training still: give for_coreai what finalize() returns")


def _check_unchanged(slot: Slot, form: CompressedWeight) -> None:
    """The weight is what its buffers stand for, up to the last bits."""
    held = array_of(slot.value)
    small = 4 * torch.finfo(slot.value.dtype).eps
    if np.abs(decompress(form) - held).max() > small * np.abs(held).max():
        raise DataError(f"{slot.key} was changed after it was compressed: compress it again")


def _indices_of(form: Any) -> int:
    """The bits of the indices of a form; 0 without tables."""
    if isinstance(form, Palettized):
        return form.bits
    if isinstance(form, Sparse):
        return _indices_of(form.values)
    return _indices_of(form.data) if isinstance(form, Quantized) else 0
