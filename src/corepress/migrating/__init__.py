"""Migration: a Core ML model becomes a Core AI model, by way of PyTorch and coreai-torch.

`migrate.py`         the public functions: a package becomes an `.aimodel`, and what would come of it
`functions.py`       the functions of a model: its programs, with the constants that stay compressed
`chain.py`           the programs of a function as one module
`exportable.py`      a program as a module for `torch.export`
`blocks.py`          branches and loops that an input decides
`lengths.py`         lengths that only an input tells; an operation on them more is one more entry of its table
`operations.py`      operations that are exported as one of Core AI; one more is one more entry of its table
`exporting.py`       `torch.export`, with symbolic shapes; what can't be exported
`decompositions.py`  operations of PyTorch that coreai-torch does not know; one more is one more entry of its table
`stored.py`          compressed weights, which `formats.coreai` writes
`constants.py`       compressed weights as modules that coreai-torch converts by itself: for `torch.for_coreai`,
                     and even steps of neural networks; a form more is one more case of `compressed` there
`writing.py`         coreai-torch; what it can't convert; the file and its metadata
"""

from corepress.errors import importing

with importing("a migration to Core AI"):
    import torch as torch
