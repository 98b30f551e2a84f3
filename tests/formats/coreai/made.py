"""Core AI models made by Apple's own authoring functions, without PyTorch."""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

ROWS, COLUMNS = 64, 96


def weight(seed: int = 0, dtype: str = "float16") -> NDArray[Any]:
    """Of a layer: output channels, input channels."""
    return (np.random.default_rng(seed).standard_normal((ROWS, COLUMNS)) * 0.1).astype(dtype)


def layer(path: Path, dense: NDArray[Any] | None = None) -> Path:
    """y = x W', with W as a linear layer has it; x: (96, 96), so that the unit matrix gives W."""
    import coreai.authoring as author
    from coreai.authoring.constant import constant

    dense = weight() if dense is None else dense
    kind = author.float32 if dense.dtype == np.float32 else author.float16
    module = author.Module.create()
    given = Annotated[author.Value, author.TensorType((COLUMNS, COLUMNS), kind, name="x")]
    found = Annotated[author.Value, author.TensorType((COLUMNS, ROWS), kind, name="y")]
    with module:

        @author.graph
        def main(x: given) -> found:  # type: ignore[valid-type]
            turned = author.transpose(constant(dense), np.array([1, 0], np.uint32))
            return author.broadcasting_batch_matmul(x, turned)

    author.AIProgram(module).save_asset(path)
    return path


def largest(path: Path, dtype: str) -> Path:
    """y, the place of the largest number in each row of relu(x); x: (4, 8), of a type such as "float16"."""
    import coreai.authoring as author

    module = author.Module.create()
    given = Annotated[author.Value, author.TensorType((4, 8), getattr(author, dtype), name="x")]
    found = Annotated[author.Value, author.TensorType((4, 1), author.int32, name="y")]
    with module:

        @author.graph
        def main(x: given) -> found:  # type: ignore[valid-type]
            return author.argmax(author.relu(x), 1)

    author.AIProgram(module).save_asset(path)
    return path
