"""Neural networks of iOS 15 and older, pipelines and images, migrated."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import corepress
from corepress import runtime
from corepress.neural_network.quantization_utils import quantize_weights
from tests.migrating.test_activations import operations
from tests.runtime.networks.test_networks import convert

pytest.importorskip("coreai_torch")


@pytest.mark.parametrize(
    "name", ["autoencoder", *(pytest.param(n, marks=pytest.mark.slow) for n in ("resnet", "bert", "unet", "diffusion"))]
)
def test_answers_are_pytorchs(name: str, tmp_path: Path) -> None:
    inputs, expected = convert(name, tmp_path / "old.mlmodel")
    corepress.migrate(tmp_path / "old.mlmodel", tmp_path / "new.aimodel")
    found = runtime.load(tmp_path / "new.aimodel").predict(inputs)["result"]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("bits", "mode"), [(3, "kmeans_lut"), (3, "linear"), pytest.param(8, "linear", marks=pytest.mark.slow)]
)
def test_quantized_weights_stay_quantized(bits: int, mode: str, tmp_path: Path) -> None:
    inputs, _ = convert("autoencoder", tmp_path / "old.mlmodel")
    small = quantize_weights(tmp_path / "old.mlmodel", nbits=bits, quantization_mode=mode)
    small.save(tmp_path / "small.mlmodel")
    found = corepress.migrate(tmp_path / "small.mlmodel", tmp_path / "small.aimodel")
    assert found.compressed == len([weight for weight in small.weights() if weight.form in ("lut", "linear")])
    assert ("integers take 4 or 8 bits" in str(found.notes)) == ((bits, mode) == (3, "linear"))
    ours, theirs = (
        runtime.load(tmp_path / name).predict(inputs)["result"] for name in ("small.mlmodel", "small.aimodel")
    )
    np.testing.assert_allclose(theirs, ours, rtol=1e-5, atol=1e-6)
    stored = operations(tmp_path / "small.aimodel")
    assert stored.get("lut_to_dense", 0) + stored.get("blockwise_shift_scale", 0) == found.compressed > 4


def pictures(folder: Path) -> Path:
    """A picture in, as BGR with a scale and a bias for each channel, and its negative out, as RGB."""
    import coremltools as ct
    from coremltools.converters.mil.mil import Builder as mb
    from coremltools.converters.mil.mil import types

    @mb.program(input_specs=[mb.TensorSpec((1, 3, 8, 12), types.fp32)], opset_version=ct.target.iOS16)
    def program(x):
        return mb.sub(x=np.float32(1), y=x)

    image = ct.ImageType("x", scale=1 / 255, bias=[0.1, 0.0, -0.1], color_layout=ct.colorlayout.BGR)
    model = ct.convert(
        program, inputs=[image], convert_to="mlprogram", minimum_deployment_target=ct.target.iOS16,
        compute_precision=ct.precision.FLOAT32, skip_model_load=True,
    )  # fmt: skip
    model.save(str(folder / "pictures.mlpackage"))
    return folder / "pictures.mlpackage"


def test_a_picture_stays_one_for_those_who_read_the_metadata(tmp_path: Path) -> None:
    from PIL import Image

    package = pictures(tmp_path)
    found = corepress.migrate(package, tmp_path / "pictures.aimodel")
    assert [note for note in found.notes if "image 'x'" in note and "bgr" in note]
    theirs, ours = runtime.load(tmp_path / "pictures.aimodel"), runtime.load(package)
    feature = theirs.interface.inputs[0]
    assert (feature.kind, feature.color, feature.shape) == ("image", "bgr", (1, 3, 8, 12))
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (8, 12, 3), np.uint8))
    one, other = ours.predict({"x": picture}), theirs.predict({"x": picture})
    for name, expected in one.items():
        np.testing.assert_allclose(other[name], expected, rtol=1e-5, atol=1e-5)
    assert corepress.verify(package, tmp_path / "pictures.aimodel", [{"x": picture}]).ok
