"""Runs neural networks, the model type of iOS 15 and older: their layers become the steps of a plan.

`load.py` makes a `Program` of a network: `needed.py` drops the layers that no output depends on, `steps.py` makes steps
of the others, with arguments from `fields.py`; `boundary.py` has what inputs and outputs become, `control.py` branches
and loops, `custom.py` layers that an app defines. The layers themselves are functions in `layers/`, registered by
`registry.py`. Imported may be `formats` and the rest of `runtime`, but for `stages` and `load.py`, which stand above.

To add a layer:

1. `formats/schema/neural_network.proto`: declare its message and its field of `NeuralNetworkLayer`; `make schema`.
2. `formats/neural_network/layers.py`: name its weights and their shapes, if it has some that can be compressed, and add
   it to `every_layer` of `tests/formats/neural_network/networks.py`. Shapes of other weights are in `SHAPES`, beside 4.
3. `formats/neural_network/constants.py`: name it there if it is a product or a look-up without weights of 2, if its
   weights are a number for each channel, or if it only moves numbers; a look-up in `_TABLES` of `runtime/domains.py`,
   too.
4. `runtime/networks/layers/FILE.py`, by what it does: write a function of the name of its field, under `@layer`. Its
   parameters are its inputs, its weights and its other fields: see `registry.py`, whose `IMPLIED` has the fields that
   only say how large a weight is. Where MIL has such an operation, call its function.
5. `tests/runtime/networks/layers/test_layers.py`: a row, or a test of its own, compares it with what is written down in
   the format's documentation, by `run` of `tests/runtime/networks/made.py`.

`make docs` then writes the row of `docs/layers.md`; commit it and `schema.binpb`. Layers without weights need no 2.
"""

from corepress.runtime.networks.custom import Custom
from corepress.runtime.networks.load import load_network

__all__ = ["Custom", "load_network"]
