"""Core AI models compressed in place. The oracle is Apple's own runtime: what it makes of our constants, it answers."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import corepress
from corepress import runtime
from corepress.coreml import (
    OpLinearQuantizerConfig,
    OpMagnitudePrunerConfig,
    OpPalettizerConfig,
    OptimizationConfig,
    decompress_weights,
    linear_quantize_weights,
    palettize_weights,
    prune_weights,
)
from corepress.errors import ConfigError, FormatError, MissingDependencyError, OutputError, UnsupportedError
from corepress.formats.coreai import library
from corepress.formats.mlprogram import Model
from corepress.weights import Palettized, Quantized, Sparse
from tests.formats.coreai.made import COLUMNS, layer, weight

pytest.importorskip("coreai")
GROUPS = {"granularity": "per_grouped_channel", "group_size": 16}
GRANULARITIES = ({"granularity": "per_tensor"}, {}, {"granularity": "per_block", "block_size": 32})


def palettized(**fields: Any) -> Any:
    return palettize_weights, OpPalettizerConfig(weight_threshold=0, **fields)


def quantized(**fields: Any) -> Any:
    return linear_quantize_weights, OpLinearQuantizerConfig(weight_threshold=0, **fields)


PRUNED = prune_weights, OpMagnitudePrunerConfig(weight_threshold=0, target_sparsity=0.5)
TABLES = {
    **{f"{bits} bits": palettized(nbits=bits) for bits in (1, 2, 3, 4, 6, 8)},
    **{f"{bits} bits, groups": palettized(nbits=bits, **GROUPS) for bits in (1, 3, 4, 6)},
    "int8 tables": palettized(nbits=3, lut_dtype="int8", **GROUPS),
    "uint8 tables": palettized(nbits=4, lut_dtype="uint8", **GROUPS),
    "fp8_e4m3fn tables": palettized(nbits=4, lut_dtype="fp8_e4m3fn", **GROUPS),
    "fp8_e5m2 tables": palettized(nbits=3, lut_dtype="fp8_e5m2"),
    "fp8_e4m3fn tables of vectors": palettized(nbits=4, lut_dtype="fp8_e4m3fn", cluster_dim=2),
    "vectors": palettized(nbits=4, cluster_dim=2),
    "vectors, groups": palettized(nbits=3, cluster_dim=2, **GROUPS),
    "scaled channels": palettized(nbits=2, enable_per_channel_scale=True),
}
NUMBERS = {
    f"{dtype}, {fields.get('granularity', 'per_channel')}": quantized(dtype=dtype, **fields)
    for dtype in ("int2", "int4", "int8", "fp4_e2m1fn", "fp8_e4m3fn", "fp8_e5m2")
    for fields in GRANULARITIES
}
EXPONENTS = {
    f"{dtype}, E8M0, {fields.get('granularity', 'per_channel')}": quantized(
        dtype=dtype, scale_dtype="fp8_e8m0fnu", **fields
    )
    for dtype in ("int8", "fp4_e2m1fn", "fp8_e4m3fn", "fp8_e5m2")
    for fields in GRANULARITIES
}
NUMBERS |= EXPONENTS
OFFSETS = {
    f"{dtype}, {fields.get('granularity', 'per_channel')}": quantized(dtype=dtype, mode="linear", **fields)
    for dtype in ("int2", "uint2", "int4", "uint4", "int8", "uint8")
    for fields in GRANULARITIES
}
# Where each block has another offset, integers of 8 bits are too many for a table.
UNDER_A_MASK = {name: step for name, step in OFFSETS.items() if "8, per_block" not in name}
UNDER_A_MASK |= {name: step for name, step in NUMBERS.items() if name[:4] in ("int2", "int4", "fp4_")}
OFFSETS = {name: [step] for name, step in OFFSETS.items()}
EXACT = {
    **{name: [step] for name, step in (TABLES | NUMBERS).items()},
    "sparse": [PRUNED],
    **{f"sparse, {name}": [PRUNED, step] for name, step in (TABLES | NUMBERS).items()},
    "quantized tables": [palettized(nbits=6), quantized(dtype="int8", granularity="per_tensor")],
    "palettized integers": [quantized(dtype="int8", granularity="per_tensor"), palettized(nbits=4)],
}


QUICK = {
    "3 bits, groups", "vectors", "fp8_e4m3fn tables", "fp4_e2m1fn, E8M0, per_block",
    "sparse, int8, E8M0, per_channel", "int2, per_block", "fp4_e2m1fn, per_block", "fp8_e4m3fn, per_channel", "sparse",
    "sparse, 3 bits, groups", "sparse, int8, per_channel", "sparse, vectors, groups", "sparse, scaled channels",
}  # fmt: skip


def parameters(cases: dict[str, Any], quick: set[str]) -> list[Any]:
    """The names of cases, of which some are for every run of the tests."""
    assert quick <= cases.keys()
    return [pytest.param(name, marks=() if name in quick else pytest.mark.slow) for name in cases]


def compressed(model: Any, steps: list[Any]) -> Model:
    for number, (function, config) in enumerate(steps):
        more = (True,) if number else ()
        model = function(model, OptimizationConfig(config), *more)
    assert isinstance(model, Model)
    return model


def answered(path: Path) -> NDArray[Any]:
    """The weight, as Apple's runtime has it."""
    answers = runtime.load(path).predict({"x": np.eye(COLUMNS, dtype=np.float16)})
    [found] = answers.values()
    return np.asarray(found).T


def the_weight(model: Model) -> Any:
    [found] = [one for one in model.weights() if one.size == weight().size]
    return found


@pytest.mark.parametrize("name", parameters(EXACT, QUICK))
def test_the_runtime_has_our_values_and_we_have_them_again(name: str, tmp_path: Path) -> None:
    model = compressed(layer(tmp_path / "dense.aimodel"), EXACT[name])
    saved = model.save(tmp_path / "small.aimodel")
    wanted, read = the_weight(model), the_weight(saved)
    assert read.compression == wanted.compression != ""
    assert (read.name, read.bits, read.stored_bytes) == (wanted.name, wanted.bits, wanted.stored_bytes)
    assert np.array_equal(answered(saved.path), wanted.dense())
    assert np.array_equal(read.dense(), wanted.dense())
    dense = decompress_weights(saved).save(tmp_path / "again.aimodel")
    assert the_weight(dense).compression == ""
    assert np.array_equal(the_weight(dense).dense(), wanted.dense())


@pytest.mark.parametrize("name", parameters(OFFSETS, {"uint4, per_block", "int8, per_channel"}))
def test_offsets_cost_one_rounding(name: str, tmp_path: Path) -> None:
    """The runtime rounds scale x number and scale x offset to float16, and then their difference."""
    saved = compressed(layer(tmp_path / "dense.aimodel"), OFFSETS[name]).save(tmp_path / "small.aimodel")
    form = the_weight(saved).read()
    assert isinstance(form, Quantized) and isinstance(form.data, np.ndarray)
    scale = _spread(form.scale, form.shape).astype(float)
    offset = _spread(np.zeros(form.scale.shape, np.int8) if form.offset is None else form.offset, form.shape)
    parts = [form.data * scale, offset * scale, (form.data.astype(float) - offset) * scale]
    roundings = sum(np.spacing(np.abs(part).astype(np.float16)).astype(float) / 2 for part in parts)
    assert (np.abs(answered(saved.path) - parts[-1]) <= roundings).all()


def _spread(array: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    for axis, size in enumerate(shape):
        array = np.repeat(array, size // array.shape[axis], axis)
    return array


def test_the_same_numbers_as_in_a_package(tmp_path: Path) -> None:
    """What an action makes of a weight does not depend on the kind of model."""
    from corepress.coreml.palettize import Palettize
    from corepress.coreml.quantize import Quantize

    path = layer(tmp_path / "dense.aimodel")
    config = OpPalettizerConfig(nbits=3, weight_threshold=0, **GROUPS)
    read = the_weight(palettize_weights(path, OptimizationConfig(config)).save(tmp_path / "a.aimodel")).read()
    ours = Palettize(config, 0, 1, (1, 2, 3, 4, 6, 8)).compress(weight())
    assert isinstance(read, Palettized) and isinstance(ours, Palettized) and isinstance(ours.lut, np.ndarray)
    assert np.array_equal(read.indices, ours.indices) and np.array_equal(read.lut, ours.lut)
    blocks = OpLinearQuantizerConfig(dtype="int4", weight_threshold=0, granularity="per_block", block_size=32)
    form = the_weight(linear_quantize_weights(path, OptimizationConfig(blocks)).save(tmp_path / "b.aimodel")).read()
    own = Quantize(blocks, (1, 0)).compress(weight())
    assert isinstance(form, Quantized) and isinstance(own, Quantized)
    assert np.array_equal(form.data, own.data) and np.array_equal(form.scale, own.scale)


def test_all_else_stays(tmp_path: Path) -> None:
    path = layer(tmp_path / "dense.aimodel")
    said = json.loads((path / "metadata.json").read_bytes()) | {"author": "Somebody", "license": "BSD"}
    (path / "metadata.json").write_text(json.dumps(said))
    (path / "readme.txt").write_text("kept")
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    saved = compressed(path, [palettized(nbits=4)]).save(tmp_path / "small.aimodel")
    assert {file.name: file.read_bytes() for file in path.iterdir()} == before
    described = corepress.describe(saved.path)
    assert (described.metadata["author"], described.metadata["license"]) == ("Somebody", "BSD")
    assert (saved.path / "readme.txt").read_text() == "kept"
    kinds = [[one.name for one in library.operations(library.load(place))] for place in (path, saved.path)]
    added = ["coreai.constant", "coreai.constant", "coreai.constant", "coreai.lut_to_dense"]
    assert sorted(kinds[1]) == sorted([*(kind for kind in kinds[0]), *added[1:]])
    assert abs(corepress.report(saved).size_after - saved.size()) == 0
    with pytest.raises(OutputError, match="exists already"):
        compressed(path, [palettized(nbits=4)]).save(path)


def test_forms_that_others_write(tmp_path: Path) -> None:
    """Indices of what is kept, looked up before they are spread; tables of integers that are cast before they are
    scaled; scales that are powers of two in 8 bits: as coreai-opt writes them; and a number that is added at last."""
    import ml_dtypes

    rng = np.random.default_rng(1)
    mask, lut = rng.random(weight().shape) < 0.5, rng.standard_normal(16).astype(np.float16)
    indices = rng.integers(0, 16, weight().shape).astype(np.uint8)
    integers = rng.integers(-100, 100, (1, 1, 16, 1)).astype(np.int8)
    scale = np.full((64, 1), 0.25, np.float16)
    floats = weight().astype(ml_dtypes.float8_e4m3fn)

    def sparse(make: Any, calls: Any) -> Any:
        flat = calls.lut_to_dense(
            make(indices[mask], "uint4"), make(lut.reshape(1, 16, 1)), make(np.array(0, np.int16))
        )
        return calls.sparse_with_bitmask_to_dense(
            calls.build_sparse_with_bitmask(flat, make(mask.view(np.uint8), "uint1"))
        )

    def cast(make: Any, calls: Any) -> Any:
        from coreai._compiler import ir

        found = calls.lut_to_dense(make(indices, "uint4"), make(integers), make(np.array(0, np.int16)))
        zeros = make(np.zeros_like(scale))
        wide = calls.cast(found, ir.F16Type.get())
        return calls.blockwise_shift_scale(wide, make(scale), zeros, zeros)

    def powers(make: Any, calls: Any) -> Any:
        steps = make(scale.astype(ml_dtypes.float8_e8m0fnu), "float8_e8m0fnu")
        offset = make(np.zeros(scale.shape, floats.dtype), "float8_e4m3fn")
        return calls.blockwise_shift_scale(make(floats, "float8_e4m3fn"), steps, offset, make(np.zeros_like(scale)))

    def added(make: Any, calls: Any) -> Any:
        bias = make(rng.standard_normal(scale.shape).astype(np.float16))
        return calls.blockwise_shift_scale(
            make(indices, "uint4"), make(scale), make(np.full(scale.shape, 8, np.uint8), "uint4"), bias
        )

    for made, label in (
        (sparse, "sparse+palettized"),
        (cast, "quantized+palettized"),
        (powers, "quantized"),
        (added, "quantized"),
    ):
        path = _with(layer(tmp_path / f"{made.__name__}_dense.aimodel"), made)
        read = the_weight(corepress.load(path))
        assert read.compression == label
        # Of the last one the sum is rounded once here, and maybe more than once there.
        error = np.abs(read.dense().astype(float) - answered(path))
        assert (error <= (2 * np.spacing(np.abs(read.dense())) if made is added else 0)).all()
        dense = decompress_weights(path).save(tmp_path / f"{made.__name__}_again.aimodel")
        assert np.array_equal(the_weight(dense).dense(), read.dense())


def _with(path: Path, make: Any) -> Path:
    """The model with a constant that `make` builds in place of its weight."""
    from corepress.formats.dtypes import BY_NAME, dtype_of

    program = library.load(path)
    [constant] = [
        one
        for one in library.operations(program)
        if one.name == "coreai.constant" and library.type_of(one).shape == weight().shape
    ]

    def made(array: NDArray[Any], dtype: str = "") -> Any:
        return library.make_constant(array, BY_NAME[dtype] if dtype else dtype_of(array.dtype))

    with library.inserting(constant):
        value = make(made, library.calls())
    library.replace(constant, value)
    out = path.with_name(f"{path.stem}_{make.__name__}.aimodel")
    program.save_asset(out)
    return out


@pytest.mark.parametrize("name", parameters(UNDER_A_MASK, {"uint4, per_channel", "int4, per_block"}))
def test_numbers_that_masks_can_not_be_over_become_entries_of_a_table(name: str, tmp_path: Path) -> None:
    """They take no more than with their zeros, and offsets cost no rounding there."""
    path = layer(tmp_path / "dense.aimodel")
    saved = compressed(path, [PRUNED, UNDER_A_MASK[name]]).save(tmp_path / "small.aimodel")
    whole = the_weight(compressed(path, [UNDER_A_MASK[name]]))
    form = the_weight(saved).read()
    assert np.array_equal(answered(saved.path), form.decompress())
    assert np.array_equal(form.decompress(), the_weight(compressed(path, [PRUNED, UNDER_A_MASK[name]])).dense())
    assert form.nbytes <= whole.stored_bytes
    if isinstance(form, Sparse):
        assert isinstance(form.values, Quantized) and form.values.offset is None
        assert not form.decompress()[the_weight(compressed(path, [PRUNED])).dense() == 0].any()


def test_masks_that_there_is_no_form_for(tmp_path: Path) -> None:
    """Values stay, and what is said of the form is what is stored."""
    path = layer(tmp_path / "dense.aimodel")
    for step, kind in (
        (quantized(dtype="int4"), Sparse),
        (quantized(dtype="uint8", mode="linear"), Sparse),
        (quantized(dtype="uint8", mode="linear", granularity="per_block", block_size=8), Quantized),
        (palettized(nbits=4, cluster_dim=2), Palettized),
        (palettized(nbits=8, cluster_dim=2), Sparse),
    ):
        model = compressed(path, [PRUNED, step])
        saved = model.save(tmp_path / "small.aimodel", overwrite=True)
        form = the_weight(saved).read()
        assert type(form) is type(the_weight(model).read()) is kind
        dropped = the_weight(compressed(path, [PRUNED])).dense() == 0
        if getattr(step[1], "cluster_dim", 1) > 1:  # a vector is kept whole
            dropped = np.repeat(dropped[::2] & dropped[1::2], 2, axis=0)
        assert dropped.any() and not form.decompress()[dropped].any()


def test_what_concerns_packages_only_is_one_sentence(tmp_path: Path) -> None:
    path = layer(tmp_path / "dense.aimodel")
    config = OptimizationConfig(OpPalettizerConfig(nbits=4, weight_threshold=0))
    with pytest.raises(UnsupportedError, match="only packages can be rotated"):
        corepress.coreml.rotate(path)
    with pytest.raises(UnsupportedError, match="a Core AI model already"):
        corepress.migrate(path, tmp_path / "other.aimodel")
    with pytest.raises(ConfigError, match="iOS18 has no effect"):
        palettize_weights(path, config, target="iOS18")
    with pytest.raises(ConfigError, match="can't hold float-offset quantization; packages can, for iOS18"):
        floating = OpLinearQuantizerConfig(mode="linear", float_zero_point=True, weight_threshold=0)
        linear_quantize_weights(path, OptimizationConfig(floating))
    with pytest.raises(ConfigError, match="outliers can't be put apart"):
        palettize_weights(path, OptimizationConfig(OpPalettizerConfig(nbits=4, outlier_fraction=0.01)))
    package = "examples/digits.mlpackage"
    with pytest.raises(ConfigError, match="corepress migrate makes of a package"):
        palettize_weights(package, config, target="iOS27")
    for dtype, missing in (("int2", "2-bit"), ("fp8_e4m3fn", "fp8_e4m3fn")):
        with pytest.raises(ConfigError, match=f"{missing} quantization is for Core AI models .iOS27."):
            linear_quantize_weights(package, OptimizationConfig(OpLinearQuantizerConfig(dtype=dtype)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: shutil.rmtree(path), "no such file or folder"),
        (lambda path: (path / "main.mlirb").unlink(), "it is no Core AI model"),
        (lambda path: (path / "metadata.json").write_bytes(b"{"), "no metadata of a Core AI model, or damaged"),
        (lambda path: (path / "metadata.json").write_text("[1]"), "no metadata of a Core AI model, or damaged"),
        (
            lambda path: (path / "metadata.json").write_text('{"assetVersion": "3.1"}'),
            "of version 3.1; corepress reads",
        ),
        (lambda path: _cut(path, 100), "damaged or truncated"),
        (lambda path: _flip(path, 1000), "damaged or truncated"),
        (lambda path: _hashed(path, b"nothing"), "damaged or truncated"),
        (lambda path: (_cut(path, 1000), (path / "main.hash").unlink()), "Core AI can't read it"),
    ],
)
def test_bad_input_is_one_sentence(change: Any, message: str, tmp_path: Path) -> None:
    path = layer(tmp_path / "dense.aimodel")
    change(path)
    for load in (corepress.load, corepress.describe, corepress.lint, runtime.load):
        with pytest.raises(FormatError, match=message):
            load(path)


def _cut(path: Path, size: int) -> None:
    content = (path / "main.mlirb").read_bytes()
    (path / "main.mlirb").write_bytes(content[:-size])


def _flip(path: Path, place: int) -> None:
    content = bytearray((path / "main.mlirb").read_bytes())
    content[place] ^= 0xFF
    (path / "main.mlirb").write_bytes(content)


def _hashed(path: Path, content: bytes) -> None:
    (path / "main.mlirb").write_bytes(content)
    (path / "main.hash").write_bytes(hashlib.sha256(content).digest())


def test_a_search_knows_what_outputs_depend_on(tmp_path: Path) -> None:
    path = layer(tmp_path / "dense.aimodel")
    rng = np.random.default_rng(2)
    samples = [{"x": rng.standard_normal((COLUMNS, COLUMNS)).astype(np.float16)} for _ in range(6)]
    found = corepress.search(path, samples, bits=4, points=3)
    assert not any("no output depends on" in note for note in found.notes)
    saved = found.model.save(tmp_path / "small.aimodel")
    assert the_weight(saved).compression and the_weight(saved).bits_per_weight <= 4


def test_what_is_not_saved_runs_as_well(tmp_path: Path) -> None:
    path = layer(tmp_path / "dense.aimodel")
    model = compressed(path, [palettized(nbits=2)])
    [found] = runtime.load(model).predict({"x": np.eye(COLUMNS, dtype=np.float16)}).values()
    assert np.array_equal(np.asarray(found).T, the_weight(model).dense())
    assert not np.array_equal(the_weight(model).dense(), weight())
    assert [file.name for file in tmp_path.iterdir()] == ["dense.aimodel"]


def test_without_the_library_one_sentence_says_what_to_install(tmp_path: Path, monkeypatch: Any) -> None:
    path = layer(tmp_path / "dense.aimodel")
    monkeypatch.setitem(sys.modules, "coreai.authoring", None)
    for load in (corepress.load, corepress.describe, corepress.lint):
        with pytest.raises(MissingDependencyError, match=r"needs coreai-core: pip install 'corepress\[coreai\]'"):
            load(path)
