"""The operations of Core AI programs, as functions of tensors, each under Core AI's own name.

What means the same as an operation of ML programs is the same function (`shared.py`); the others have files of their
own, by what they are about. The arguments have the names that `formats/coreai/words.py` gives them. The documentation
of coreai-core's operations is the source, and its runtime the oracle (`tests/runtime/core_ai`).

To add an operation: a line in `words.py`, a function under `@core_ai`, and a case in the tests. Unsigned integers of 16
and more bits arrive as int64, since PyTorch computes little with them.
"""

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
