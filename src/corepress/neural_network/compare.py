"""How the predictions of two models differ, where Core ML can run them."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from corepress.errors import ConfigError, CorepressError
from corepress.neural_network.model import Model, is_mlmodel, spec_of

_IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".heic")
Metrics = dict[str, dict[str, float]]


def compare_models(full_precision_model: Any, quantized_model: Any, sample_data: Any) -> Metrics:
    """Print, and return, how far the outputs of the second model are from those of the first.

    `sample_data`: a list of input dictionaries; or a folder of images, for models with one image input.
    For each numeric output: "snr" and "psnr", in dB, the means over the samples; for each label and each dictionary of
    probabilities: "top1" and "top5" (dictionaries only), the parts of the samples on which the models agree, the
    latter being how much of the five likeliest classes they share.

    The models need a method `predict`, as an `MLModel` has; a path, a specification or a `Model` becomes one. Core ML
    runs neural networks on macOS only: elsewhere this raises CorepressError.
    """
    full, quantized = _runnable(full_precision_model), _runnable(quantized_model)
    scores: dict[str, list[dict[str, float]]] = {}
    for sample in _samples(full, sample_data):
        wanted, got = full.predict(sample), quantized.predict(sample)
        for name, value in wanted.items():
            scores.setdefault(name, []).append(_score(value, got[name]))
    if not scores:
        raise ConfigError("sample_data: there is nothing to compare on")
    result = {
        name: {key: float(np.mean([row[key] for row in rows])) for key in rows[0]} for name, rows in scores.items()
    }
    for name, metrics in result.items():
        print(f"{name}: {', '.join(f'{key} {value:.4g}' for key, value in metrics.items())}")
    return result


def _runnable(model: Any) -> Any:
    if hasattr(model, "predict") and not is_mlmodel(model):
        return model
    if sys.platform != "darwin":
        raise CorepressError(
            "neural networks can only be run by Core ML, on macOS; compare the models there, or convert to an ML "
            "program and use corepress.verify"
        )
    if is_mlmodel(model):
        return model
    import coremltools

    if isinstance(model, Model):
        spec = coremltools.proto.Model_pb2.Model()
        spec.ParseFromString(model.spec.SerializeToString())
        return coremltools.models.MLModel(spec)
    return coremltools.models.MLModel(str(model) if isinstance(model, Path) else model)


def _samples(model: Any, sample_data: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(sample_data, (str, Path)):
        return _images(model, Path(sample_data))
    if not isinstance(sample_data, Sequence) or not all(isinstance(sample, Mapping) for sample in sample_data):
        raise ConfigError("sample_data: a list of dictionaries, or the path of a folder of images, is needed")
    return iter(sample_data)


def _images(model: Any, folder: Path) -> Iterator[Mapping[str, Any]]:
    spec = spec_of(model)
    inputs = [] if spec is None else list(spec.description.input)
    if len(inputs) != 1 or inputs[0].type.WhichOneof("Type") != "imageType":
        raise ConfigError(f"{folder}: a folder of images needs a model with one input, an image; give a list instead")
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder")
    from PIL import Image

    name, kind = inputs[0].name, inputs[0].type.imageType
    gray = kind.ColorSpace.Name(kind.colorSpace).startswith("GRAYSCALE")
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in _IMAGES:
            with Image.open(path) as image:
                yield {name: image.convert("L" if gray else "RGB").resize((kind.width, kind.height))}


def _score(wanted: Any, got: Any) -> dict[str, float]:
    if isinstance(wanted, Mapping):
        first, second = (sorted(scores, key=lambda label: -scores[label])[:5] for scores in (wanted, got))
        return {"top1": float(first[0] == second[0]), "top5": len(set(first) & set(second)) / len(first)}
    if isinstance(wanted, (np.ndarray, float)):
        return _noise(np.asarray(wanted, np.float64), np.asarray(got, np.float64))
    return {"top1": float(wanted == got)}


def _noise(wanted: Any, got: Any) -> dict[str, float]:
    noise, signal, peak = np.mean((wanted - got) ** 2), np.mean(wanted**2), np.max(np.abs(wanted)) ** 2
    if noise == 0:
        return {"snr": math.inf, "psnr": math.inf}
    with np.errstate(divide="ignore"):
        return {"snr": float(10 * np.log10(signal / noise)), "psnr": float(10 * np.log10(peak / noise))}
