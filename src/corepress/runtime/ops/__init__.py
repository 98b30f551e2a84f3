"""The operations of ML programs, as functions of tensors: one file for each page of the MIL documentation.

A file imports PyTorch, `registry`, `limits`, `dtypes`, and helpers of its neighbours; it knows nothing of programs,
plans or models. Importing this package registers all operations; a new file is found without being named.

To add an operation:

1. `corepress/opsets.py`: write its name beneath its page and the first system that has it. Where it is a product (it
   multiplies an argument and sums, as `matmul`; not `cumsum` or `reduce_sum`), looks up in one, or only moves numbers,
   name it in the table that says so, too. A look-up by indices of rows is a line of `_TABLES` in `runtime/domains.py`
   as well.
2. `runtime/ops/PAGE.py`: write a function of its name (with a trailing underscore where Python has that name already)
   under `@operation`. Its parameters have the names, defaults and, by their annotations, the forms of MIL: see
   `registry.py`; the result has the type that MIL says (`torch.cumsum` of int32 gives int64). Call `limits.check` with
   the sizes of a result that may become far larger than what it is made of. A function of each element that PyTorch
   has, too, is a line of `_own`.
3. `tests/runtime/ops/test_PAGE.py`: compare it with an oracle, by `check` of `tests/runtime/oracle_ops.py`.

`make docs` then writes the row of `docs/operations.md`, which you commit.
"""

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
