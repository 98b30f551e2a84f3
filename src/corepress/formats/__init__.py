"""What lies on disk: packages, weight files, the protobuf, and how files appear whole.

- `read.py` tells what a file is, and reads it once; `opening.py` opens what can be compressed; `kinds.py` has the kinds
  in words, and the one way to walk the stages of a pipeline; `mistaken.py` knows what people give instead of a model.
- `package.py` finds the files of a model, `atomic.py` puts them in place; `partials.py` and `renaming.py` serve it.
- `blobs.py` is the weight file, `spill.py` where new blobs wait, `dtypes.py` the table of data types, `features.py`
  what a model takes and gives.
- `schema/` holds the messages, `mlprogram/`, `neural_network/` and `coreai/` what each of the formats means.

Only `weights`, `errors` and `threads` may be imported, never an algorithm or a runtime. Readers believe nothing that
they have not checked, and raise FormatError in one sentence; nobody but `atomic.replacing` writes to a destination.
One more thing that is given by mistake: a line in `mistaken.py`. One more format: a folder with a `Model` (`package`,
`spec`, `weights()`, `copy()`, `save()`, `size()`), and its kind in `read.py`.
"""
