"""What quantization configurations are made of."""

from __future__ import annotations

from enum import Enum


class QuantizationScheme(Enum):
    """Whether the zero point is fixed in the middle of the range (symmetric), or anywhere in it (affine)."""

    symmetric = "symmetric"
    affine = "affine"
