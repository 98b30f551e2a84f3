"""Weights that stay packed give the answers that dense ones give, from a fraction of the memory."""

from __future__ import annotations

import copy
import pickle
import threading

import numpy as np
import pytest
import torch

import corepress.coreml as cto
from corepress.errors import ConfigError
from corepress.runtime import load
from corepress.runtime.packed import Packed, cpu, pack
from corepress.weights import Palettized, Quantized, Sparse
from tests.packages import make_package
from tests.runtime.test_zoo import convert, distance

rng = np.random.default_rng(0)
LIMITS = {torch.float32: 1e-5, torch.float16: 1e-3}


def palettized(bits: int, groups: int, columns: int, dtype: str, quantized_lut: bool = False) -> Palettized:
    indices = rng.integers(0, 1 << bits, (24, columns), dtype=np.uint8)
    lut = rng.normal(size=(groups, 1, 1 << bits, 1))
    if not quantized_lut:
        return Palettized(indices, lut.astype(dtype))
    scale = rng.uniform(0.01, 0.02, (groups, 1, 1, 1)).astype(dtype)
    return Palettized(indices, Quantized((lut * 40).clip(-128, 127).astype(np.int8), scale))


def quantized(bits: int, kind: str, groups: int, blocks: int, columns: int, dtype: str, offset: bool) -> Quantized:
    low = 0 if kind == "uint8" else -(1 << (bits - 1))
    scale = rng.uniform(0.01, 0.02, (groups, blocks)).astype(dtype)
    shift = rng.integers(low, low + (1 << bits), scale.shape).astype(kind) if offset else None
    return Quantized(rng.integers(low, low + (1 << bits), (24, columns)).astype(kind), scale, shift, bits)


def tile(packed: Packed, first: int, last: int) -> torch.Tensor:
    return cpu.tile(packed, first, last, torch.zeros(last - first, packed.padded))


def check(weight: Palettized | Quantized) -> None:
    dtype = torch.float16 if weight.dtype == np.float16 else torch.float32
    packed, dense = pack(weight, dtype), torch.from_numpy(weight.decompress())
    assert packed is not None
    rows, columns = weight.shape
    bias = torch.from_numpy(rng.normal(size=rows).astype(weight.dtype))
    for batch in (1, 6, 65):
        x = torch.from_numpy(rng.normal(size=(batch, columns)).astype(weight.dtype))
        for shift in (None, bias):
            found, expected = packed(x, shift), torch.nn.functional.linear(x, dense, shift)
            assert found.dtype == expected.dtype and found.shape == expected.shape
            assert distance(found.float().numpy(), expected.float().numpy()) <= LIMITS[dtype]
    # What a GPU computes is what a CPU does.
    torch.testing.assert_close(packed.dense(5, 19), tile(packed, 5, 19), rtol=1e-6, atol=1e-6)
    assert distance(tile(packed, 0, rows).numpy(), dense.float().numpy()) <= LIMITS[dtype]
    # Each row is filled up to 128 codes.
    assert packed.codes.nbytes == rows * -(-columns // 128) * 16 * (weight.bits if packed.tables.numel() else 8)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("columns", [64, 37, 5])
@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6, 8])
def test_palettized(bits, groups, columns, dtype) -> None:
    check(palettized(bits, groups, columns, dtype))
    check(palettized(bits, groups, columns, dtype, quantized_lut=True))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("offset", [False, True])
@pytest.mark.parametrize(
    ("groups", "blocks", "columns"), [(1, 1, 37), (24, 1, 37), (24, 1, 64), (24, 4, 64), (24, 4, 36), (6, 3, 48)]
)
@pytest.mark.parametrize(("bits", "kind"), [(4, "int8"), (4, "uint8"), (8, "int8"), (8, "uint8")])
def test_quantized(bits, kind, groups, blocks, columns, offset, dtype) -> None:
    check(quantized(bits, kind, groups, blocks, columns, dtype, offset))


@pytest.mark.parametrize("bits", [3, 4, 8])
def test_a_palettized_weight_under_scales(bits) -> None:
    inner = palettized(bits, 4, 64, "float32")
    weight = Quantized(inner, rng.uniform(0.5, 2, (12, 2)).astype(np.float32))
    packed = pack(weight, torch.float32)
    assert packed is not None and distance(tile(packed, 0, 24).numpy(), weight.decompress()) <= 1e-6


def test_offsets_between_integers() -> None:
    form = quantized(8, "uint8", 24, 2, 128, "float32", offset=False)
    check(Quantized(form.data, form.scale, rng.uniform(0, 255, form.scale.shape).astype(np.float32)))


def test_copies_are_told_of_their_own_memory() -> None:
    weight = palettized(4, 2, 128, "float32")
    packed = pack(weight, torch.float32)
    x = torch.ones(1, 128)
    expected = packed(x)
    shared = {id(buffer): buffer for buffer in packed.buffers()}
    copies = [copy.deepcopy(packed), pickle.loads(pickle.dumps(packed)), copy.deepcopy(packed, shared)]
    del packed
    assert all(torch.equal(each(x), expected) for each in copies)


def test_buffers_that_are_replaced_during_a_product() -> None:
    packed = pack(palettized(4, 1, 4096, "float32"), torch.float32)
    x, stop = torch.ones(4, 4096), threading.Event()
    expected = packed(x)

    def replace() -> None:
        while not stop.is_set():
            packed.codes, packed.tables = packed.codes.clone(), packed.tables.clone()

    thread = threading.Thread(target=replace)
    thread.start()
    try:
        assert all(torch.equal(packed(x), expected) for _ in range(300))
    finally:
        stop.set()
        thread.join()


def test_other_forms_are_not_packed() -> None:
    for bits in (5, 7):  # files may hold tables of any power of two
        assert pack(palettized(bits, 1, 64, "float32"), torch.float32) is None
    dense = rng.normal(size=(4, 8)).astype(np.float32)
    vectors = Palettized(np.zeros((4, 4), np.uint8), rng.normal(size=(1, 1, 4, 2)).astype(np.float32), 1)
    in_columns = Palettized(np.zeros((4, 4), np.uint8), rng.normal(size=(1, 2, 4, 1)).astype(np.float32))
    for weight in (dense, Sparse(dense > 0, dense), vectors, in_columns):
        assert pack(weight, torch.float32) is None


@pytest.mark.parametrize("blocks", [1, 75, 200])  # of 2400, 32 and 12 columns
@pytest.mark.parametrize(("bits", "kind"), [(4, "int8"), (8, "uint8")])
def test_columns_are_multiplied_span_by_span(bits, kind, blocks) -> None:
    check(quantized(bits, kind, 24, blocks, 2400, "float32", True))


@pytest.mark.parametrize(("rows", "tokens"), [(2050, 1), (2050, 5), (2050, 64), (2050, 65), (3, 6)])
def test_rows_are_shared_among_threads(rows, tokens) -> None:
    weight = Palettized(
        rng.integers(0, 8, (rows, 300), dtype=np.uint8), rng.normal(size=(1, 1, 8, 1)).astype(np.float32)
    )
    packed, x = pack(weight, torch.float32), rng.normal(size=(tokens, 300)).astype(np.float32)
    assert packed is not None
    assert distance(packed(torch.from_numpy(x)).numpy(), x @ weight.decompress().T) <= 1e-5


def test_many_rows_are_multiplied_tile_by_tile(monkeypatch) -> None:
    monkeypatch.setattr("corepress.runtime.packed.stored._TILE", 64 * 7)
    check(palettized(4, 4, 64, "float32"))


def test_four_bits_take_little_memory() -> None:
    weight = quantized(4, "int8", 24, 32, 1024, "float16", False)
    packed = pack(weight, torch.float16)
    assert packed is not None and sum(t.nbytes for t in packed.buffers()) <= 0.3 * 2 * 24 * 1024


CONFIGS = {
    "palettize": lambda: (cto.OpPalettizerConfig(nbits=4, weight_threshold=10), cto.palettize_weights),
    "groups": lambda: (
        cto.OpPalettizerConfig(nbits=3, granularity="per_grouped_channel", group_size=8, weight_threshold=10),
        cto.palettize_weights,
    ),
    "int8": lambda: (cto.OpLinearQuantizerConfig(weight_threshold=10), cto.linear_quantize_weights),
    "int4": lambda: (
        cto.OpLinearQuantizerConfig(dtype="int4", granularity="per_block", block_size=16, weight_threshold=10),
        cto.linear_quantize_weights,
    ),
}


def compressed(path, how: str):
    config, compress = CONFIGS[how]()
    return compress(path, cto.OptimizationConfig(config))


@pytest.mark.parametrize("precision", ["FLOAT32", "FLOAT16"])
@pytest.mark.parametrize("how", CONFIGS)
def test_a_network(how, precision, tmp_path) -> None:
    path, _, inputs, _ = convert("vit", tmp_path, "iOS18", precision)
    small = compressed(path, how)
    program = load(small, weights="on_the_fly")
    packed = [module for module in program.module.modules() if isinstance(module, Packed)]
    assert len(packed) == (8 if how == "groups" else 9)  # groups of 8 don't divide the 10 classes
    limit = 1e-5 if precision == "FLOAT32" else 5e-3  # each layer rounds once more
    assert distance(program.predict(inputs)["result"], load(small).predict(inputs)["result"]) <= limit


@pytest.mark.parametrize("how", ["palettize", "int8"])
def test_only_what_is_multiplied_stays_packed(how, tmp_path) -> None:
    small = compressed(make_package(tmp_path, "iOS18", "float32"), how)
    program, dense = load(small, weights="on_the_fly"), load(small)
    # Of linear, conv, conv_transpose, matmul (not transposed), gather and add, the first.
    (packed,) = [module for module in program.module.modules() if isinstance(module, Packed)]
    assert (packed.rows, packed.columns) == (48, 64)
    inputs = {
        f.name: np.zeros(f.shape, f.dtype) if f.dtype == np.int32 else rng.normal(size=f.shape).astype(f.dtype)
        for f in program.interface.inputs
    }
    for name, expected in dense.predict(inputs).items():
        assert distance(program.predict(inputs)[name], expected) <= 1e-5


@pytest.mark.parametrize("shared", [False, True])
def test_matmul_with_a_transposed_constant(shared, tmp_path) -> None:
    import coremltools as ct
    from coremltools.converters.mil.mil import Builder as mb

    weight = rng.normal(size=(24, 64)).astype(np.float32)

    @mb.program([mb.TensorSpec((64, 3))], opset_version=ct.target.iOS18)
    def program(x):
        held = mb.const(val=weight, name="held")
        y = mb.matmul(x=x, y=held, transpose_x=True, transpose_y=True)
        return (y, mb.reduce_sum(x=mb.add(x=held, y=mb.reduce_sum(x=x)))) if shared else y

    options = {"minimum_deployment_target": ct.target.iOS18, "compute_precision": ct.precision.FLOAT32}
    ct.convert(program, skip_model_load=True, **options).save(str(tmp_path / "m.mlpackage"))
    small = compressed(tmp_path / "m.mlpackage", "palettize")
    found, inputs = load(small, weights="on_the_fly"), {"x": rng.normal(size=(64, 3)).astype(np.float32)}
    assert any(isinstance(module, Packed) for module in found.module.modules()) != shared
    for name, expected in load(small).predict(inputs).items():
        assert distance(found.predict(inputs)[name], expected) <= 1e-5


def test_an_unknown_way_is_refused(tmp_path) -> None:
    with pytest.raises(ConfigError, match="ahead_of_time"):
        load(make_package(tmp_path, "iOS18"), weights="lazily")
