"""Core AI models (`.aimodel`, iOS 27) on disk.

- `asset.py` tells what an `.aimodel` is, `kept.py` what a migration notes in its metadata.
- `guarded.py` calls the library where it would end the process for a program that it can't read.
- `library.py` is all that is called of coreai-core, Apple's library: nothing else reads or writes a program.
- `model.py` is the `Model`: loaded, read, saved. `view.py` makes of a program an ML program, which all else knows, by
  the names in `words.py`; `reading.py` and `writing.py` turn constants into forms of weights, and back. `inserting.py`
  puts operations into the program that were put into the view.

What may be imported is what `formats` may. One more operation whose weights matter: a line in `words.py`. One more form
of a constant: a case in `reading.py`, one in `writing.py`, and a line in `tests/formats/coreai/test_model.py`.
"""
