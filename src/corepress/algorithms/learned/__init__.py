"""Weights compressed by gradients.

May import what `algorithms/fitted` may. What is here is differentiable: tensors in, tensors out, with a backward pass
of its own where that of PyTorch would be slow or large. Who trains, with which steps and schedules, is not known here:
that is `torch/palettization`, `torch/pruning`, `torch/quantization` and `refining`.

`straight.py`   rounding to entries of a table, to integers and to a type, with the derivative of no rounding
`stored.py`     a stored weight, of any form, as a module that learns and can be stored again
`dkm.py`        differentiable k-means: the soft assignment of weights to the entries of a look-up table; here, not
                beside `FakePalettize`, which uses it, since it knows no modules and so is tested against formulas alone

To add one: `algorithms/learned/NAME.py`, with the paper at its top; `tests/algorithms/learned/test_NAME.py`, gradients
against `torch.autograd.gradcheck` or a plain formula; and a module in the place of the weight that uses it
(`torch/training.py` puts such modules in and takes them out).
"""
