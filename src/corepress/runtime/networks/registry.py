"""The layers that the runtime knows: each is a small function of tensors under the name of its field in the format.

Positional parameters are the layer's inputs in order (`values`: all of them) and, by name, its weights. Keywords are
its other fields; what a file leaves out is 0 there, so a default is what the format takes 0 for. Three more are filled
in for functions that ask: `outputs`, how many the layer has; `rank5`, whether arrays have five dimensions throughout;
`empty`, a tensor of no elements, of the type and in the place where the network runs.

Tensors are floats, truth and indices included. The older layers are told of the last dimensions of
[sequence, batch, channels, height, width]; those before may be missing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from numpy.typing import NDArray
from torch import Tensor

Layer = Callable[..., Any]
F = TypeVar("F", bound=Layer)

LAYERS: dict[str, Layer] = {}
# Of layers whose weights have no quantized form that is known: the shapes of the weights, by their names.
SHAPES: dict[str, Callable[[Any], dict[str, tuple[int, ...]]]] = {}
# Of layers with a weight for each gate: a function that joins them as the layer takes them.
STACKED: dict[str, Callable[[Mapping[str, NDArray[Any]]], dict[str, NDArray[Any]]]] = {}
# Fields that no layer takes, since they only say how large a weight is, or what a file says elsewhere, too.
IMPLIED = frozenset({
    "hasBias", "inputChannels", "outputChannels", "kernelChannels", "kernelSize", "kernelDepth", "kernelHeight",
    "kernelWidth", "inputDim", "vocabSize", "embeddingSize", "channels", "weightMatrixFirstDimension",
    "weightMatrixSecondDimension", "inputVectorSize", "outputVectorSize", "int8DynamicQuantize",
})  # fmt: skip


def layer(function: F) -> F:
    """Register a function as the layer of its name (a trailing underscore is dropped)."""
    name = function.__name__.rstrip("_")
    assert name not in LAYERS, name
    LAYERS[name] = function
    return function


def on_images(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Apply a function of [images, channels, height, width] to the last three dimensions."""
    y = function(x.reshape(-1, *x.shape[-3:]))
    return y.reshape(*x.shape[:-3], *y.shape[1:])


def integers(value: Tensor | Sequence[int]) -> list[int]:
    """Sizes, axes or places, be they computed or fields of the layer."""
    return value.flatten().long().tolist() if isinstance(value, Tensor) else list(value)


def ranked(x: Tensor) -> Tensor:
    """A result that has at least one dimension, as all arrays of a neural network have."""
    return x if x.dim() else x.reshape(1)
