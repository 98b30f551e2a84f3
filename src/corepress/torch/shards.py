"""Checkpoints that are larger than memory: compressed one safetensors file at a time.

The model itself may be on the meta device: only its modules' classes and names are needed.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from corepress import engine
from corepress.engine import Skip
from corepress.errors import ConfigError, FormatError, importing
from corepress.formats.atomic import Kind, replacing
from corepress.torch.metadata import PREFIX, VERSION_BUFFER, describe
from corepress.torch.parameters import Parameter, parameters
from corepress.torch.progress import track
from corepress.torch.report import Report
from corepress.torch.rewrite import Action, Choose, chosen, skipped, write

log = logging.getLogger(__name__)

_INDEX = "model.safetensors.index.json"
_CHECKPOINT = Kind("a new folder", "", True, lambda path: False)


def compress_shards(
    model: nn.Module,
    choose: Choose,
    source: Path,
    destination: Path,
    *,
    workers: int | None = None,
    description: str = "Compressing",
) -> Report:
    """Apply to every supported weight in the `.safetensors` files of a folder the action that `choose` gives for it.

    `destination`: a folder that does not exist yet, and appears whole or not at all; other files of the source, such as
    a configuration, are copied, with their modes; of folders all but hidden ones. In memory are the tensors of one file
    at a time. `model` stays as it is. Raises FormatError, before any work, if a file that the index names is missing,
    or a tensor is in two files.
    """
    files = _files(source)
    if os.path.lexists(destination):
        raise ConfigError(f"{destination} exists already: name a folder that does not")
    weights = {parameter.key: parameter for parameter in parameters(model)}
    report = Report()
    places: dict[str, str] = {}
    with replacing(destination, _CHECKPOINT, sources=[source]) as folder:
        for file in track(files, description):
            tensors = _compress_file(file, weights, choose, report, workers)
            if not places:
                tensors[VERSION_BUFFER] = torch.tensor(1)
            name = file.relative_to(source)
            places |= dict.fromkeys(tensors, name.as_posix())
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            _library().save_file(tensors, folder / name, metadata={"format": "pt"})
        _finish(source, folder, places, files)
    return report


def load_compressed(model: nn.Module, folder: Path) -> nn.Module:
    """Give a model the values of a compressed checkpoint, and the buffers that say how it is compressed.

    Args:
        model: Of the class that was compressed; it may be on the meta device.
        folder: With `.safetensors` files: those of `compress_checkpoint`, or a `state_dict` of a compressed model.

    Returns:
        The model itself.

    Raises:
        FormatError: If the files don't fit the model, or are missing or damaged.
        MissingDependencyError: Without safetensors.

    Examples:
        >>> from pathlib import Path
        >>> from safetensors.torch import save_file
        >>> from corepress.torch.palettization import PostTrainingPalettizer
        >>> from corepress.torch.shards import load_compressed
        >>> Path("compressed").mkdir()
        >>> small = PostTrainingPalettizer(torch.nn.Linear(64, 64)).compress()
        >>> save_file(small.state_dict(), "compressed/model.safetensors")
        >>> len(load_compressed(torch.nn.Linear(64, 64), Path("compressed")).weight.unique())
        16
    """
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
        what = f"has {found.unexpected_keys[0]!r}, which the model does not have" if found.unexpected_keys else (
            f"lacks {min(held)!r}"
        )  # fmt: skip
        raise FormatError(f"{folder} does not fit the model: it {what}")
    return model


def _library() -> Any:
    with importing("a checkpoint in safetensors files"):
        import safetensors.torch
    return safetensors.torch


def _files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint, after a look at their headers: all are there, each tensor is in one."""
    index = _index(folder)
    mapped = _weight_map(index) if index else {}
    files = sorted(folder.glob("*.safetensors"))
    if index is not None:
        named = {folder / name for name in mapped.values()}
        for file in sorted(named - {file for file in named if file.is_file()}):
            raise FormatError(f"{file}: it is missing, though {index.name} names it: was the download complete?")
        for file in sorted(set(files) - named):
            log.warning("%s: left out, since %s does not name it", file, index.name)
        files = sorted(named)
    if not files:
        raise FormatError(f"{folder}: there are no .safetensors files")
    places: dict[str, Path] = {}
    for file in files:
        for key in _keys(file):
            if key in places:
                raise FormatError(
                    f"{folder}: the tensor {key!r} is in {places[key].name} and in {file.name}: move away the files "
                    "that are not of this checkpoint"
                )
            places[key] = file
    for key, name in mapped.items():
        if places.get(key) != folder / name:
            raise FormatError(f"{folder / name}: the tensor {key!r} is not in it, though the index says so")
    return files


def _index(folder: Path) -> Path | None:
    found = sorted(folder.glob("*.safetensors.index.json"))
    if len(found) > 1:
        raise FormatError(f"{folder}: it holds several checkpoints: {', '.join(path.name for path in found)}")
    return found[0] if found else None


def _weight_map(index: Path) -> dict[str, str]:
    """The files of the tensors, by their names."""
    try:
        found = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        paths = [Path(name) for name in found.values()]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise FormatError(f"{index}: it is not an index of safetensors files: {type(error).__name__}") from error
    if any(path.is_absolute() or ".." in path.parts for path in paths):
        raise FormatError(f"{index}: it names files outside of its folder")
    return dict(found)


def _keys(file: Path) -> list[str]:
    library = _library()
    try:
        with library.safe_open(file, framework="pt") as opened:
            return list(opened.keys())
    except Exception as error:  # the library has errors of its own, derived from nothing else
        raise FormatError(f"{file}: not a safetensors file: {error}") from error


def _compress_file(
    file: Path,
    weights: dict[str, Parameter],
    choose: Choose,
    report: Report,
    workers: int | None,
) -> dict[str, Tensor]:
    """All that the new file holds."""
    try:
        tensors: dict[str, Tensor] = _library().load_file(file)
    except Exception as error:  # the library has errors of its own, derived from nothing else
        raise FormatError(f"{file}: not a safetensors file: {error}") from error
    jobs = [
        _Job(weights[key], action, tensors[key])
        for key in tensors.keys() & weights.keys()
        if (action := chosen(weights[key], choose, report)) is not None
    ]
    engine.run(jobs, _compress, _File(tensors, report), name=lambda job: job.parameter.key, workers=workers)
    return tensors


class _Job(NamedTuple):
    parameter: Parameter
    action: Action
    value: Tensor


class _Compressed(NamedTuple):
    """The tensors that take the place of one, with its row in the report."""

    tensors: dict[str, Tensor]
    columns: dict[str, Any]


class _File:
    """The store of a file of a checkpoint: its tensors."""

    def __init__(self, tensors: dict[str, Tensor], report: Report):
        self.tensors, self.report = tensors, report

    def put(self, item: _Job, result: _Compressed) -> None:
        self.report[item.parameter.key] = result.columns
        self.tensors.update(result.tensors)

    def leave(self, item: _Job, reason: Skip) -> None:
        skipped(self.report, item.parameter, str(reason))


def _compress(job: _Job) -> _Compressed:
    # A module of its own: that of the model may have no values.
    holder, parameter = nn.Module(), job.parameter
    holder.register_parameter(parameter.name, nn.Parameter(job.value, requires_grad=False))
    own = dataclasses.replace(parameter, module=holder)
    written = write(own, job.action)
    describe(own, written.form)
    prefix = f"{parameter.module_name}." if parameter.module_name else ""
    tensors = {prefix + name: tensor.data for name, tensor in holder.state_dict().items()}
    return _Compressed(tensors, written.columns)


def _finish(source: Path, folder: Path, places: dict[str, str], files: list[Path]) -> None:
    """The index of several files, and copies of all others, but for hidden folders, such as those of git."""
    index = _index(source)
    for other in sorted(source.iterdir()):
        if other.is_dir() and not other.name.startswith("."):
            shutil.copytree(other, folder / other.name, dirs_exist_ok=True, ignore=_all_of(files))
            if aside := sorted(set(other.rglob("*.safetensors")) - set(files)):
                log.warning("%s: copied as it is: only files of the folder itself are compressed", aside[0])
        elif other.is_file() and other.suffix != ".safetensors" and other != index:
            shutil.copy2(other, folder / other.name)
    for file in files:
        shutil.copymode(file, folder / file.relative_to(source))
    if index is not None or len(files) > 1:
        size = sum((folder / file.relative_to(source)).stat().st_size for file in files)
        content = {"metadata": {"total_size": size}, "weight_map": dict(sorted(places.items()))}
        target = folder / (_INDEX if index is None else index.name)
        target.write_text(json.dumps(content, indent=2), encoding="utf-8")
        if index is not None:
            shutil.copymode(index, target)


def _all_of(files: list[Path]) -> Callable[[str, list[str]], list[str]]:
    return lambda folder, names: [name for name in names if Path(folder) / name in files]
