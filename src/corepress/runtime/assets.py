"""Core AI models (`.aimodel`), run by Apple's own runtime for CPUs, which is a part of coreai-core."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import tempfile
import weakref
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from corepress.errors import ConfigError, FormatError, UnsupportedError, first_line, importing
from corepress.formats.coreai.kept import Kept, from_metadata, own_metadata
from corepress.formats.coreai.library import check
from corepress.formats.coreai.model import AssetModel
from corepress.formats.coreai.model import load as read_model
from corepress.formats.features import Feature, Interface
from corepress.runtime.ops.classify import classify
from corepress.runtime.runnable import Observe, State, given_state, in_steps
from corepress.runtime.values import from_value, to_tensors
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
        self._source = source
        self.path = path = Path(source.path if isinstance(source, AssetModel) else source)
        lies = path
        if isinstance(source, AssetModel) and not source.is_saved:
            self._folder = tempfile.TemporaryDirectory(prefix="corepress-")
            lies = source.copy().save(Path(self._folder.name) / path.name).path
        else:
            check(path)
        # The library is asynchronous; a thread of its own works where a loop is running already, as in notebooks.
        self._loop, self._thread = asyncio.new_event_loop(), ThreadPoolExecutor(1)
        self._closing = weakref.finalize(self, _close, self._thread, self._loop, None)
        try:
            asset = AIModelAsset.load(lies)
            metadata = own_metadata(asset.metadata)
            context = asset.executable()
            model = self._wait(context.__aenter__())
            self._closing.detach()
            self._closing = weakref.finalize(self, _close, self._thread, self._loop, context)
        except Exception as error:  # of all kinds
            raise FormatError(f"{path}: Core AI can't load it: {first_line(error)}") from error
        self.function = _chosen(path, list(model.function_names), function)
        with _without_its_log():
            self._function = model.load_function(self.function)
        self._described = _interface(self._function.desc)
        self._kept = from_metadata(metadata, self.function)
        self.interface = self._described if self._kept is None else _as_kept(self._described, self._kept)

    def close(self) -> None:
        """Let go of the model, its thread and its files; what nobody holds any more closes by itself."""
        self._closing()

    def opened(self) -> AssetModel:
        """The model as it was given, or read again."""
        return self._source if isinstance(self._source, AssetModel) else read_model(self.path)

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
        types = {feature.name: feature.dtype for feature in self._described.inputs}
        given = {
            name: self._array(np.ascontiguousarray(tensor.numpy(), types[name])) for name, tensor in tensors.items()
        }
        kept = {name: self._array(np.ascontiguousarray(tensor.numpy())) for name, tensor in states.items()}
        try:
            found = self._wait(self._function(given, kept or None))
        except FormatError:
            raise
        except Exception as error:  # of all kinds
            raise FormatError(f"{self.path}: Core AI can't run it: {first_line(error)}") from error
        states.update({name: torch.from_numpy(np.array(value.numpy())) for name, value in kept.items()})
        return self._answers({name: np.array(found[name].numpy()) for name in self._function.desc.output_names})

    def _answers(self, found: dict[str, Any]) -> dict[str, Any]:
        """The outputs as the package that the model was made of gives them: images, and the label of a classifier."""
        if self._kept is None:
            return found
        described = self._kept.interface
        if described.label:
            scores = torch.from_numpy(found[described.probabilities])
            found[described.label], found[described.probabilities] = classify(scores, self._kept.classes)
        return {
            feature.name: from_value(feature, torch.from_numpy(found[feature.name]))
            if feature.kind in ("image", "number") else found[feature.name]
            for feature in described.outputs
        }  # fmt: skip

    def run_sequence(
        self, sample: Sample, state: State | None = None, observe: Observe | None = None
    ) -> list[dict[str, Any]]:
        """Run the steps of a sample one after the other; see `Program.run_sequence`."""
        return list(in_steps(self, sample, state, observe))

    def kinds(self) -> dict[str, str]:
        """No value on the way has a name that is known."""
        return {}

    def _wait(self, work: Coroutine[Any, Any, Any]) -> Any:
        if not self._closing.alive:
            work.close()
            raise FormatError(f"{self.path}: it was closed; load it again")
        return self._thread.submit(self._loop.run_until_complete, work).result()


@contextlib.contextmanager
def _without_its_log() -> Iterator[None]:
    """The library says on the standard error stream of the process that it loads a function."""
    try:
        own = os.dup(2)
    except OSError:  # the process has none
        yield
        return
    sys.stderr.flush()
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(own, 2)
        os.close(own)


def _close(thread: ThreadPoolExecutor, loop: asyncio.AbstractEventLoop, context: Any) -> None:
    # At the end of the process the thread takes no more work, and all of it ends anyway.
    with contextlib.suppress(RuntimeError):
        if context is not None:
            thread.submit(lambda: loop.run_until_complete(context.__aexit__(None, None, None))).result()
        thread.submit(lambda: loop.run_until_complete(loop.shutdown_default_executor())).result()
        thread.submit(loop.close).result()
    thread.shutdown(wait=False)


def asset_interface(source: str | Path | AssetModel, function: str | None = None) -> Interface:
    """The inputs, outputs and states of a function, without loading it to be run; errors are those of `Asset`."""
    with importing("reading a Core AI model"):
        from coreai.authoring import AIModelAsset

    path = Path(source.path if isinstance(source, AssetModel) else source)
    check(path)
    asset = AIModelAsset.load(path)
    summary: Any = asset.summary(include_statistics=False)
    chosen = _chosen(path, list(summary.function_names), function)
    inputs, outputs, states = (
        tuple(_worded(name, text) for name, text in of(chosen))
        for of in (summary.function_inputs, summary.function_outputs, summary.function_states)
    )
    kept = from_metadata(own_metadata(asset.metadata), chosen)
    described = Interface(inputs, outputs, states)
    return described if kept is None else _as_kept(described, kept)


def interface_within(model: AssetModel, function: str) -> Interface:
    """What a function takes and gives where its program is run by corepress: inputs as its package had them, such as
    images, in the types of the program, and outputs as the program gives them."""
    actual, kept = model.interface(function), model.kept(function)
    if kept is None:
        return actual
    types = {feature.name: feature.dtype for feature in actual.inputs}
    inputs = _as_kept(actual, kept).inputs
    return replace(actual, inputs=tuple(replace(feature, dtype=types[feature.name]) for feature in inputs))


def _chosen(path: Path, names: list[str], function: str | None) -> str:
    if function is not None and function not in names:
        raise ConfigError(f"{path}: there is no function {function!r}; it has {', '.join(sorted(names))}")
    return function or ("main" if "main" in names else names[0])


def _worded(name: str, text: str) -> Feature:
    """An array as the library's summary describes it, such as "NDArray (Float32, 1 × 3 × ?)"."""
    dtype, _, sizes = text.partition("(")[2].rstrip(")").partition(", ")
    numbers = [None if size == "?" else int(size) for size in sizes.split(" × ") if size]
    return _array(name, numbers, np.dtype(dtype.lower()))


def _interface(description: Any) -> Interface:
    def features(names: list[str], of: Any) -> tuple[Feature, ...]:
        return tuple(_array(name, list(of(name).shape), np.dtype(str(of(name).dtype))) for name in names)

    return Interface(
        features(description.input_names, description.input_descriptor),
        features(description.output_names, description.output_descriptor),
        features(description.state_names, description.state_descriptor),
    )


def _array(name: str, sizes: Sequence[int | None], dtype: Any) -> Feature:
    """An array; a size of -1, or of nothing, is any."""
    known = [None if size is None or size < 0 else size for size in sizes]
    shape = tuple(1 if size is None else size for size in known)
    ranges = tuple((1, -1) if size is None else (size, size) for size in known)
    return Feature(name, "array", shape, dtype, ranges=ranges if None in known else ())


def _as_kept(actual: Interface, kept: Kept) -> Interface:
    """The interface of a function as its package had it: images, defaults, and shapes, where they stayed flexible."""
    own = {feature.name: feature for feature in actual.inputs}
    inputs = tuple(_flexible(own[feature.name], feature) for feature in kept.interface.inputs if feature.name in own)
    return replace(kept.interface, inputs=inputs, states=actual.states)


def _flexible(actual: Feature, kept: Feature) -> Feature:
    return kept if actual.ranges or not (kept.ranges or kept.shapes) else replace(kept, ranges=(), shapes=())
