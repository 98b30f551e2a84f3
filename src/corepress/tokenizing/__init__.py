"""Samples for models of language, made of texts: the user's, or those that come with corepress.

`builtin.py` reads the texts in `texts/`: a file for each kind, pieces apart by lines that hold only `%`. They were
written for this project; names, places and numbers in them are mostly invented. A further kind is a file beside these.
The folder is not `tokenize/`, since `corepress.tokenize` is the function.
"""
