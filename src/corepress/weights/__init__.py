"""A compressed weight is a value: what algorithms make, containers store and runtimes execute.

`forms.py` has the three forms, which are put together into trees; `blocks.py` cuts arrays into groups and blocks,
`packing.py` packs integers of less than a byte. Only `kernels` and `errors` may be imported. One more form is rare: it
needs `shape`, `dtype`, `nbytes` and `decompress()` here, a reader and a writer in `formats/mlprogram/constexpr.py`, and
what `torch/metadata.py` and `runtime/packed/` make of it.
"""

from corepress.weights.forms import (
    INDEX_BITS,
    CompressedWeight,
    Palettized,
    Quantized,
    Sparse,
    decompress,
    index_bits,
    index_mask,
    stored_bytes,
)
from corepress.weights.packing import kept_values, pack_bits, packed_size, unpack_bits, worded_bits

__all__ = [
    "INDEX_BITS",
    "CompressedWeight",
    "Palettized",
    "Quantized",
    "Sparse",
    "decompress",
    "index_bits",
    "index_mask",
    "kept_values",
    "pack_bits",
    "packed_size",
    "stored_bytes",
    "unpack_bits",
    "worded_bits",
]
