"""The packages that the benchmarks compress: synthetic transformers, converted once and kept in `.cache`."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

CACHE = Path(__file__).resolve().parent / ".cache"
WIDTH, HIDDEN, HEADS, TOKENS = 768, 3072, 12, 16
SMALL, LARGE, TINY = 7, 35, 0  # blocks: 50M and 248M parameters, and one layer to warm up with


def package(blocks: int) -> Path:
    """The path of the transformer with so many blocks; made first where it is not there yet."""
    path = CACHE / f"transformer-{blocks}.mlpackage"
    if not path.exists():
        CACHE.mkdir(exist_ok=True)
        partial = CACHE / "partial.mlpackage"
        shutil.rmtree(partial, ignore_errors=True)
        convert(blocks).save(str(partial))
        partial.rename(path)
    return path


def palettized(blocks: int) -> Path:
    """The same model with 8-bit look-up tables, to be decompressed."""
    path = CACHE / f"transformer-{blocks}-lut8.mlpackage"
    if not path.exists():
        from corepress import load
        from corepress.coreml import OpPalettizerConfig, OptimizationConfig, palettize_weights

        palettize_weights(load(package(blocks)), OptimizationConfig(OpPalettizerConfig(nbits=8))).save(path)
    return path


def convert(blocks: int) -> Any:
    """A pre-norm transformer with random fp16 weights of heavy tails, as trained weights have them."""
    import coremltools as ct
    import numpy as np
    from coremltools.converters.mil.mil import Builder as mb
    from coremltools.converters.mil.mil import types

    rng = np.random.default_rng(0)
    half = np.float16

    def linear(x: Any, size: int, name: str) -> Any:
        weight = (rng.standard_t(5, (size, x.shape[-1])) * 0.02).astype(half)
        return mb.linear(x=x, weight=weight, bias=rng.normal(0, 0.02, size).astype(half), name=name)

    def norm(x: Any, name: str) -> Any:
        gamma, beta = rng.normal(1, 0.1, WIDTH).astype(half), rng.normal(0, 0.1, WIDTH).astype(half)
        return mb.layer_norm(x=x, axes=[-1], gamma=gamma, beta=beta, epsilon=half(1e-5), name=name)

    def heads(x: Any) -> Any:
        return mb.transpose(x=mb.reshape(x=x, shape=[1, TOKENS, HEADS, WIDTH // HEADS]), perm=[0, 2, 1, 3])

    def attention(x: Any, name: str) -> Any:
        q, k, v = (heads(linear(x, WIDTH, f"{name}_{part}")) for part in "qkv")
        scores = mb.mul(x=mb.matmul(x=q, y=k, transpose_y=True), y=half((WIDTH // HEADS) ** -0.5))
        mixed = mb.transpose(x=mb.matmul(x=mb.softmax(x=scores, axis=-1), y=v), perm=[0, 2, 1, 3])
        return linear(mb.reshape(x=mixed, shape=[1, TOKENS, WIDTH]), WIDTH, f"{name}_o")

    def mlp(x: Any, name: str) -> Any:
        return linear(mb.gelu(x=linear(x, HIDDEN, f"{name}_up")), WIDTH, f"{name}_down")

    @mb.program(input_specs=[mb.TensorSpec((1, TOKENS, WIDTH), types.fp16)], opset_version=ct.target.iOS18)
    def program(x: Any) -> Any:
        for block in range(blocks):
            x = mb.add(x=x, y=attention(norm(x, f"norm1_{block}"), f"attention_{block}"))
            x = mb.add(x=x, y=mlp(norm(x, f"norm2_{block}"), f"mlp_{block}"))
        if not blocks:
            return linear(mb.reshape(x=x, shape=[TOKENS * 12, WIDTH // 12]), WIDTH // 12, "only")
        return norm(x, "norm_out")

    # The weights are fp16 already, so no pass has to cast them.
    return ct.convert(
        program,
        convert_to="mlprogram",
        minimum_deployment_target=ct.target.iOS18,
        compute_precision=ct.precision.FLOAT32,
        skip_model_load=True,
    )


if __name__ == "__main__":
    for count in map(int, sys.argv[1:]):
        print(package(count), palettized(count))
