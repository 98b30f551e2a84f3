"""The layers of neural networks, as functions of tensors, by what they are about.

A file imports PyTorch, `networks/registry.py` and `runtime/ops`, whose functions do the work wherever MIL has the same
operation; it knows nothing of messages, plans or models. Importing this package registers all layers; a new file is
found without being named.
"""

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
