"""How the predictions of two models differ."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from corepress.errors import ConfigError
from corepress.metrics import Sums
from corepress.neural_network.interop import as_model
from corepress.peer import is_mlmodel
from corepress.sequences import each_step

Metrics = dict[str, dict[str, float]]


def compare_models(full_precision_model: Any, quantized_model: Any, sample_data: Any) -> Metrics:
    """Print, and return, how far the outputs of the second model are from those of the first.

    Source: `coremltools.models.neural_network.quantization_utils.compare_models`, which needs macOS.

    Args:
        full_precision_model: A path, a specification, a `Model` or an `MLModel`, which `corepress.runtime` runs; or
            what has a method `predict` of its own.
        quantized_model: The same.
        sample_data: A list of {input name: array}, or a single one; or a folder of images, for models with one input.

    Returns:
        For each numeric output and each image "snr" and "psnr", in dB, the means over the samples; for each label and
        each dictionary of probabilities "top1" and "top5", the parts of the samples on which the models agree.

    Raises:
        CorepressError: For a model that can't be run, and without PyTorch.

    Examples:
        >>> from corepress.neural_network.quantization_utils import compare_models, quantize_weights
        >>> small = quantize_weights("net.mlmodel", nbits=8)
        >>> measures = compare_models("net.mlmodel", small, [{"x": np.ones(8, "f4")}])
        y: snr ..., psnr ...
    """
    full, quantized = _runnable(full_precision_model), _runnable(quantized_model)
    scores: dict[str, list[dict[str, float]]] = {}
    for sample in _samples(full, sample_data):
        wanted, got = full.predict(sample), quantized.predict(sample)
        for name, value in wanted.items():
            if name not in got:
                raise ConfigError(f"the second model has no output {name!r}; it has {', '.join(got)}")
            scores.setdefault(name, []).append(_score(name, value, got[name]))
    result = {
        name: {key: float(np.mean([row[key] for row in rows])) for key in rows[0]} for name, rows in scores.items()
    }
    for name, metrics in result.items():
        print(f"{name}: {', '.join(f'{key} {value:.4g}' for key, value in metrics.items())}")
    return result


def _runnable(model: Any) -> Any:
    if hasattr(model, "predict") and not is_mlmodel(model):
        return model
    from corepress import runtime  # it needs PyTorch, and this folder

    return runtime.load(as_model(model))


def _samples(model: Any, sample_data: Any) -> Iterable[Mapping[str, Any]]:
    from corepress.runtime.samples import checked, read_samples

    interface = getattr(model, "interface", None)
    if not isinstance(sample_data, str | Path):
        return each_step(checked([sample_data] if isinstance(sample_data, Mapping) else sample_data, interface))
    if interface is None:
        raise ConfigError(f"{sample_data}: what inputs the model has is unknown; give a list of dictionaries instead")
    return each_step(checked(read_samples(sample_data, interface), interface, str(sample_data)))


def _score(name: str, wanted: Any, got: Any) -> dict[str, float]:
    if isinstance(wanted, Mapping):
        first, second = (sorted(scores, key=lambda label: -scores[label])[:5] for scores in (wanted, got))
        return {"top1": float(first[0] == second[0]), "top5": len(set(first) & set(second)) / len(first)}
    if isinstance(wanted, np.ndarray | float) or hasattr(wanted, "convert"):  # a PIL image
        sums = Sums()
        sums.add_output(name, wanted, got, choices=False)
        row = sums.row(name)
        return {key: math.nan if value is None else value for key, value in (("snr", row.snr), ("psnr", row.psnr))}
    return {"top1": float(wanted == got)}
