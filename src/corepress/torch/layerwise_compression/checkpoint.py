"""What each stage became, on disk, so that a run that was stopped goes on where it was."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from corepress.errors import CorepressError
from corepress.torch.report import Report


class Checkpoint:
    """A folder with one file for each finished stage of one run: of this model, configuration and number of samples."""

    def __init__(self, folder: str | Path, model: nn.Module, config: Any, samples: int):
        self._folder = Path(folder)
        self._model = model
        self._run = _fingerprint(model, config, samples)
        self._folder.mkdir(parents=True, exist_ok=True)

    def _path(self, stage: int) -> Path:
        return self._folder / f"stage-{stage:04}.pt"

    def save(self, stage: int, keys: list[str], report: Report) -> None:
        """The tensors of these keys of the model's `state_dict`, and the report of the stage; whole or not at all."""
        state = self._model.state_dict(keep_vars=False)
        content = {
            "run": self._run,
            "state": {key: state[key].cpu().contiguous() for key in keys},
            "rows": dict(report),
            "skipped": dict(report.skipped),
        }
        partial = self._path(stage).with_suffix(f".{os.getpid()}.partial")
        try:
            torch.save(content, partial)
            partial.replace(self._path(stage))
        finally:
            partial.unlink(missing_ok=True)

    def restore(self, stage: int) -> Report | None:
        """Give the model what a finished stage became; its report, or None if there is none yet."""
        path = self._path(stage)
        if not path.exists():
            return None
        try:
            content = torch.load(path, weights_only=True)
            run, state, rows, skipped = (content[key] for key in ("run", "state", "rows", "skipped"))
        except Exception as error:
            raise CorepressError(f"{path}: it is damaged ({error}); remove it to compress its stage again") from error
        if run != self._run:
            raise CorepressError(
                f"{path}: it is of another model, configuration or number of samples; use a new folder"
            )
        for key, tensor in state.items():
            module_name, _, name = key.rpartition(".")
            _put(self._model.get_submodule(module_name), name, tensor)
        report = Report(rows)
        report.skipped = skipped
        return report


def _put(module: nn.Module, name: str, tensor: torch.Tensor) -> None:
    if name in module._parameters:
        getattr(module, name).data.copy_(tensor)
    else:
        module.register_buffer(name, tensor)


def _fingerprint(model: nn.Module, config: Any, samples: int) -> str:
    digest = hashlib.sha256(f"{samples} {config!r}".encode())
    for name, tensor in model.state_dict().items():
        total = float(tensor.double().sum()) if tensor.numel() else 0.0
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} {total!r}".encode())
    return digest.hexdigest()
