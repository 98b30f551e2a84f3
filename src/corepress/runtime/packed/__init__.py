"""Weights that stay packed in memory while a program runs, and their products with activations.

`stored.py` has what such a weight keeps, `weight.py` packs it and chooses who multiplies: `cpu.py`, by our kernels, or
`gpu.py`, in Triton, which is imported only where it is installed and the activations are on a GPU. Other devices
multiply tiles that PyTorch unpacks. Another device is a file with a `multiply`, which imports `stored`, and a line in
`weight.py`.
"""

from corepress.runtime.packed.weight import Packed, pack, product

__all__ = ["Packed", "pack", "product"]
