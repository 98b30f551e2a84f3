"""Neural networks of the older model type, made with coremltools' builder, and run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from corepress.formats.schema import Model as ModelProto
from corepress.neural_network import Model
from corepress.runtime import load
from corepress.runtime.program import Program
from tests.lazy import lazy

datatypes = lazy("coremltools.models.datatypes")
NeuralNetworkBuilder = lazy("coremltools.models.neural_network", "NeuralNetworkBuilder")

Build = Callable[[NeuralNetworkBuilder], Any]


def network(build: Build, *shapes: tuple[int, ...], outputs: int = 1, rank5: bool = False, **options: Any) -> Any:
    """The specification of a network of inputs "x0", "x1"... and outputs "y0"..., whose layers `build` adds."""
    builder = NeuralNetworkBuilder(
        [(f"x{i}", datatypes.Array(*shape)) for i, shape in enumerate(shapes)],
        [(f"y{i}", None) for i in range(outputs)],
        disable_rank5_shape_mapping=not rank5,
        use_float_arraytype=True,
        **options,
    )
    build(builder)
    return builder.spec


def program(spec: Any, **options: Any) -> Program:
    return load(Model(None, ModelProto.FromString(spec.SerializeToString())), **options)


def run(build: Build, *inputs: Any, outputs: int = 1, rank5: bool = False) -> Any:
    """What a network of these layers gives for these inputs: an array, or a list of them."""
    arrays = [np.asarray(x, np.float32) for x in inputs]
    spec = network(build, *(x.shape for x in arrays), outputs=outputs, rank5=rank5)
    found = program(spec).predict({f"x{i}": x for i, x in enumerate(arrays)})
    results = [found[f"y{i}"] for i in range(outputs)]
    return results[0] if outputs == 1 else results
