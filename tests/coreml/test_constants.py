"""Constants that only operations read which compute with numbers one by one: a detector's anchors and strides."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import corepress
import corepress.coreml as cto
from corepress import recipe
from corepress.coreml import calibrated
from corepress.coreml.readers import MOVES, read_by_product
from corepress.opsets import KNOWN

BOXES = 64 * 64 + 32 * 32 + 16 * 16  # of an image of 512 x 512
INT8 = cto.OpLinearQuantizerConfig(weight_threshold=500)
PALETTE = cto.OpPalettizerConfig(nbits=4, weight_threshold=500)
SPARSE = cto.OpMagnitudePrunerConfig(target_sparsity=0.5, weight_threshold=500)


def built(path: Path, specs: dict[str, tuple[int, ...]], body: Callable[..., Any]) -> Path:
    """A package of iOS18 in float32, whose inputs have these shapes."""
    import coremltools as ct
    from coremltools.converters.mil.mil import Builder as mb

    inputs = [mb.TensorSpec(shape) for shape in specs.values()]
    program = mb.program(input_specs=inputs, opset_version=ct.target.iOS18)(body)
    model = ct.convert(
        program, convert_to="mlprogram", minimum_deployment_target=ct.target.iOS18,
        compute_precision=ct.precision.FLOAT32, skip_model_load=True,
    )  # fmt: skip
    model.save(str(path))
    return path


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The last layers of a YOLO: distances from a convolution, from anchors, times strides."""
    from coremltools.converters.mil.mil import Builder as mb

    rng = np.random.default_rng(0)
    sizes = [(64, 8), (32, 16), (16, 32)]
    grids = [np.stack(np.meshgrid(np.arange(n), np.arange(n)), 0).reshape(2, -1) + 0.5 for n, _ in sizes]
    anchors = np.concatenate(grids, 1)[None].astype(np.float32)
    strides = np.concatenate([np.full(n * n, s) for n, s in sizes])[None].astype(np.float32)

    def body(x: Any) -> Any:
        y = mb.conv(x=x, weight=(rng.standard_normal((4, 256, 1)) * 0.05).astype(np.float32), name="distances")
        near, far = mb.split(x=y, num_splits=2, axis=1)
        corners = [mb.sub(x=anchors, y=near, name="first"), mb.add(x=anchors, y=far, name="second")]
        return mb.mul(x=mb.concat(values=corners, axis=1), y=strides, name="boxes")

    return built(tmp_path_factory.mktemp("head") / "head.mlpackage", {"x": (1, 256, BOXES)}, body)


def boxes(model: Any) -> np.ndarray:
    from corepress import runtime

    x = np.random.default_rng(1).standard_normal((1, 256, BOXES)).astype(np.float32)
    (answer,) = runtime.load(model).predict({"x": x}).values()
    return answer


def compressed_names(model: Any) -> set[str]:
    return {weight.name for weight in model.weights() if weight.compression}


@pytest.mark.parametrize(
    ("function", "held"),
    [(cto.linear_quantize_weights, INT8), (cto.palettize_weights, PALETTE), (cto.prune_weights, SPARSE)],
)
def test_spared_constants_keep_the_boxes_in_place(head, tmp_path, caplog, function, held) -> None:
    pytest.importorskip("torch")
    everywhere = cto.OptimizationConfig(held)
    with caplog.at_level(logging.WARNING):
        careful = function(head, everywhere, spare_constants=True)
    assert "spare_constants" not in caplog.text
    with caplog.at_level(logging.WARNING):
        plain = function(head, everywhere)
    (warning,) = (m for m in caplog.messages if "spare_constants=True" in m)
    named = compressed_names(plain) - compressed_names(careful)
    assert len(named) == 2 and all(f'"{name}"' in warning for name in named)
    assert compressed_names(careful) == {"distances_weight_0"}
    for (_, output), reason in careful.skipped.items():
        assert output not in named or "spare_constants=False compresses it" in reason

    exact, moved, kept = boxes(head), boxes(plain.save(tmp_path / "plain.mlpackage").path), boxes(
        careful.save(tmp_path / "careful.mlpackage").path
    )  # fmt: skip
    # The only error left is that of the convolution, which is there in the plain result, too.
    layer = function(head, cto.OptimizationConfig(None, {"conv": held}))
    assert (kept == boxes(layer.save(tmp_path / "layer.mlpackage").path)).all()
    error, spared = np.abs(moved - exact).max(), np.abs(kept - exact).max()
    assert error > 1.3 * spared
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        asked = function(head, everywhere, spare_constants=False)
    assert compressed_names(asked) == compressed_names(plain) and "spare_constants" not in caplog.text


def test_what_the_configuration_names_exactly_is_not_spared(head) -> None:
    (anchors,) = (w.name for w in corepress.load(head).weights() if w.shape == (1, 2, BOXES))
    for name, hit in ((anchors, True), ("second", True), ("f*", False)):
        config = cto.OptimizationConfig(None, {"conv": INT8}, {"first": INT8, name: INT8} if hit else {name: INT8})
        model = cto.linear_quantize_weights(head, config, spare_constants=True)
        assert (anchors in compressed_names(model)) is hit


def test_recipes_and_calibrated_functions_spare_them_too(head) -> None:
    steps = recipe.parse({"steps": [{"quantize": {"weight_threshold": 500}}]})
    assert len(compressed_names(recipe.run(head, steps))) == 3
    assert compressed_names(recipe.run(head, steps, spare_constants=True)) == {"distances_weight_0"}
    pytest.importorskip("torch")
    samples = [{"x": np.random.default_rng(n).standard_normal((1, 256, BOXES)).astype(np.float32)} for n in range(2)]
    config = cto.OptimizationConfig(INT8)
    fitted = calibrated.linear_quantize_weights(head, config, samples, spare_constants=True)
    assert compressed_names(fitted) == {"distances_weight_0"}


WEIGHT = np.random.default_rng(0).standard_normal((1, 64, 64)).astype(np.float32)


def readers() -> dict[str, tuple[Callable[..., Any], bool]]:
    from coremltools.converters.mil.mil import Builder as mb

    half = WEIGHT[:, :32]
    return {
        "matmul": (lambda x: mb.matmul(x=x, y=WEIGHT), True),
        "look-up": (lambda x: mb.gather(x=WEIGHT, indices=mb.cast(x=mb.reduce_max(x=x), dtype="int32"), axis=1), True),
        "concat, then matmul": (lambda x: mb.matmul(x=mb.concat(values=[mb.relu(x=x), WEIGHT], axis=1), y=x), True),
        "attention": (lambda x: mb.scaled_dot_product_attention(query=x, key=WEIGHT, value=x), True),
        "mask of attention": (
            lambda x: mb.scaled_dot_product_attention(query=x, key=x, value=x, attn_mask=WEIGHT), False,
        ),
        "add": (lambda x: mb.add(x=x, y=WEIGHT), False),
        "comparison": (lambda x: mb.greater(x=x, y=WEIGHT), False),
        "select": (lambda x: mb.select(cond=mb.greater(x=x, y=0.0), a=x, b=WEIGHT), False),
        "concat, then mul": (lambda x: mb.mul(x=mb.concat(values=[x, half], axis=1), y=2.0), False),
        "add, then matmul": (lambda x: mb.matmul(x=mb.add(x=x, y=WEIGHT), y=x), False),
        "add and matmul": (lambda x: mb.matmul(x=mb.add(x=x, y=WEIGHT), y=WEIGHT), True),
    }  # fmt: skip


@pytest.mark.parametrize(
    "name",
    ["matmul", "look-up", "concat, then matmul", "attention", "mask of attention", "add", "comparison", "select",
     "concat, then mul", "add, then matmul", "add and matmul"],
)  # fmt: skip
def test_what_counts_as_read_by_a_product(tmp_path, name) -> None:
    body, expected = readers()[name]
    model = corepress.load(built(tmp_path / "net.mlpackage", {"x": (1, 64, 64)}, lambda x: body(x)))
    (weight,) = (w for w in model.weights() if w.dtype == "float32" and w.size >= 2048)
    assert read_by_product(weight) is expected


def test_the_table_speaks_of_operations_that_there_are() -> None:
    products = {name for name, known in KNOWN.items() if known.sums or known.table}
    assert products and set(KNOWN) >= MOVES
    assert not products & MOVES


def test_an_operation_that_is_not_known_may_be_a_product(tmp_path) -> None:
    from coremltools.converters.mil.mil import Builder as mb

    model = corepress.load(built(tmp_path / "net.mlpackage", {"x": (1, 64, 64)}, lambda x: mb.add(x=x, y=WEIGHT)))
    (weight,) = (w for w in model.weights() if w.dtype == "float32" and w.size >= 2048)
    (reader,) = (use.node for use in weight.node.uses)
    assert not read_by_product(weight)
    reader.op.type = "multiply_of_some_later_system"
    assert read_by_product(weight)


def test_what_is_computed_of_constants_alone_is_a_weight(tmp_path) -> None:
    """As weight norm is, where nobody folded it; the converter of this test would."""
    from coremltools.converters.mil.mil import Builder as mb

    body = lambda x: mb.matmul(x=mb.mul(x=x, y=WEIGHT, name="product"), y=x)  # noqa: E731
    model = corepress.load(built(tmp_path / "net.mlpackage", {"x": (1, 64, 64)}, body))

    def weight() -> Any:
        (found,) = (w for w in model.weights() if w.dtype == "float32" and w.size >= 2048)
        return found

    assert not read_by_product(weight())
    (product,) = (use.node for use in weight().node.uses)
    for entry in product.op.inputs:
        if entry.key == "x":
            entry.value.arguments[0].name = weight().output
    assert read_by_product(weight())


@pytest.fixture(scope="module")
def rotating(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A word's vector, turned by the angle of its place as in a decoder that reads one token, and scored."""
    from coremltools.converters.mil.mil import Builder as mb

    rng = np.random.default_rng(0)

    def table(name: str, rows: int) -> Any:
        return mb.const(val=rng.standard_normal((rows, 64)).astype(np.float32), name=name)

    def body(word: Any, place: Any) -> Any:
        word, place = (mb.cast(x=x, dtype="int32") for x in (word, place))
        scaled = mb.mul(x=mb.gather(x=table("words", 40), indices=word, axis=0), y=np.float32(8))
        cosine = mb.gather(x=table("cosines", 32), indices=place, axis=0)
        turned = mb.mul(x=scaled, y=mb.expand_dims(x=cosine, axes=[0]))
        return mb.linear(x=turned, weight=table("scores", 48), name="scores")

    return built(tmp_path_factory.mktemp("rotating") / "rotating.mlpackage", {"word": (1,), "place": (1,)}, body)


def test_angles_that_are_looked_up_by_place_are_no_weights_and_words_are(rotating: Path) -> None:
    found = {
        weight.output: read_by_product(weight) for weight in corepress.load(rotating).weights() if weight.size > 99
    }
    assert {name.split("_")[0]: read for name, read in found.items()} == {
        "words": True, "cosines": False, "scores": True,
    }  # fmt: skip


def test_what_is_fitted_to_samples_leaves_them_plain(rotating: Path) -> None:
    samples = [{"word": np.float32([i % 40]), "place": np.float32([i % 32])} for i in range(12)]
    for method, config in (
        (calibrated.palettize_weights, PALETTE),
        (calibrated.linear_quantize_weights, INT8),
        (calibrated.prune_weights, SPARSE),
    ):
        config = cto.OptimizationConfig(config)
        plain = {w.output for w in method(rotating, config, samples).weights() if not w.compression and w.size > 99}
        assert [name.split("_")[0] for name in plain] == ["cosines"]
        everything = method(rotating, config, samples, spare_constants=False)
        assert all(weight.compression for weight in everything.weights() if weight.size > 99)
