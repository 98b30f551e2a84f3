"""The methods that `quality.py` compares: what each does to the model of a task, with either library."""

from __future__ import annotations

import copy
import importlib
import math
import re
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

import corepress
import corepress.coreml as cto
from corepress.coreml import calibrated
from corepress.torch.metadata import read_weight
from corepress.torch.parameters import parameters
from quality_tasks import Task

OURS, PEER = "corepress", "coremltools.optimize"
_FOLDERS = {"Palettizer": "palettization", "Quantizer": "quantization", "Compressor": "layerwise_compression"}


@dataclass(frozen=True)
class Result:
    """`scores`, `snrs` (dB): of the outputs for inputs like what it learnt from, and for others. `stored`: the
    bytes of each weight, its tables, scales and mask included; `counts`: its elements. `compressed`: the weights that
    are."""

    scores: tuple[float, ...]
    snrs: tuple[float, ...]
    stored: dict[str, int]
    counts: dict[str, int]
    compressed: frozenset[str]
    seconds: float

    def bits(self, among: frozenset[str]) -> float:
        """Stored for an element of these weights, on average."""
        return 8 * sum(self.stored[name] for name in among) / sum(self.counts[name] for name in among)


def _snr(outputs: np.ndarray, original: np.ndarray) -> float:
    """In dB, up to one common factor, to which cosines and the class of the largest output are blind."""
    outputs = outputs * ((outputs * original).sum() / np.square(outputs).sum())
    with np.errstate(divide="ignore"):
        return float(10 * np.log10(np.square(original).sum() / np.square(outputs - original).sum()))


def quality(task: Task, outputs: Sequence[np.ndarray]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    pairs = list(zip(task.tests, outputs, strict=True))
    return tuple(test.score(own) for test, own in pairs), tuple(_snr(own, test.original) for test, own in pairs)


@dataclass(frozen=True)
class Method(ABC):
    """`bits`: of an index or an integer; 32 for what is only pruned."""

    name: str
    bits: int

    @abstractmethod
    def run(self, library: str, task: Task) -> Result | None:
        """Compress, then measure; None if the library has no such method."""


@dataclass(frozen=True)
class OnModule(Method):
    """An optimizer of both libraries. `data`: what it learns from. `extra`: additions that only we have. `skipped`:
    names of modules that are left alone."""

    optimizer: str
    config: dict[str, Any]
    data: str = ""  # or "loss", "inputs"
    extra: dict[str, Any] = field(default_factory=dict)
    only_ours: bool = False
    skipped: tuple[str, ...] = ()

    def run(self, library: str, task: Task) -> Result | None:
        if self.only_ours and library == PEER:
            return None
        folder = next(folder for end, folder in _FOLDERS.items() if self.optimizer.endswith(end))
        module = importlib.import_module(f"{library}.torch.{folder}")
        extra = dict(self.extra) if library == OURS else {}
        settings = {key: extra.pop(key) for key in ("match_original",) if key in extra}
        settings["global_config"] = self.config | extra
        settings |= {"module_name_configs": dict.fromkeys(map(re.escape, self.skipped))} if self.skipped else {}
        arguments: dict[str, Any] = {"inplace": True}
        if self.data == "inputs":
            settings["calibration_nsamples"] = len(task.batches)
            settings |= {"layers": task.layers, "input_cacher": "gpt"} if task.layers else {}
            arguments |= {"dataloader": task.batches, "device": "cpu"}
        if self.data == "loss":
            settings["calibration_nsamples"] = len(task.labelled)
        config = getattr(module, f"{self.optimizer}Config").from_dict(settings)
        optimizer = getattr(module, self.optimizer)(copy.deepcopy(task.model), config)
        spent = 0.0
        if self.data == "loss":
            arguments["sensitivity_path"], spent = _sensitivity(library, task, optimizer)
        begin = time.perf_counter()
        compressed = optimizer.compress(**arguments).eval()
        seconds = time.perf_counter() - begin + spent
        outputs = [test.outputs(compressed) for test in task.tests]
        return Result(*quality(task, outputs), *_sizes_of_module(compressed), seconds)


_sensitivities: dict[tuple[str, int], tuple[str, float]] = {}
_folder = tempfile.TemporaryDirectory()


def _sensitivity(library: str, task: Task, optimizer: Any) -> tuple[str, float]:
    """The file of a library's sensitivities for a task and the seconds that they took, for any number of bits."""
    key = library, id(task)
    if key not in _sensitivities:
        path = str(Path(_folder.name, f"{library}-{id(task)}"))
        begin = time.perf_counter()
        optimizer.compute_sensitivity(task.labelled, task.loss, path)
        _sensitivities[key] = path, time.perf_counter() - begin
    return _sensitivities[key]


def _sizes_of_module(model: nn.Module) -> tuple[dict[str, int], dict[str, int], frozenset[str]]:
    """Of all weights, from the buffers that both libraries leave for the conversion: bytes, elements, who has any."""
    stored, counts, compressed = {}, {}, []
    for parameter in parameters(model):
        for name, buffer in parameter.module.named_buffers(recurse=False):
            if name.endswith(("/quantization_scale", "/zero_point")):
                # Those of layer-wise methods of coremltools lack axes.
                missing = parameter.value.ndim - buffer.ndim
                parameter.module._buffers[name] = buffer.reshape(*buffer.shape, *[1] * max(0, missing))
            elif name.endswith("/quantization_n_bits"):
                # Core ML has no integers of 3 bits; coremltools leaves the number as it is.
                parameter.module._buffers[name] = buffer.clamp(min=4)
        form = read_weight(parameter)
        stored[parameter.key], counts[parameter.key] = form.nbytes, math.prod(form.shape)
        if not isinstance(form, np.ndarray):
            compressed.append(parameter.key)
    return stored, counts, frozenset(compressed)


@dataclass(frozen=True)
class OnPackage(Method):
    """A function of `corepress.coreml.calibrated`, then `corepress.refine` with so many `steps`, if any; the peer has
    none for packages that learns from data."""

    function: str
    config: Any
    options: dict[str, Any] = field(default_factory=dict)
    steps: int = 0

    def run(self, library: str, task: Task) -> Result | None:
        if library == PEER:
            return None
        begin = time.perf_counter()
        # What is only added, such as embeddings of positions, isn't a layer's weight: on the side of PyTorch no method
        # of both libraries takes it either.
        config = cto.OptimizationConfig(self.config, op_type_configs={"add": None})
        function = getattr(calibrated, self.function)
        model = function(corepress.load(task.package), config, task.samples, target="iOS18", **self.options)
        if self.steps:
            original = corepress.load(task.package)
            model = corepress.refine(original, model, task.samples, steps=self.steps).model
        seconds = time.perf_counter() - begin
        weights = [weight for weight in model.weights() if weight.compression]
        stored, counts = ({w.name: getattr(w, size) for w in weights} for size in ("stored_bytes", "size"))
        outputs = [test.outputs_of_package(model) for test in task.tests]
        return Result(*quality(task, outputs), stored, counts, frozenset(stored), seconds)


GROUPS = {"granularity": "per_grouped_channel", "group_size": 16}
BLOCKS = {"granularity": "per_block", "block_size": 32}
STEPS = 400  # of refinement
MATCHED, MATCH = ", match_original", {"match_original": True}


def methods(bits: tuple[int, ...]) -> list[Method]:
    """All that exist, for indices and integers of these sizes."""
    found: list[Method] = []
    for n in bits:
        luts = {"one table": {}, "groups of 16": GROUPS}
        for name, config in luts.items():
            found.append(
                OnModule(f"PostTrainingPalettizer, {name}", n, "PostTrainingPalettizer", {"n_bits": n} | config)
            )
        found.append(OnModule("SKMPalettizer", n, "SKMPalettizer", {"n_bits": n}, "loss"))
        for name, config in luts.items():
            own = {"algorithm": "lut_gptq", "n_bits": n} | config
            found.append(
                OnModule(f"LUT-GPTQ, {name}{MATCHED}", n, "LayerwiseCompressor", own, "inputs", MATCH, only_ours=True)
            )
        found += _integers(n)
        for name, config in luts.items():
            package_config = cto.OpPalettizerConfig(mode="kmeans", nbits=n, **config)
            for more, steps in (("", 0), (", refined", STEPS)) if n == 2 else (("", 0),):
                title = f"calibrated.palettize_weights, {name}{more}"
                found.append(OnPackage(title, n, "palettize_weights", package_config, steps=steps))
        found.append(
            OnPackage(
                "calibrated.palettize_weights, skm",
                n,
                "palettize_weights",
                cto.OpPalettizerConfig(mode="kmeans", nbits=n),
                {"method": "skm"},
            )
        )
    for sparsity in (0.5, 0.75):
        config = {"algorithm": "sparse_gpt", "target_sparsity": sparsity, "weight_dtype": "float32"}
        for more, extra in (("", {}), (MATCHED, MATCH)):
            name = f"SparseGPT, {sparsity:.0%} zeros{more}"
            found.append(OnModule(name, 32, "LayerwiseCompressor", config, "inputs", extra))
    return found


def _integers(bits: int) -> list[Method]:
    found: list[Method] = []
    scales = {"each channel": {"granularity": "per_channel"}, "blocks of 32": BLOCKS}
    for name, granularity in scales.items():
        if bits in (8, 4):
            config = {"weight_dtype": f"int{bits}"} | granularity
            for more, extra in (("", {}), (", scale_search", {"scale_search": True})):
                found.append(
                    OnModule(f"PostTrainingQuantizer, {name}{more}", bits, "PostTrainingQuantizer", config, extra=extra)
                )
        if bits in (8, 4, 3):
            config = {"algorithm": "gptq", "weight_dtype": f"uint{bits}"} | granularity
            search = {"scale_search": True}
            extras = {"": {}, ", scale_search": search, f", scale_search{MATCHED}": search | MATCH}
            extras |= {", activation_aware_scale": {"activation_aware_scale": True}} if bits == 4 else {}
            for more, extra in extras.items():
                found.append(OnModule(f"GPTQ, {name}{more}", bits, "LayerwiseCompressor", config, "inputs", extra))
        if bits in (8, 4):
            config = cto.OpLinearQuantizerConfig(dtype=f"int{bits}", scale_search=True, **granularity)
            found.append(
                OnPackage(f"calibrated.linear_quantize_weights, {name}", bits, "linear_quantize_weights", config)
            )
    return found
