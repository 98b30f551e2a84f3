"""A compressed weight is a value: what algorithms make, containers store and runtimes execute."""

from corepress.weights.forms import CompressedWeight, Palettized, Quantized, Sparse, decompress, stored_bytes
from corepress.weights.packing import kept_values, pack_bits, packed_size, unpack_bits

__all__ = [
    "CompressedWeight",
    "Palettized",
    "Quantized",
    "Sparse",
    "decompress",
    "kept_values",
    "pack_bits",
    "packed_size",
    "stored_bytes",
    "unpack_bits",
]
