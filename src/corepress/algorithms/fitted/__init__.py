"""Weights compressed with statistics of the inputs they meet: tensors of PyTorch in, compressed weights out.

May import what `algorithms` may, `algorithms` itself, and PyTorch. Who gathers the statistics, from a package
(`coreml/calibrated`) or a module (`torch/layerwise_compression`), is not known here.

`statistics.py`, `hessian.py`, `layout.py`   what is known of the inputs of a layer; how its weight is a matrix
`gptq.py`, `sparsegpt.py`, `lut_gptq.py`     a method each; `grid.py`, `sweep.py`: what they share
`awq.py`, `scaling.py`                       scales of input channels before a weight is rounded; where they fit

To add a fitted method, in four or five files and a line in CHANGELOG.md:

1. `algorithms/fitted/NAME.py`: the paper at its top; a function that takes the matrices of a weight, (groups, rows,
   columns), and the Hessians of their inputs, (groups, columns, columns), and gives a compressed weight.
2. `tests/algorithms/fitted/test_NAME.py`: the error of the layer's outputs, beside the method without data. `layer`
   of `test_gptq.py` makes a weight and inputs; scale their columns if the method looks at nothing but their sizes.
3. `coreml/palettize.py`, `quantize.py` or `prune.py`: an action derived from the one without data, which says with
   `evidence` what it learns from, and has a method `fit`; `layout.fitted` hands the function the matrices of all
   groups. Its line at the end of `METHOD.fitted`, of which the first is the default, gives it its name, by which
   recipes know it, too.
4. `cli/app.py`: the name among the choices of `--method`; `tests/coreml/test_methods.py` fails until it is there.
5. `cli/usage.py`: a row for each option that the method can't do, if there is any.

Samples held back, the choice between fitted and plain form, several passes and pipelines come by themselves. For
PyTorch modules: a configuration and an algorithm, registered under one name in `torch/layerwise_compression`.
"""
