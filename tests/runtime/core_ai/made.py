"""Core AI models made of PyTorch modules by Apple's converter, and what its runtime and ours answer."""

from __future__ import annotations

import contextlib
import inspect
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from corepress import runtime


def converted(module: nn.Module, inputs: Sequence[Tensor], path: Path, **export: Any) -> Path:
    """Write a module as an `.aimodel`; its inputs are x0, x1 ..., its outputs y0, y1 ..."""
    import coreai_torch

    program = torch.export.export(module.eval(), tuple(inputs), strict=False, **export)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        program = program.run_decompositions(coreai_torch.get_decomp_table())
        converter = coreai_torch.TorchConverter()
        converter.add_exported_program(
            program,
            input_names=[f"x{number}" for number in range(len(inputs))],
            output_names=[f"y{number}" for number in range(len(program.graph_signature.user_outputs))],
        )
        converter.to_coreai().save_asset(path)
    return path


class _Known(Exception):
    """Ends a try."""


def built(path: Path, build: Callable[..., Any], *arrays: NDArray[Any]) -> Path:
    """Write an `.aimodel` that `build` makes of values like these arrays by Apple's authoring functions."""
    import coreai.authoring as author

    def kind(array: NDArray[Any], name: str) -> Any:
        return author.TensorType(array.shape, getattr(author, array.dtype.name.replace("bool", "bool_")), name=name)

    given = {f"x{i}": Annotated[author.Value, kind(array, f"x{i}")] for i, array in enumerate(arrays)}
    parameters = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in given]

    def module(results: Any, body: Callable[..., Any]) -> Any:
        def main(*values: Any) -> Any:
            return body(*values)

        main.__annotations__ = {**given, "return": results}
        main.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        found = author.Module.create()
        with found:
            author.graph(main)
        return found

    types: list[Any] = []

    def probe(*values: Any) -> Any:
        found = build(*values)
        types.extend(value.type for value in (found if isinstance(found, (list, tuple)) else [found]))
        raise _Known

    # The types of what comes out must be declared beforehand: they are those of a first try.
    with contextlib.suppress(_Known):
        module(next(iter(given.values())), probe)
    named = [Annotated[author.Value, one.with_name(f"y{i}")] for i, one in enumerate(types)]
    results = named[0] if len(named) == 1 else tuple[tuple(named)]
    author.AIProgram(module(results, lambda *v: _one(build(*v)))).save_asset(path)
    return path


def _one(found: Any) -> Any:
    if not isinstance(found, list):
        return found
    return tuple(found) if len(found) > 1 else found[0]


class Calls(nn.Module):
    """A function of tensors as a module."""

    def __init__(self, function: Any):
        super().__init__()
        self.function = function

    def forward(self, *tensors: Tensor) -> Any:
        return self.function(*tensors)


def both(path: Path, given: dict[str, Any], ours: Any = None) -> list[tuple[Any, Any]]:
    """Of each output what Apple's runtime gives, and what ours does, in the types of the program."""
    theirs = runtime.load(path)
    ours = runtime.load(path, weights="streamed") if ours is None else ours
    exact, found = (model.predict(given, model.make_state()) for model in (theirs, ours))
    assert list(exact) == list(found)
    return [(np.asarray(exact[name]), np.asarray(found[name])) for name in exact]


def same(path: Path, given: dict[str, Any], rtol: float = 1e-5) -> None:
    """Assert that both runtimes agree: types, shapes, and numbers, as far apart as `rtol` of the largest."""
    for exact, found in both(path, given):
        assert (exact.dtype, exact.shape) == (found.dtype, found.shape)
        if exact.dtype.kind != "f":
            assert np.array_equal(exact, found)
            continue
        scale = np.abs(exact[np.isfinite(exact)]).max(initial=0) if exact.size else 0
        np.testing.assert_allclose(
            found.astype("f8"), exact.astype("f8"), rtol=rtol, atol=rtol * max(scale, 1e-6), equal_nan=True
        )
