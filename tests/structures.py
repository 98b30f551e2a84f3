"""Packages with more than one plain function: several functions, pipelines, nested blocks, states."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def _convert(program, target: str):
    import coremltools as ct

    return ct.convert(
        program,
        convert_to="mlprogram",
        minimum_deployment_target=getattr(ct.target, target),
        compute_precision=ct.precision.FLOAT32,
        skip_model_load=True,
    )


def linear_model(
    target: str = "iOS18", seed: int = 0, shared: np.ndarray | None = None, name: str = "x", width: int = 64
):
    """One linear layer, whose weight may be given."""
    import coremltools as ct
    from coremltools.converters.mil.mil import Builder as mb
    from coremltools.converters.mil.mil import types

    weight = np.random.default_rng(seed).normal(size=(64, width)).astype(np.float16) if shared is None else shared

    @mb.program(input_specs=[mb.TensorSpec((1, width), types.fp16)], opset_version=getattr(ct.target, target))
    def program(x):
        return mb.linear(x=mb.relu(x=x, name=f"relu_{name}"), weight=weight, name=f"dense_{name}")

    return _convert(program, target)


def multifunction(folder: Path) -> Path:
    """Two functions that share one weight in the weight file."""
    import coremltools as ct

    weight = np.random.default_rng(3).normal(size=(64, 64)).astype(np.float16)
    description = ct.utils.MultiFunctionDescriptor()
    for name in ("first", "second"):
        path = folder / f"{name}.mlpackage"
        linear_model(shared=weight, name=name).save(str(path))
        description.add_function(str(path), src_function_name="main", target_function_name=name)
    description.default_function_name = "first"
    path = folder / "multifunction.mlpackage"
    ct.utils.save_multifunction(description, str(path))
    return path


def pipeline(folder: Path) -> Path:
    """Two ML programs, one after the other."""
    import coremltools as ct

    stages = []
    for seed in (1, 2):
        model = linear_model(seed=seed, name=f"stage{seed}")
        spec = model.get_spec()
        ct.utils.rename_feature(spec, spec.description.input[0].name, f"t{seed}")
        ct.utils.rename_feature(spec, spec.description.output[0].name, f"t{seed + 1}")
        stages.append(ct.models.MLModel(spec, weights_dir=model.weights_dir, skip_model_load=True))
    made = ct.utils.make_pipeline(*stages)
    path = folder / "pipeline.mlpackage"
    made.save(str(path))
    return path


def nested(folder: Path) -> Path:
    """A `cond` and a `while_loop`, with a weight inside each block and one read from outside."""
    import coremltools as ct
    from coremltools.converters.mil.mil import Builder as mb
    from coremltools.converters.mil.mil import types

    rng = np.random.default_rng(0)

    def weight() -> np.ndarray:
        return rng.normal(size=(64, 64)).astype(np.float32)

    specs = [mb.TensorSpec((1, 64), types.fp32), mb.TensorSpec((1,), types.fp32)]

    @mb.program(input_specs=specs, opset_version=ct.target.iOS18)
    def program(x, flag):
        outer = mb.const(val=weight(), name="outer")
        positive = mb.squeeze(x=mb.greater(x=flag, y=0.0))

        def then():
            return mb.linear(x=mb.linear(x=x, weight=weight(), name="yes"), weight=outer, name="yes2")

        def otherwise():
            return mb.linear(x=x, weight=weight(), name="no")

        y = mb.cond(pred=positive, _true_fn=then, _false_fn=otherwise)

        def check(value):
            return mb.less(x=mb.reduce_sum(x=value, axes=[0, 1]), y=10.0)

        def body(value):
            return mb.linear(x=value, weight=weight(), name="loop")

        return mb.while_loop(_cond=check, _body=body, loop_vars=(y,))

    path = folder / "nested.mlpackage"
    _convert(program, "iOS18").save(str(path))
    return path


def stateful(folder: Path) -> Path:
    """A state that a linear layer's result is added to."""
    import coremltools as ct
    from coremltools.converters.mil.mil import Builder as mb
    from coremltools.converters.mil.mil import types

    weight = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float16)
    specs = [mb.TensorSpec((1, 64), types.fp16), mb.StateTensorSpec((1, 64), types.fp16)]

    @mb.program(input_specs=specs, opset_version=ct.target.iOS18)
    def program(x, state):
        y = mb.add(x=mb.linear(x=x, weight=weight, name="dense"), y=mb.read_state(input=state))
        mb.coreml_update_state(state=state, value=y)
        return mb.identity(x=y)

    path = folder / "stateful.mlpackage"
    _convert(program, "iOS18").save(str(path))
    return path


def classifier(folder: Path) -> Path:
    """Two linear layers and a softmax, whose answer is a label with the probability of each."""
    import coremltools as ct
    from coremltools.converters.mil.mil import Builder as mb
    from coremltools.converters.mil.mil import types

    rng = np.random.default_rng(0)
    first, second = (rng.normal(0, 0.2, size=shape).astype(np.float32) for shape in ((64, 64), (48, 64)))

    @mb.program(input_specs=[mb.TensorSpec((1, 64), types.fp32)], opset_version=ct.target.iOS18)
    def program(x):
        hidden = mb.relu(x=mb.linear(x=x, weight=first, name="first"))
        return mb.softmax(x=mb.linear(x=hidden, weight=second, name="second"), axis=-1, name="scores")

    path = folder / "classifier.mlpackage"
    ct.convert(
        program,
        convert_to="mlprogram",
        minimum_deployment_target=ct.target.iOS18,
        compute_precision=ct.precision.FLOAT32,
        classifier_config=ct.ClassifierConfig([f"class {number}" for number in range(48)]),
        skip_model_load=True,
    ).save(str(path))
    return path
