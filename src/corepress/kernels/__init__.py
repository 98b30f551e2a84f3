"""The compiled core: loops over arrays in C, and for each a thin typed function that checks its arrays.

May import `corepress.errors` only: kernels know arrays, nothing of weights, files or models.

`c/*.c`        a file for each family; `c/common.h` has the rules that keep results the same bits everywhere
`library.py`   finds and loads the library, and chooses the version of each function for this processor
`*.py`         a module for each family, named like its C file

To add a kernel: write it in the C file of its family with `KERNEL(type, name)`, and its function beside the others in
the module of that name; build it with `make kernels`; give it a twin in NumPy in `tests/kernels`, and a line in
`benchmarks/kernels.py`.
"""
