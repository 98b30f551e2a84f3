"""Quantization of the activations of packages: pairs of `quantize` and `dequantize` with ranges from samples.

`quantize.py` is the function that users call, by the names of `corepress.coreml.experimental`; `patterns.py` says where
a program gets pairs, `calibrate.py` runs it on samples, `observers.py` makes ranges of what it computes, `parts.py`
holds both, `pairs.py` writes. `narrowing.py` clips ranges by what the outputs lose, `biases.py` takes back what
rounding shifts, `exceptions.py` finds what has to stay in floating point. `channels.py` says (by `labels.py`) between
which weights factors of channels can move, `equalizing.py` moves them. All may import `corepress.coreml`, which does
not import them, and PyTorch and `corepress.runtime` on first use.

One more operation with integers: its line in `patterns.CORE`. One more way to find a range: a class with `update` and
`limits` in `observers.py`, under its word in `OBSERVERS`, and the word in `cli/app.py`, at `--observer`.
"""
