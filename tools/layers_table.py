"""Writes docs/layers.md from the layers of neural networks that the runtime knows."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import corepress.runtime.networks.layers  # noqa: F401 - fills LAYERS
from corepress.formats.neural_network.layers import weight_names
from corepress.formats.schema import Layer
from corepress.runtime.networks.control import CONTROL
from corepress.runtime.networks.registry import LAYERS

PAGE = Path(__file__).parent.parent / "docs/layers.md"
INTRODUCTION = """# The layers of neural networks

Written by `make docs`. These are the layers of the model type of iOS 15 and older (`neuralnetwork`), under
the names of their fields in the format. Only layers that an output depends on are looked at and run, so that what is
left over from training, such as the softmax of a loss, stops no model. "Weights" are those that
`corepress.neural_network.quantization_utils`, `corepress palettize` and `corepress quantize` can compress.

## Custom layers

A `custom` layer is a class of an app, of which the file holds the name, the parameters and the weights only. Give the
runtime a function for it:

```python
import torch
import corepress


def scaled_swish(x, parameters, weights):
    return weights[0].view(-1, 1, 1) * x * torch.sigmoid(parameters["beta"] * x)


custom = {"Swish": lambda x: x * torch.sigmoid(x), "ScaledSwish": scaled_swish}
model = corepress.runtime.load("net.mlmodel", custom=custom)
corepress.verify("net.mlmodel", "small.mlmodel", samples, custom={"Swish": torch.nn.SiLU()})
```

A function takes the layer's inputs as tensors and returns a tensor, or as many as the layer has outputs. In networks
whose arrays have five dimensions throughout, its tensors have them, too: [sequence, batch, channels, height, width].
If the function has parameters of these names, it also gets `parameters`, a dictionary of Python values, and `weights`,
a list of tensors of one dimension (raw bytes as uint8). Compressing needs no function: weights of custom layers stay as
they are.

"""
_MANY = 4


def kinds() -> list[str]:
    """All layers of the format, by their names; those of activations after the name `activation`."""
    layer = Layer()
    activation = layer.activation.DESCRIPTOR.oneofs_by_name["NonlinearityType"]
    names = [field.name for field in layer.DESCRIPTOR.oneofs_by_name["layer"].fields if field.name != "activation"]
    return sorted([*names, *(f"activation_{field.name}" for field in activation.fields)], key=str.lower)


def status(kind: str) -> str:
    """Whether, and by what, the runtime can run a layer."""
    if kind == "custom":
        return "by a function of yours"
    return "runs" if kind in LAYERS or kind in CONTROL else "missing"


def weights(kind: str) -> str:
    """The weights of a layer that can be compressed."""
    names = weight_names(kind)
    if kind in ("branch", "loop"):
        return "those of the layers in it"
    return ", ".join(names) if len(names) <= _MANY else "matrices and vectors of all gates"


def page() -> str:
    """The whole page."""
    counts = Counter(map(status, kinds()))
    summary = ", ".join(f"{count} {what}" for what, count in sorted(counts.items()))
    rows = ["Layer | Status | Weights", "--- | --- | ---"]
    for kind in kinds():
        shown = kind.replace("activation_", "activation: ") if kind.startswith("activation_") else kind
        rows.append(f"`{shown}` | {status(kind)} | {weights(kind)}")
    table = "".join(f"| {row} |\n" for row in rows)
    return f"{INTRODUCTION}## All layers\n\n{sum(counts.values())} layers: {summary}.\n\n{table}"


if __name__ == "__main__":
    PAGE.write_text(page())
    print(f"wrote {PAGE}")
