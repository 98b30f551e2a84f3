"""A grid of inputs to everything that computes in the kernels, and what it gave before they were written in C.

Each file here holds the cases of one family of kernels; `cases.py` says what a case is. `../same_bytes.json` holds what
was recorded, and `../test_same_bytes.py` compares. To record anew, with the sources whose results are to be kept in
PYTHONPATH:

    python -m tests.kernels.grid

A recording is a statement that these bytes are right: it is made with the old code, before a change, never to make the
test pass. Inputs are made of integers and powers of two, so that they are the same on every machine.
"""
