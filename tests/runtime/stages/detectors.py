"""A detector as exporters write it: a pipeline of an ML program and a model that suppresses boxes that overlap."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

CLASSES = 3
BOXES = 64


def suppression(
    *,
    per_class: bool = True,
    shape: tuple[int, ...] = (),
    rows: tuple[int, int] | None = (0, -1),
    thresholds: bool = True,
) -> Any:
    """Its specification. `shape`, `rows`: what the outputs are described to have; `thresholds`: whether they are inputs
    of the model, too."""
    from coremltools.proto import FeatureTypes_pb2, Model_pb2

    spec = Model_pb2.Model(specificationVersion=5)
    for features, prefix in ((spec.description.input, "raw_"), (spec.description.output, "")):
        for name, width in (("confidence", CLASSES), ("coordinates", 4)):
            array = features.add(name=prefix + name).type.multiArrayType
            array.dataType = FeatureTypes_pb2.ArrayFeatureType.DOUBLE
            if prefix:
                array.shape.extend((BOXES, width))
            elif rows is not None:
                for low, high in (rows, (width, width)):
                    array.shapeRange.sizeRanges.add(lowerBound=low, upperBound=high)
            elif shape:
                array.shape.extend((*shape, width))
    model = spec.nonMaximumSuppression
    model.confidenceInputFeatureName, model.coordinatesInputFeatureName = "raw_confidence", "raw_coordinates"
    model.confidenceOutputFeatureName, model.coordinatesOutputFeatureName = "confidence", "coordinates"
    if thresholds:
        model.iouThresholdInputFeatureName = "iouThreshold"
        model.confidenceThresholdInputFeatureName = "confidenceThreshold"
    model.iouThreshold, model.confidenceThreshold = 0.45, 0.6
    model.pickTop.perClass = per_class
    model.stringClassLabels.vector.extend(["cat", "dog", "bird"])
    return spec


def detector(folder: Path, **options: Any) -> Path:
    """A package whose inputs are an image and, as numbers, the two thresholds. `options`: of `suppression`."""
    import coremltools as ct
    from coremltools.converters.mil.mil import Builder as mb
    from coremltools.proto import Model_pb2

    rng = np.random.default_rng(5)
    # Centers on a grid, 8 x 8, and sizes that make neighbours overlap.
    middle = (np.stack(np.meshgrid(np.arange(8), np.arange(8)), -1).reshape(64, 2) + 0.5) / 8
    grid = np.concatenate([middle, np.full((64, 2), 0.2)], 1).astype(np.float32)
    kernels = (rng.normal(size=(CLASSES + 4, 3, 4, 4)) / 400).astype(np.float32)

    @mb.program(input_specs=[mb.TensorSpec((1, 3, 32, 32))], opset_version=ct.target.iOS15)
    def program(image):
        seen = mb.conv(x=image, weight=kernels, strides=[4, 4], pad_type="valid", name="backbone")
        rows = mb.transpose(x=mb.reshape(x=seen, shape=(CLASSES + 4, BOXES)), perm=[1, 0])
        scores = mb.slice_by_index(x=rows, begin=[0, 0], end=[BOXES, CLASSES])
        shifts = mb.slice_by_index(x=rows, begin=[0, CLASSES], end=[BOXES, CLASSES + 4])
        return (
            mb.sigmoid(x=scores, name="raw_confidence"),
            mb.add(x=mb.mul(x=shifts, y=np.float32(0.01)), y=grid, name="raw_coordinates"),
        )

    detecting = ct.convert(
        program,
        inputs=[ct.ImageType("image", (1, 3, 32, 32))],
        minimum_deployment_target=ct.target.iOS15,
        compute_precision=ct.precision.FLOAT32,
        skip_model_load=True,
    )
    last = suppression(**options)
    whole = Model_pb2.Model(specificationVersion=5)  # while that of the program is 6
    whole.description.input.extend(detecting.get_spec().description.input)
    for name in ("iouThreshold", "confidenceThreshold"):
        whole.description.input.add(name=name).type.doubleType.SetInParent()
    whole.description.output.extend(last.description.output)
    whole.pipeline.models.extend((detecting.get_spec(), last))
    whole.pipeline.names.extend(("detector", "suppression"))
    path = folder / "detector.mlpackage"
    ct.models.MLModel(whole, weights_dir=detecting.weights_dir, skip_model_load=True).save(str(path))
    return path
