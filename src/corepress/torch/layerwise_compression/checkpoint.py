"""What each stage became, on disk, so that a run that was stopped goes on where it was."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from corepress import version
from corepress.errors import ConfigError, FormatError
from corepress.torch.layerwise_compression import fingerprint
from corepress.torch.report import Report

FORMAT = 2  # of the files below

Run = dict[str, str]


def run_of(model: nn.Module, config: Any, layers: Any, batches: Sequence[Any]) -> Run:
    """What the result of a run depends on, by its name: a digest of each.

    `model`: before anything is compressed. `layers`: the names that the configuration's `layers` stand for.
    `batches`: those that are used, in their order.
    """
    return {
        "the weights of the model": fingerprint.of_weights(model),
        "the modules of the model": fingerprint.of_text(model),
        "the calibration data or their order": fingerprint.of_values(batches),
        "the configuration": fingerprint.of_text((config, layers)),
        "the version of corepress": fingerprint.of_text(version.__version__),
        "the version of PyTorch": fingerprint.of_text(torch.__version__),
    }


class Checkpoint:
    """A folder with one file for each finished stage of one run (`run_of`)."""

    def __init__(self, folder: str | Path, model: nn.Module, run: Run):
        self._folder = Path(folder)
        self._model = model
        self._run = run
        self._folder.mkdir(parents=True, exist_ok=True)

    def _path(self, stage: int) -> Path:
        return self._folder / f"stage-{stage:04}.pt"

    def save(self, stage: int, keys: list[str], report: Report) -> None:
        """The tensors of these keys of the model's `state_dict`, and the report of the stage; whole or not at all."""
        state = self._model.state_dict(keep_vars=False)
        content = {
            "format": FORMAT,
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
            written = content.get("format", 1)
            run, state, rows, skipped = (content[key] for key in ("run", "state", "rows", "skipped"))
        except Exception as error:
            raise FormatError(f"{path}: it is damaged ({error}); remove it to compress its stage again") from error
        self._check(path, run if written == FORMAT else None)
        for key, tensor in state.items():
            module_name, _, name = key.rpartition(".")
            _put(self._model.get_submodule(module_name), name, tensor)
        report = Report(rows)
        report.skipped = skipped
        return report

    def _check(self, path: Path, run: Run | None) -> None:
        """That the file is of this run; a CorepressError says what differs."""
        differing = [name for name, digest in self._run.items() if run is None or run.get(name) != digest]
        if run is None:
            differing = ["the version of corepress"]
        if differing:
            what = differing[0] if len(differing) == 1 else f"{', '.join(differing[:-1])} and {differing[-1]}"
            raise ConfigError(
                f"{path}: it was written by another run, from which this one differs in {what}: use a new folder, or "
                "remove this one to begin anew"
            )


def _put(module: nn.Module, name: str, tensor: torch.Tensor) -> None:
    if name in module._parameters:
        getattr(module, name).data.copy_(tensor)
    else:
        module.register_buffer(name, tensor)
