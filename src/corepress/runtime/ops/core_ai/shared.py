"""Operations that mean the same in ML programs and in Core AI's."""

from __future__ import annotations

from corepress.runtime.ops import (  # noqa: F401 - they register the operations
    activation,
    conv,
    elementwise_binary,
    elementwise_unary,
    linear,
    scatter_gather,
    select,
    tensor_operation,
    tensor_transformation,
)
from corepress.runtime.registry import CORE_AI, OPERATIONS

_SAME = """
    abs acos add asin atan atanh cos cosh equal erf exp expand_dims floor_divide:floor_div gather_along_axis gather_nd
    greater and:logical_and or:logical_or xor:logical_xor not:logical_not batch_matmul:matmul linear maximum minimum mul
    not_equal pow range:range_1d divide:real_div relu reverse round scatter_along_axis scatter_nd where:select sigmoid
    silu sin sinh softmax sqrt shrink_dims:squeeze sub tan tanh tile transpose conv2d:conv conv3d:conv concat
"""
# By Core AI's name, with the name in ML programs behind it where that is another one.
for _names in _SAME.split():
    _own, _, _other = _names.partition(":")
    CORE_AI[_own] = OPERATIONS[_other or _own]
