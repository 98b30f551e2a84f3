"""Packages as older converters wrote them."""

from __future__ import annotations

import shutil
import struct
from pathlib import Path

import numpy as np

from tests.structures import _convert

WEIGHTS = "Data/com.apple.CoreML/weights/weight.bin"
# Data types of blobs that fill their bytes; the others are narrower than a byte, and came with coremltools 8.
_WHOLE_BYTES = frozenset({1, 2, 3, 4, 5, 6, 7, 14, 15, 16})


def as_coremltools_7(source: Path, destination: Path, *, header: bool = False) -> Path:
    """A copy whose blob records hold what happened to be in memory: in the field of unused bits and in the reserved
    bytes, as coremltools 7.0 to 7.2 left them. `header`: also in the file's header, where they left zeros."""
    shutil.copytree(source, destination)
    content = bytearray((destination / WEIGHTS).read_bytes())
    rng = np.random.default_rng(7)
    if header:
        content[:4] = rng.bytes(4)
        content[8:64] = rng.bytes(56)
    position = 64
    while position + 64 <= len(content):
        sentinel, kind, nbytes, start = struct.unpack_from("<IIQQ", content, position)
        assert sentinel == 0xDEADBEEF
        if kind in _WHOLE_BYTES:
            content[position + 24 : position + 32] = rng.bytes(8)
        content[position + 32 : position + 64] = rng.bytes(32)
        position = start + nbytes + -(start + nbytes) % 64
    (destination / WEIGHTS).write_bytes(content)
    return destination


def detector(folder: Path, program_target: str = "iOS16", pipeline_version: int = 5) -> Path:
    """A detector as exporters with coremltools 7 wrote it: a pipeline of an ML program and of a suppression of
    overlapping boxes, whose own specification is older than the program's."""
    import coremltools as ct
    from coremltools.converters.mil.mil import Builder as mb
    from coremltools.converters.mil.mil import types
    from coremltools.proto import Model_pb2

    rng = np.random.default_rng(0)

    @mb.program(input_specs=[mb.TensorSpec((1, 64), types.fp32)], opset_version=getattr(ct.target, program_target))
    def program(x):
        boxes = mb.linear(x=x, weight=rng.normal(size=(64, 64)).astype(np.float32), name="boxes")
        scores = mb.linear(x=x, weight=rng.normal(size=(48, 64)).astype(np.float32), name="scores")
        return (
            mb.sigmoid(x=mb.reshape(x=scores, shape=(16, 3)), name="raw_confidence"),
            mb.sigmoid(x=mb.reshape(x=boxes, shape=(16, 4)), name="raw_coordinates"),
        )

    detecting = _convert(program, program_target)
    spec = detecting.get_spec()
    suppression = Model_pb2.Model(specificationVersion=pipeline_version)
    for names in ((suppression.description.input, "raw_"), (suppression.description.output, "")):
        for name, width in (("confidence", 3), ("coordinates", 4)):
            array = names[0].add(name=names[1] + name).type.multiArrayType
            array.dataType = ct.proto.FeatureTypes_pb2.ArrayFeatureType.DOUBLE
            array.shape.extend((16, width))
    part = suppression.nonMaximumSuppression
    part.confidenceInputFeatureName, part.coordinatesInputFeatureName = "raw_confidence", "raw_coordinates"
    part.confidenceOutputFeatureName, part.coordinatesOutputFeatureName = "confidence", "coordinates"
    part.iouThreshold, part.confidenceThreshold = 0.45, 0.25
    part.pickTop.perClass = True
    part.stringClassLabels.vector.extend(("cat", "dog", "bird"))
    whole = Model_pb2.Model(specificationVersion=pipeline_version)
    whole.description.input.extend(spec.description.input)
    whole.description.output.extend(suppression.description.output)
    whole.pipeline.models.extend((spec, suppression))
    whole.pipeline.names.extend(("detector", "nonMaximumSuppression"))
    path = folder / "detector.mlpackage"
    ct.models.MLModel(whole, weights_dir=detecting.weights_dir, skip_model_load=True).save(str(path))
    return path
