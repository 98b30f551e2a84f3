"""coreai-opt's part of `coreai_modules.py`, in a Python of its own: compresses a model in several ways.

    python coreai_peer.py task.pt results.pt

`task.pt`: `model`, a module; `labelled`, samples with what the loss compares answers with; `loss`, "labels" or
"projection"; `ways`, a list of arguments of a function here with its name as "kind". `results.pt`: for each way the
weights by name as dense tensors, the bytes that are stored of each, and seconds; or what went wrong, in a word.
"""

from __future__ import annotations

import copy
import sys
import time
from typing import Any

import torch
from coreai_opt.palettization import (
    KMeansPalettizer,
    KMeansPalettizerConfig,
    ModuleKMeansPalettizerConfig,
    PalettizationSpec,
)
from coreai_opt.palettization.config.palettization_config import OpKMeansPalettizerConfig
from coreai_opt.palettization.spec import PerGroupedChannelGranularity, PerTensorGranularity
from coreai_opt.quantization import (
    ExecutionMode,
    ModuleQuantizerConfig,
    QuantizationSpec,
    Quantizer,
    QuantizerConfig,
)
from coreai_opt.quantization.spec import PerBlockGranularity, PerChannelGranularity, QuantizationScheme
from torch import Tensor, nn

LOSSES = {
    "labels": nn.functional.cross_entropy,
    "projection": lambda answer, direction: (answer * direction).sum(),
}


def palettized(task: dict[str, Any], bits: int, group: int = 0, sensitive: bool = False) -> nn.Module:
    granularity = PerGroupedChannelGranularity(axis=0, group_size=group) if group else PerTensorGranularity()
    spec = PalettizationSpec(n_bits=bits, granularity=granularity)
    states = dict.fromkeys(OpKMeansPalettizerConfig.get_default_state_spec(), spec)
    own = ModuleKMeansPalettizerConfig(op_input_spec=None, op_output_spec=None, op_state_spec=states)
    palettizer = KMeansPalettizer(copy.deepcopy(task["model"]), KMeansPalettizerConfig(global_config=own))
    model = palettizer.prepare((task["labelled"][0][0],))
    if sensitive:
        with palettizer.calibration_mode(loss_fn=LOSSES[task["loss"]]) as calibration:
            for sample, wanted in task["labelled"]:
                calibration.step(model(sample), wanted)
    return palettizer.finalize()


def quantized(task: dict[str, Any], bits: int, scheme: str, block: int = 0) -> nn.Module:
    signed = scheme != "asymmetric"
    spec = QuantizationSpec(
        dtype=getattr(torch, f"{'' if signed else 'u'}int{bits}"),
        qscheme=QuantizationScheme(scheme),
        granularity=PerBlockGranularity(axis=None, block_size=block) if block else PerChannelGranularity(axis=None),
    )
    own = ModuleQuantizerConfig(op_input_spec=None, op_output_spec=None, op_state_spec={"weight": spec})
    config = QuantizerConfig(global_config=own, execution_mode=ExecutionMode.EAGER)
    quantizer = Quantizer(copy.deepcopy(task["model"]), config)
    model = quantizer.prepare((task["labelled"][0][0],))
    with torch.no_grad(), quantizer.calibration_mode():
        model(task["labelled"][0][0])
    return quantizer.finalize()


def stored(part: nn.Module, bits: int) -> int:
    """The bytes of a compressed weight; zero points count where they say something."""
    held = dict(part.named_buffers())
    codes = held.pop("indices", held.pop("quantized_data", None))
    if "zero_point" in held and not held["zero_point"].any():
        del held["zero_point"]
    size = codes.numel() * bits / 8
    size += sum(
        value.numel() * (bits / 8 if name == "zero_point" else value.element_size()) for name, value in held.items()
    )
    return round(size)


def results(task: dict[str, Any], way: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, int], float]:
    options = {key: value for key, value in way.items() if key != "kind"}
    begin = time.perf_counter()
    model = {"palettized": palettized, "quantized": quantized}[way["kind"]](task, **options)
    seconds = time.perf_counter() - begin
    weights, sizes = {}, {}
    for name, module in model.named_modules():
        if nn.utils.parametrize.is_parametrized(module):
            for key, chain in module.parametrizations.items():
                weights[f"{name}.{key}"] = getattr(module, key).detach().clone()
                sizes[f"{name}.{key}"] = stored(chain[0], way["bits"])
    return weights, sizes, seconds


def main() -> None:
    task = torch.load(sys.argv[1], weights_only=False)
    found: list[Any] = []
    for way in task["ways"]:
        try:
            found.append(results(task, way))
        except Exception as error:  # of all kinds
            found.append(type(error).__name__)
            print(type(error), error, file=sys.stderr)
    torch.save(found, sys.argv[2])


if __name__ == "__main__":
    main()
