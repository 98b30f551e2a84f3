"""Migration: a Core ML model becomes a Core AI model, by way of PyTorch and coreai-torch.

`migrate.py`         the public function: from a package to an `.aimodel`
`exportable.py`      a function of a program as a module for `torch.export`
`constants.py`       compressed weights as modules that become Core AI's compressed constants; a form more is one more
                     case of `compressed` there
`decompositions.py`  operations of PyTorch that coreai-torch does not know; one more is one more entry of its table
"""

from corepress.errors import importing

with importing("a migration to Core AI"):
    import torch as torch
