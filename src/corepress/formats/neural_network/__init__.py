"""Neural networks (iOS 15 and older): the layers that hold weights, and how these are stored.

- `model.py` is the `Model`: loaded, copied, saved.
- `layers.py` says where the weights of each layer lie and what shapes they have; `values.py`, `forms.py` and
  `packing.py` what a `WeightParams` message stores.
- `constants.py` and `normalization.py` tell which weights are better left alone.

What may be imported is what `formats` may. One more layer with weights: its fields in `schema/neural_network.proto`
(`make schema`), a line in `_WEIGHTS` of `layers.py`, and a layer in `tests/formats/neural_network/networks.py`.
"""

from corepress.formats.neural_network.layers import LayerWeight
from corepress.formats.neural_network.model import Model, load

__all__ = ["LayerWeight", "Model", "load"]
