"""Core AI models (`.aimodel`), run by Apple's own runtime for CPUs, which is a part of coreai-core."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from corepress.errors import ConfigError, FormatError, UnsupportedError, first_line, importing
from corepress.formats.coreai.library import check
from corepress.formats.coreai.model import AssetModel
from corepress.formats.features import Feature, Interface
from corepress.runtime.runnable import Observe, State, given_state, in_steps
from corepress.runtime.values import to_tensors
from corepress.sequences import Sample


class Asset:
    """One function of a Core AI model; it is called as other models of `corepress.runtime` are.

    Args:
        source: The `.aimodel`, or one as `corepress.load` gives it, with its changes.
        function: Of a model with several.

    Raises:
        FormatError: For what is no Core AI model, or a damaged one.
        MissingDependencyError: Without coreai-core.
    """

    def __init__(self, source: str | Path | AssetModel, function: str | None = None):
        with importing("running a Core AI model"):
            from coreai.authoring import AIModelAsset
            from coreai.runtime import NDArray
        self._array = NDArray
        self.path = path = Path(source.path if isinstance(source, AssetModel) else source)
        lies = path
        if isinstance(source, AssetModel) and not source.is_saved:
            self._folder = tempfile.TemporaryDirectory(prefix="corepress-")
            lies = source.copy().save(Path(self._folder.name) / path.name).path
        else:
            check(path)
        # The library is asynchronous; a thread of its own works where a loop is running already, as in notebooks.
        self._loop, self._thread = asyncio.new_event_loop(), ThreadPoolExecutor(1)
        try:
            self._context = AIModelAsset.load(lies).executable()
            model = self._wait(self._context.__aenter__())
        except Exception as error:  # of all kinds
            raise FormatError(f"{path}: Core AI can't load it: {first_line(error)}") from error
        names = list(model.function_names)
        if function is not None and function not in names:
            raise ConfigError(f"{path}: there is no function {function!r}; it has {', '.join(sorted(names))}")
        self.function = function or ("main" if "main" in names else names[0])
        self._function = model.load_function(self.function)
        self.interface = _interface(self._function.desc)

    def make_state(self) -> State:
        """The states, all zero, to be passed to every `predict` of one sequence."""
        return {state.name: torch.from_numpy(np.zeros(state.shape, state.dtype)) for state in self.interface.states}

    def predict(
        self, inputs: Mapping[str, Any], state: State | None = None, observe: Observe | None = None
    ) -> dict[str, Any]:
        """Run the function on named inputs; see `Program.predict`. Values on the way can't be observed."""
        if observe is not None:
            raise UnsupportedError(f"{self.path}: values on the way of a Core AI model can't be observed")
        states = given_state(self.interface, state)
        tensors = to_tensors(self.interface.inputs, inputs)
        given = {name: self._array(np.ascontiguousarray(tensor.numpy())) for name, tensor in tensors.items()}
        kept = {name: self._array(np.ascontiguousarray(tensor.numpy())) for name, tensor in states.items()}
        try:
            found = self._wait(self._function(given, kept or None))
        except Exception as error:  # of all kinds
            raise FormatError(f"{self.path}: Core AI can't run it: {first_line(error)}") from error
        states.update({name: torch.from_numpy(np.array(value.numpy())) for name, value in kept.items()})
        return {name: np.array(found[name].numpy()) for name in self._function.desc.output_names}

    def run_sequence(
        self, sample: Sample, state: State | None = None, observe: Observe | None = None
    ) -> list[dict[str, Any]]:
        """Run the steps of a sample one after the other; see `Program.run_sequence`."""
        return list(in_steps(self, sample, state, observe))

    def kinds(self) -> dict[str, str]:
        """No value on the way has a name that is known."""
        return {}

    def _wait(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self._thread.submit(self._loop.run_until_complete, work).result()


def _interface(description: Any) -> Interface:
    def features(names: list[str], of: Any) -> tuple[Feature, ...]:
        return tuple(
            Feature(name, "array", tuple(of(name).shape), dtype=np.dtype(str(of(name).dtype))) for name in names
        )

    return Interface(
        features(description.input_names, description.input_descriptor),
        features(description.output_names, description.output_descriptor),
        features(description.state_names, description.state_descriptor),
    )
