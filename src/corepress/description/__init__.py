"""What a Core ML model of any kind is, and what corepress can do with it; nothing is run, and PyTorch is not needed.

`file.py` makes a `Description`, `parts.py` looks into a model and the stages of a pipeline. Imported are `formats`, and
the tables `opsets` and `targets`. One more fact about a kind of model: a function in `_FACTS` of `parts.py`, and the
fields that it reads in `formats/schema/model.proto`; it appears in `corepress info` and in its JSON by itself.
"""

from corepress.description.file import Description, describe
from corepress.description.parts import Part

__all__ = ["Description", "Part", "describe"]
