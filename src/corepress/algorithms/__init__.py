"""Dense weight in, compressed weight out: pure functions on arrays.

May import `corepress.weights`, whose values they give, `kernels` for inner loops, `threads` and `errors`: algorithms
know nothing of files, models or configurations, and here neither of data nor of PyTorch.

`kmeans1d.py`, `kmeans_nd.py`, `palettize.py`, `lut.py`   look-up tables, and what can be done to them
`linear.py`, `floats.py`                                  integers, and small floating-point numbers, with scales
`magnitude.py`                                            small values become zero
`fitted/`                                                 the same, with statistics of the inputs of layers
`learned/`                                                the same, by gradients

To add an algorithm that needs no data, in four files and a line in CHANGELOG.md:

1. `algorithms/NAME.py`: the paper and the equation at its top; a function that takes an array and gives a `Palettized`,
   `Quantized` or `Sparse` (or, for a look-up table, what `palettize` takes as its `lut_function`, which has groups,
   vectors and checks already; of a pruned weight it sees the zeros, too). It raises ConfigError for arguments that
   don't fit the weight, DataError for infinities and NaN.
2. `tests/algorithms/test_NAME.py`: against brute force, or another implementation that nobody here has written.
3. `coreml/op_configs.py`: the word, or the field, by which a configuration asks for it, and in `__attrs_post_init__`
   what contradicts it; a table of scalars refuses a `cluster_dim` above 1 there.
4. `coreml/palettize.py`, `quantize.py` or `prune.py`: the action calls it, importing it where it is called.

Recipes, YAML files, the report and `tests/coreml/test_grid.py` know it then. A flag of the command line is a fifth
file: the word in `cli/settings.py`.
"""
