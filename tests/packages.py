"""Small packages that the tests work on, made by coremltools once for a test session."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

TARGETS = ("iOS15", "iOS16", "iOS17", "iOS18")


def make_package(folder: Path, target: str, dtype: str = "float16", seed: int = 0) -> Path:
    """A package with one weight for each way in which an operation reads one: linear, conv, conv_transpose, matmul
    (both orders), gather, and an elementwise constant of rank 3."""
    import coremltools as ct
    from coremltools.converters.mil.mil import Builder as mb
    from coremltools.converters.mil.mil import types

    rng = np.random.default_rng(seed)
    kind = types.fp16 if dtype == "float16" else types.fp32

    def weight(*shape: int) -> np.ndarray:
        return (rng.standard_t(5, shape) * 0.1).astype(dtype)

    specs = [
        mb.TensorSpec((1, 64), kind),
        mb.TensorSpec((1, 16, 8, 8), kind),
        mb.TensorSpec((1, 64, 64), kind),
        mb.TensorSpec((3,), types.int32),
    ]

    @mb.program(input_specs=specs, opset_version=getattr(ct.target, target))
    def program(x, image, square, ids):
        y = mb.linear(x=x, weight=weight(48, 64), bias=weight(48), name="dense")
        z = mb.conv(x=image, weight=weight(32, 16, 3, 3), pad_type="same", name="conv")
        z = mb.conv_transpose(x=z, weight=weight(32, 16, 3, 3), name="up")
        m = mb.matmul(x=square, y=weight(64, 48), name="right")
        m = mb.matmul(x=weight(1, 64, 64), y=m, name="left")
        e = mb.gather(x=weight(96, 32), indices=ids, axis=0, name="embed")
        k = mb.add(x=square, y=weight(1, 64, 64), name="shift")
        return y, z, m, e, k

    model = ct.convert(
        program,
        convert_to="mlprogram",
        minimum_deployment_target=getattr(ct.target, target),
        compute_precision=ct.precision.FLOAT32,
        skip_model_load=True,
    )
    model.user_defined_metadata["answer"] = "42"
    model.short_description = "a test model"
    path = folder / f"{target}-{dtype}-{seed}.mlpackage"
    model.save(str(path))
    return path


def saved(program: Any, path: Path) -> Path:
    """A program of MIL for iOS18, in float32, as a package."""
    import coremltools as ct

    model = ct.convert(
        program,
        convert_to="mlprogram",
        minimum_deployment_target=ct.target.iOS18,
        compute_precision=ct.precision.FLOAT32,
        skip_model_load=True,
    )
    model.save(str(path))
    return path


def inputs(seed: int = 0) -> dict[str, np.ndarray]:
    """Inputs for that package, exact in float16."""
    rng = np.random.default_rng(seed)
    shapes = {"x": (1, 64), "image": (1, 16, 8, 8), "square": (1, 64, 64)}
    made = {name: rng.normal(size=shape).astype(np.float16) for name, shape in shapes.items()}
    return {**made, "ids": rng.integers(0, 96, 3).astype(np.int32)}


def answers(weights: dict[str, np.ndarray], given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What that package answers with these dense weights: the same computation, written with PyTorch in float64."""
    import torch
    from torch.nn import functional as F

    def weight(start: str, end: str = "") -> torch.Tensor:
        (found,) = (w for name, w in weights.items() if name.startswith(start) and end in name and w.ndim > 1)
        return torch.from_numpy(found.astype(np.float64))

    (bias,) = (torch.from_numpy(w.astype(np.float64)) for w in weights.values() if w.shape == (48,))
    x, image, square = (torch.from_numpy(given[name].astype(np.float64)) for name in ("x", "image", "square"))
    computed = {
        "dense": F.linear(x, weight("dense"), bias),
        "up": F.conv_transpose2d(F.conv2d(image, weight("conv"), padding="same"), weight("up", "weight")),
        "left": weight("left") @ (square @ weight("right")),
        "embed": weight("embed")[torch.from_numpy(given["ids"])],
        "shift": square + weight("shift"),
    }
    return {name: value.numpy() for name, value in computed.items()}
