"""Data without data: more samples, made of a few.

`augment` takes each input by what its program tells of it: `tokens.py` draws words of a vocabulary, `rows.py` knows
which of them are alike, `texts.py` makes texts longer, `arrays.py` crops, flips, relights and mixes pictures and
mixes other numbers. `written.py` lets a language model with a state write texts itself. A further kind of input is a
function beside these, and a line of `augment._varied`. The folder is not `augment/`, since `corepress.augment` is the
function.
"""
