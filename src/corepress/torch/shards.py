"""Checkpoints that are larger than memory: compressed one safetensors file at a time.

The model itself may be on the meta device: only its modules' classes and names are needed.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from corepress.errors import ConfigError, CorepressError, FormatError
from corepress.mlprogram.atomic import Kind, replacing
from corepress.torch.engine import Action, attempt, skipped
from corepress.torch.metadata import PREFIX, VERSION_BUFFER, describe
from corepress.torch.parameters import Parameter, parameters
from corepress.torch.progress import track
from corepress.torch.report import Report

_INDEX = "model.safetensors.index.json"
_CHECKPOINT = Kind("a new folder", "", True, lambda path: False)


def compress_shards(
    model: nn.Module,
    choose: Callable[[Parameter], Action | None],
    source: Path,
    destination: Path,
    *,
    workers: int | None = None,
    description: str = "Compressing",
) -> Report:
    """Apply to every supported weight in the `.safetensors` files of a folder the action that `choose` gives for it.

    `destination`: a folder that does not exist yet, and appears whole or not at all; other files of the source, such as
    a configuration, are copied. In memory are the tensors of one file at a time. `model` stays as it is.
    """
    files = _files(source)
    if os.path.lexists(destination):
        raise ConfigError(f"{destination} exists already: name a folder that does not")
    weights = {parameter.key: parameter for parameter in parameters(model)}
    report = Report()
    places: dict[str, str] = {}
    with replacing(destination, _CHECKPOINT) as folder:
        for file in track(files, description):
            tensors = _compress_file(file, weights, choose, report, workers)
            if not places:
                tensors[VERSION_BUFFER] = torch.tensor(1)
            places |= dict.fromkeys(tensors, file.name)
            _library().save_file(tensors, folder / file.name, metadata={"format": "pt"})
        _finish(source, folder, places, len(files))
    return report


def load_compressed(model: nn.Module, folder: Path) -> nn.Module:
    """Give a model the values of a compressed checkpoint, and the buffers that say how it is compressed."""
    state: dict[str, Tensor] = {}
    for file in _files(folder):
        state |= _library().load_file(file)
    for key, tensor in state.items():
        if key.rpartition(".")[2].startswith(PREFIX):
            owner, _, name = key.rpartition(".")
            model.get_submodule(owner).register_buffer(name, tensor)
    try:
        found = model.load_state_dict(state, strict=False, assign=True)
    except RuntimeError as error:
        raise FormatError(f"{folder} does not fit the model: {error}") from error
    held = {name for name, tensor in model.state_dict().items() if tensor.is_meta}
    if found.unexpected_keys or held:
        what = f"has {found.unexpected_keys[0]!r}, which the model has not" if found.unexpected_keys else (
            f"lacks {min(held)!r}"
        )  # fmt: skip
        raise FormatError(f"{folder} does not fit the model: it {what}")
    return model


def _library() -> Any:
    try:
        import safetensors.torch
    except ImportError as error:
        raise CorepressError("checkpoints need the package safetensors: pip install safetensors") from error
    return safetensors.torch


def _files(folder: Path) -> list[Path]:
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise FormatError(f"{folder}: there are no .safetensors files")
    return files


def _compress_file(
    file: Path,
    weights: dict[str, Parameter],
    choose: Callable[[Parameter], Action | None],
    report: Report,
    workers: int | None,
) -> dict[str, Tensor]:
    """All that the new file holds."""
    try:
        tensors: dict[str, Tensor] = _library().load_file(file)
    except Exception as error:  # the library has errors of its own, derived from nothing else
        raise FormatError(f"{file}: not a safetensors file: {error}") from error
    jobs: list[tuple[Parameter, Action, Tensor]] = []
    for key in tensors.keys() & weights.keys():
        try:
            action = choose(weights[key])
        except CorepressError as reason:
            skipped(report, weights[key], str(reason))
            continue
        if action is not None:
            jobs.append((weights[key], action, tensors[key]))
    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        for (parameter, _, _), result in zip(jobs, pool.map(lambda job: _compress(*job), jobs), strict=True):
            if isinstance(result, CorepressError):
                skipped(report, parameter, str(result))
                continue
            buffers, report[parameter.key] = result
            tensors |= buffers
    return tensors


def _compress(
    parameter: Parameter, action: Action, value: Tensor
) -> tuple[dict[str, Tensor], dict[str, Any]] | CorepressError:
    """The tensors that take the place of one, with its row in the report; or the reason to leave it alone."""
    # A module of its own: that of the model may have no values.
    holder = nn.Module()
    holder.register_parameter(parameter.name, nn.Parameter(value, requires_grad=False))
    own = Parameter(holder, "", parameter.name, parameter.output_axis, holder, "")
    result = attempt(own, action)
    if isinstance(result, CorepressError):
        return result
    form, columns = result
    describe(own, form)
    prefix = f"{parameter.module_name}." if parameter.module_name else ""
    return {prefix + name: tensor.data for name, tensor in holder.state_dict().items()}, columns


def _finish(source: Path, folder: Path, places: dict[str, str], files: int) -> None:
    """The index of several files, and copies of all others."""
    for other in source.iterdir():
        if other.is_file() and other.suffix != ".safetensors" and other.name != _INDEX:
            shutil.copy2(other, folder / other.name)
    if files > 1:
        size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
        index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(places.items()))}
        (folder / _INDEX).write_text(json.dumps(index, indent=2), encoding="utf-8")
