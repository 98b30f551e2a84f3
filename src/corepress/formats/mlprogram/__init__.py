"""ML programs (iOS 15 and newer): the program as a graph, the weights in it, and what is stored of each.

- `model.py` is the `Model`: loaded, checked, copied, saved. The protobuf is the one truth, and is edited in place.
- `program.py` is the graph view: nodes, what they read, who reads them; `edit` writes changes back.
- `values.py` turns MIL values into arrays and back, `constexpr.py` compressed operations into the values of
  `corepress.weights` and back, `weight.py` lists the weights of a model, `before.py` those that were quantized before.

What may be imported is what `formats` may. One more compressed operation: a reader in `_READERS` of `constexpr.py`, a
writer beside it, its form in `_COMPRESSION` of `weight.py`, and a line in `tests/coreml/test_grid.py`.
"""

from corepress.formats.mlprogram.model import Model, checked, load
from corepress.formats.mlprogram.weight import Consumer, Weight

__all__ = ["Consumer", "Model", "Weight", "checked", "load"]
