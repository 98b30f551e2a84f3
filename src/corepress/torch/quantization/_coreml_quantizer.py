"""`CoreMLQuantizer`: the quantizer of PyTorch 2 export quantization (PT2E) for Core ML."""

from __future__ import annotations

import logging
from importlib import import_module
from typing import Any

from torch import fx

from corepress.errors import missing
from corepress.torch.quantization.annotation import Kit, annotate, forget_batch_counts
from corepress.torch.quantization.quantization_config import LinearQuantizerConfig

__all__ = ["CoreMLQuantizer"]

log = logging.getLogger(__name__)


def _find_kit() -> Kit | None:
    """torchao, where PT2E lives, or PyTorch up to 2.9, where it was."""
    for package in ("torchao.quantization.pt2e", "torch.ao.quantization"):
        try:
            return Kit(import_module(package), import_module(f"{package}.quantizer"))
        except ImportError:
            continue
    return None


_KIT = _find_kit()
_Base: Any = object if _KIT is None else _KIT.specs.Quantizer


class CoreMLQuantizer(_Base):  # type: ignore[misc]
    """Annotates an exported model with what Core ML computes in integers, for `torchao.quantization.pt2e`.

    It is a `Quantizer` of torchao (the extra `pt2e`), or without that of PyTorch up to 2.9. The graph is that of
    `torch.export`, so that branches on Python values are no hindrance.

    Args:
        config: The same as that of `LinearQuantizer`, from which `milestones`, `algorithm`,
            `non_traceable_module_names` and `preserved_attributes` have no meaning here; None: its defaults, W8A8. With
            `activation_dtype` float32, weights alone are quantized.

    Raises:
        MissingDependencyError: Without torchao.

    Examples:
        >>> from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
        >>> from corepress.torch.quantization import CoreMLQuantizer
        >>> model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10)).eval()
        >>> exported = torch.export.export(model, (torch.randn(8, 64),)).module()
        >>> prepared = prepare_pt2e(exported, CoreMLQuantizer())  # or prepare_qat_pt2e, and train
        >>> _ = prepared(torch.randn(8, 64))
        >>> convert_pt2e(prepared)(torch.randn(8, 64)).shape
        torch.Size([8, 10])
    """

    def __init__(self, config: LinearQuantizerConfig | None = None):
        if _KIT is None:
            raise missing("torchao", "CoreMLQuantizer")
        self._kit = _KIT
        self._config = LinearQuantizerConfig() if config is None else config
        if self._config.leading.algorithm == "learnable":
            log.warning("algorithm 'learnable' is for LinearQuantizer only: here, scales follow the observed ranges")

    def transform_for_annotation(self, model: fx.GraphModule) -> fx.GraphModule:
        """Let batch norms no longer count batches, in place: nobody reads the count, and Core ML would keep a state."""
        forget_batch_counts(model)
        return model

    def annotate(self, model: fx.GraphModule) -> fx.GraphModule:
        """Annotate the nodes of a graph of `torch.export.export(...).module()`, in place; the model is given back."""
        annotate(model, self._config, self._kit)
        return model

    def validate(self, model: fx.GraphModule) -> None:
        """Accept any model: what Core ML has no integers for was left alone."""
