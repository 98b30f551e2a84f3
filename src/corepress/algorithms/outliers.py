"""A weight as the sum of two: what most of its values are like, and the few that are much larger.

Large values take the entries of a table, or stretch the range of integers, which all other values then lack. Kept apart
as float16 they cost 16 bits each, and one bit for each element of the weight, which says where they are. (Dettmers et
al. 2023, "SpQR", arXiv 2306.03078; Kim et al. 2023, "SqueezeLLM", arXiv 2306.07629.)
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from corepress.algorithms.magnitude import prune_sparsity
from corepress.weights import Sparse

Array = NDArray[Any]


def split_outliers(weight: Array, fraction: float) -> tuple[Array, Sparse]:
    """The inliers, which are 0 where an outlier is, and the outliers, exactly: their sum is the weight, bit for bit.

    `weight`: float16 or float32, any shape. `fraction`: from 0 to 1, the part of the values that are outliers, those of
    largest magnitude; of equal ones at the limit none. Raises DataError for infinities and NaN.
    """
    outliers = prune_sparsity(weight, 1 - fraction)
    return np.where(outliers.mask, weight.dtype.type(0), weight), outliers
