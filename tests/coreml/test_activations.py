"""`linear_quantize_activations`: the peer's pairs in the peer's places, and what the peer gets wrong done right."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import corepress.coreml as cto
from corepress import ConfigError, load
from corepress.coreml.experimental import OpActivationLinearQuantizerConfig as Config
from corepress.coreml.experimental.observers import OBSERVERS
from corepress.mlprogram.program import nodes
from corepress.mlprogram.values import read_tensor
from corepress.runtime import load as run
from tests.oracle import peer_program
from tests.structures import _convert

torch.set_num_threads(1)
EXAMPLES = Path(__file__).parents[2] / "examples"


def everywhere(**arguments) -> cto.OptimizationConfig:
    return cto.OptimizationConfig(global_config=Config(**arguments))


def weight(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(0, 0.2, shape)


def residual(mb, x, w):
    a = mb.relu(x=mb.conv(x=x, weight=w(4, 4, 3, 3), pad_type="same", name="conv_a"), name="relu_a")
    b = mb.conv(x=a, weight=w(4, 4, 3, 3), pad_type="same", name="conv_b")
    c = mb.relu(x=mb.add(x=b, y=a, name="sum"), name="relu_c")
    return mb.mul(x=c, y=c, name="out")


def linear(mb, x, w):
    a = mb.linear(x=mb.reshape(x=x, shape=(1, 256)), weight=w(16, 256), name="first")
    b = mb.add(x=mb.sigmoid(x=a, name="sigmoid"), y=w(1, 16), name="shift")
    c = mb.linear(x=b, weight=w(8, 16), name="second")
    return mb.linear(x=mb.softmax(x=c, name="softmax"), weight=w(4, 8), name="third")


def pools(mb, x, w):
    a = mb.relu(x=mb.conv(x=x, weight=w(8, 4, 3, 3), name="conv"), name="relu")
    b = mb.max_pool(x=a, kernel_sizes=(2, 2), strides=(2, 2), pad_type="valid", name="max")
    c = mb.avg_pool(x=b, kernel_sizes=(3, 3), strides=(1, 1), pad_type="valid", name="avg")
    return mb.linear(x=mb.reshape(x=c, shape=(1, 8), name="flat"), weight=w(3, 8), name="head")


def concat(mb, x, w):
    a = mb.relu(x=mb.conv(x=x, weight=w(4, 4, 1, 1), name="left"), name="left_relu")
    b = mb.conv(x=x, weight=w(6, 4, 1, 1) * 4, name="right")
    c = mb.concat(values=[a, b], axis=1, name="joined")
    d = mb.conv(x=c, weight=w(4, 10, 1, 1), name="mix")
    return mb.concat(values=[d, x], axis=1, name="out")


def unquantized_ends(mb, x, w):
    """Activation functions that end the program, a value added to itself, and readers of several kinds."""
    a = mb.conv(x=x, weight=w(4, 4, 1, 1), name="fork")
    b = mb.add(x=a, y=a, name="twice")
    c = mb.tanh(x=a, name="tanh")
    d = mb.conv(x=mb.mul(x=b, y=c, name="product"), weight=w(4, 4, 1, 1), name="last")
    return mb.relu(x=d, name="out")


NETS = (residual, linear, pools, concat, unquantized_ends)


def package_of(tmp_path: Path, build, target: str = "iOS17", dtype: str = "float16") -> Path:
    import coremltools as ct
    from coremltools.converters.mil.mil import Builder as mb
    from coremltools.converters.mil.mil import types

    kind = types.fp16 if dtype == "float16" else types.fp32

    @mb.program(input_specs=[mb.TensorSpec((1, 4, 8, 8), kind)], opset_version=getattr(ct.target, target))
    def program(x):
        return build(mb, x, lambda *shape: weight(*shape).astype(dtype))

    path = tmp_path / "source.mlpackage"
    _convert(program, target).save(str(path))
    return path


def samples(count: int = 1, seed: int = 0) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    return [{"x": rng.normal(0.3, 1, (1, 4, 8, 8)).astype(np.float32)} for _ in range(count)]


def observed(path: Path, sample) -> dict[str, dict[str, float]]:
    """The range of every value, as the peer keeps it."""
    found = {}

    def observe(name, value) -> None:
        found[name] = {"rmin": float(value.min()), "rmax": float(value.max())}

    observe("x", sample["x"])
    run(path).predict(sample, observe=observe)
    return found


def peer_quantized(path: Path, sample, op_config, **type_configs):
    """The peer's program after its passes, with the ranges of one sample."""
    import coremltools as ct
    import coremltools.optimize.coreml as peer
    from coremltools.converters.mil.frontend.milproto.load import load as load_program
    from coremltools.converters.mil.mil.passes.graph_pass import PassOption
    from coremltools.converters.mil.mil.passes.pass_registry import PASS_REGISTRY
    from coremltools.optimize import _utils
    from coremltools.optimize.coreml.experimental._model_debugger import ModelDebugger

    model = ct.models.MLModel(str(path), skip_model_load=True)
    stats = observed(path, sample)
    _utils._adjust_concat_surrounding_activation_stats(ModelDebugger(model)._get_concat_op_info(), stats)
    program = load_program(model.get_spec(), max(8, model.get_spec().specificationVersion), model.weights_dir)
    config = peer.OptimizationConfig(
        global_config=peer.experimental.OpActivationLinearQuantizerConfig(**op_config), op_type_configs=type_configs
    )
    for name in ("prefix", "suffix"):
        graph_pass = PASS_REGISTRY[f"compression::insert_{name}_quantize_dequantize_pair"]
        graph_pass.set_options([PassOption("config", config), PassOption("activation_stats", stats)])
        graph_pass.apply(program)
    follow = ["dequantize_quantize_pair_elimination", "dead_code_elimination", "remove_redundant_ops"]
    if op_config == SYMMETRIC:  # a zero point of 0 and none are the same; the peer merges such pairs after this
        follow.insert(0, "nullify_redundant_quantization_zero_point")
    for name in follow:
        PASS_REGISTRY[f"common::{name}"].apply(program)
    return program


def structure(program) -> dict[str, list]:
    """For every operation, by name, what it reads, through which pairs."""
    (function,) = program.functions.values()

    def source(var):
        if var.op is None or var.op.op_type not in ("quantize", "dequantize"):
            return var.name if var.op is None else var.op.name
        zero_point = 0 if var.op.zero_point is None else int(var.op.zero_point.val)
        assert var.op.scale.shape == () and (var.op.zero_point is None or var.op.zero_point.shape == ())
        dtype = var.op.output_dtype.val if var.op.op_type == "quantize" else var.op.scale.val.dtype.name
        return (var.op.op_type, float(var.op.scale.val), zero_point, dtype, source(var.op.input))

    def inputs(op):
        listed = (v for value in op.inputs.values() for v in (value if isinstance(value, (tuple, list)) else [value]))
        return [source(v) for v in listed if v is not None and (v.op is None or v.op.op_type != "const")]

    kept = [op for op in function.operations if op.op_type not in ("const", "quantize", "dequantize")]
    return {op.name: inputs(op) for op in kept} | {
        "outputs": [source(v) for v in function.outputs],
        "pairs": [op.op_type for op in function.operations if "quantize" in op.op_type],
    }


def alike(ours, theirs) -> bool:
    """The same, but for roundings of the peer, which computes in float16."""
    if isinstance(ours, (tuple, list)):
        return len(ours) == len(theirs) and all(map(alike, ours, theirs))
    if isinstance(ours, float):
        return abs(ours - theirs) <= 2e-3 * abs(theirs)
    return abs(ours - theirs) <= 1 if isinstance(ours, int) else ours == theirs


SYMMETRIC = {"mode": "linear_symmetric"}
MODES = (
    SYMMETRIC,
    {"mode": "linear_symmetric", "dtype": "uint8"},
    {"mode": "linear"},
    {"mode": "linear", "dtype": "uint8"},
)


@pytest.mark.parametrize("op_config", MODES, ids=str)
@pytest.mark.parametrize("build", NETS, ids=lambda build: build.__name__)
def test_the_pairs_are_those_of_the_peer(tmp_path, build, op_config) -> None:
    path = package_of(tmp_path, build)
    sample = samples()[0]
    cto.linear_quantize_activations(path, everywhere(**op_config), [sample]).save(tmp_path / "ours.mlpackage")
    ours, theirs = (
        structure(peer_program(tmp_path / "ours.mlpackage")),
        structure(peer_quantized(path, sample, op_config)),
    )
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert alike(ours[name], theirs[name]), (name, ours[name], theirs[name])
    assert ours["pairs"]


@pytest.mark.parametrize("kind", ["add", "conv"])
def test_types_of_operations_can_be_left_out_as_in_the_peer(tmp_path, kind) -> None:
    path = package_of(tmp_path, residual)
    sample = samples()[0]
    config = everywhere()
    config.set_op_type(kind, None)
    cto.linear_quantize_activations(path, config, [sample]).save(tmp_path / "ours.mlpackage")
    theirs = structure(peer_quantized(path, sample, SYMMETRIC, **{kind: None}))
    ours = structure(peer_program(tmp_path / "ours.mlpackage"))
    assert ours.keys() == theirs.keys() and all(alike(ours[name], theirs[name]) for name in ours)


def scale_of(model, value: str) -> float:
    """The scale with which a value is quantized."""
    (node,) = (n for n in nodes(model.spec) if n.type == "quantize" and n.operand("input").node is not None
               and n.operand("input").node.op.outputs[0].name == value or
               n.type == "quantize" and n.operand("input").name == value)  # fmt: skip
    return float(read_tensor(node.operand("scale").value, model, value))


def kinds(model) -> list[str]:
    return [node.type for node in nodes(model.spec) if not node.is_const]


@pytest.mark.parametrize("observer", OBSERVERS)
def test_all_samples_count_and_not_only_the_last(tmp_path, observer) -> None:
    path = package_of(tmp_path, linear)
    wide = {"x": np.linspace(-100, 100, 256).reshape(1, 4, 8, 8)}
    narrow = {"x": np.linspace(-1, 1, 256).reshape(1, 4, 8, 8)}
    model = cto.linear_quantize_activations(path, everywhere(), [wide, narrow, narrow], observer=observer)
    (first,) = (n for n in nodes(model.spec) if n.name == "first")
    source = first.operand("x").node.operand("input").node.operand("input").node.op.outputs[0].name
    scale = scale_of(model, source)
    assert {"min_max": 99 / 127, "moving_average": 60 / 127}.get(observer, 20 / 127) < scale <= 101 / 127


def test_the_order_of_samples_does_not_matter(tmp_path) -> None:
    path = package_of(tmp_path, residual)
    given = samples(4)
    forth = cto.linear_quantize_activations(path, everywhere(mode="linear"), given)
    back = cto.linear_quantize_activations(path, everywhere(mode="linear"), given[::-1])
    assert forth.spec == back.spec


@pytest.mark.parametrize("target", ["iOS15", "iOS16", "iOS17", "iOS18"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_every_target_and_both_precisions(tmp_path, target, dtype) -> None:
    if (target, dtype) == ("iOS15", "float16"):
        pytest.skip("inputs of iOS15 are float32")
    path = package_of(tmp_path, residual, target, dtype)
    given = samples(3)
    exact = run(path)
    for mode in ("linear", "linear_symmetric"):
        model = cto.linear_quantize_activations(path, everywhere(mode=mode), given)
        model.save(tmp_path / "ours.mlpackage", overwrite=True)
        assert model.spec_version == max(8, load(path).spec_version)
        assert f"'{dtype}'" in str(structure(peer_program(tmp_path / "ours.mlpackage")))
        (expected,), (found,) = exact.predict(given[0]).values(), run(model).predict(given[0]).values()
        assert np.abs(expected - found).max() < 0.05 * np.abs(expected).max()


@pytest.mark.parametrize("op_config", MODES, ids=str)
def test_large_and_tiny_and_zero_activations_in_float16(tmp_path, op_config) -> None:
    def ends(mb, x, w):
        return mb.add(x=x, y=mb.mul(x=x, y=np.float16(0.5), name="half"), name="out")

    path = package_of(tmp_path, ends)
    for reach in (40000.0, 1e-6, 0.0):
        values = np.linspace(-reach, reach, 256).reshape(1, 4, 8, 8).astype(np.float32)
        model = cto.linear_quantize_activations(path, everywhere(**op_config), [{"x": values}])
        (found,) = run(model).predict({"x": values}).values()
        expected = values.astype(np.float16).astype(np.float32) * 1.5
        assert np.abs(found.astype(np.float32) - expected).max() <= max(0.02 * reach, 1e-7)


def test_generators_and_inputs_without_a_name(tmp_path) -> None:
    path = package_of(tmp_path, pools)
    given = samples(3)
    expected = cto.linear_quantize_activations(path, everywhere(), given).spec
    unnamed = [{None: sample["x"]} for sample in given]
    steps = []
    for samples_ in (iter(given), tuple(given), unnamed, (s for s in unnamed)):
        model = cto.linear_quantize_activations(
            path, everywhere(), samples_, 1, workers=1, progress=lambda *step: steps.append(step[:2])
        )
        assert model.spec == expected
    assert None in unnamed[0] and steps[:4] == [(1, 0), (2, 0), (3, 0), (1, 3)]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([{"y": np.zeros((1, 4, 8, 8))}], "sample 1 .* no input 'y'; the inputs are x"),
        ([{}], "sample 1 .*'x' is missing"),
        ([{"x": np.zeros((1, 4, 8, 9))}], "sample 1 .*1x4x8x9"),
        ([{"x": np.full((1, 4, 8, 8), np.nan)}], "sample 1 .*'x' holds NaN"),
        ([{"x": np.full((1, 4, 8, 8), 1e9)}], "sample 1 .*'x' holds NaN or infinite"),
        ([np.zeros((1, 4, 8, 8))], "sample 1 .*dictionary"),
        ([{None: 1, "x": 2}], "sample 1 .*None"),
    ],
)
def test_a_bad_sample_is_named(tmp_path, bad, message) -> None:
    path = package_of(tmp_path, pools)
    with pytest.raises(ConfigError, match=message):
        cto.linear_quantize_activations(path, everywhere(), samples() + bad)


def test_bad_arguments(tmp_path) -> None:
    path = package_of(tmp_path, pools)
    for message, arguments in {
        "sample_data is empty": (everywhere(), []),
        "sample_data must be a list": (everywhere(), samples()[0]),
        "int8 or uint8 only": (everywhere(dtype="int4"), samples()),
        "only accept OpLinearQuantizerConfig": (
            cto.OptimizationConfig(global_config=cto.OpThresholdPrunerConfig()),
            samples(),
        ),
    }.items():
        with pytest.raises(ConfigError, match=message):
            cto.linear_quantize_activations(path, *arguments)
    with pytest.raises(ConfigError, match='Did you mean "min_max"'):
        cto.linear_quantize_activations(path, everywhere(), samples(), observer="minmax")
    with pytest.raises(ConfigError, match="no function 'other'"):
        cto.linear_quantize_activations(path, everywhere(), samples(), function="other")


def test_without_torch_one_sentence_says_what_to_install(tmp_path) -> None:
    path = package_of(tmp_path, pools)
    code = f"""
import sys
sys.modules["torch"] = None
import corepress.coreml as cto
config = cto.OptimizationConfig(global_config=cto.experimental.OpActivationLinearQuantizerConfig())
try:
    cto.linear_quantize_activations({str(path)!r}, config, [])
except cto.experimental.activations.ConfigError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "calibration runs the model with PyTorch: install 'corepress[torch]'\n"


def test_the_input_stays_as_it_is_and_a_second_call_adds_nothing(tmp_path) -> None:
    import coremltools as ct

    path = package_of(tmp_path, residual)
    model = load(path)
    before = model.spec.SerializeToString()
    once = cto.linear_quantize_activations(model, everywhere(), samples())
    assert model.spec.SerializeToString() == before and once.origin is model
    assert kinds(cto.linear_quantize_activations(once, everywhere(), samples())) == kinds(once)
    peer = ct.models.MLModel(str(path), skip_model_load=True)
    assert isinstance(cto.linear_quantize_activations(peer, everywhere(), samples()), ct.models.MLModel)


def test_a_part_of_the_operations_first_and_the_rest_later(tmp_path) -> None:
    path = package_of(tmp_path, residual)
    config = everywhere()
    config.set_op_name("sum", None)
    part = cto.linear_quantize_activations(path, config, samples())
    whole = cto.linear_quantize_activations(path, everywhere(), samples())
    assert sorted(kinds(cto.linear_quantize_activations(part, everywhere(), samples()))) == sorted(kinds(whole))


def test_operations_may_differ_in_their_configuration(tmp_path) -> None:
    path = package_of(tmp_path, residual)
    config = everywhere()
    config.set_op_name("conv_b", Config(mode="linear", dtype="uint8"))
    cto.linear_quantize_activations(path, config, samples()).save(tmp_path / "ours.mlpackage")
    found = structure(peer_program(tmp_path / "ours.mlpackage"))
    kind, _, _, _, inner = found["conv_b"][0]
    assert kind == "dequantize" and inner[0] == "quantize" and inner[3] == "uint8" and "int8" in str(inner[4])
    assert "uint8" not in str(found["sum"][1])


def test_an_infinite_activation_is_left_alone(tmp_path, caplog) -> None:
    def masked(mb, x, w):
        mask = mb.select(cond=mb.greater(x=x, y=np.float16(0)), a=np.float16(0), b=np.float16(-np.inf), name="mask")
        y = mb.conv(x=x, weight=w(4, 4, 1, 1), name="conv")
        return mb.softmax(x=mb.add(x=y, y=mask, name="masked"), name="out")

    model = cto.linear_quantize_activations(package_of(tmp_path, masked), everywhere(), samples())
    assert model.skipped == {("main", "mask"): "a sample made it NaN or infinite"} and "mask" in caplog.text
    (found,) = run(model).predict(samples()[0]).values()
    assert np.isfinite(found).all() and kinds(model).count("quantize") == 2


def test_a_stateful_model_starts_each_sample_anew(tmp_path) -> None:
    from tests.structures import stateful

    path = stateful(tmp_path)
    sample = {"x": np.random.default_rng(0).normal(size=(1, 64))}
    once = cto.linear_quantize_activations(path, everywhere(), [sample])
    assert cto.linear_quantize_activations(path, everywhere(), [sample] * 3).spec == once.spec
    assert kinds(once).count("quantize") == 4


def test_blocks_inside_operations(tmp_path) -> None:
    from tests.structures import nested

    path = nested(tmp_path)
    given = [
        {"x": np.random.default_rng(0).normal(size=(1, 64)), "flag": np.full(1, sign, np.float32)} for sign in (1, -1)
    ]
    model = cto.linear_quantize_activations(path, everywhere(), given)
    model.save(tmp_path / "ours.mlpackage")
    peer_program(tmp_path / "ours.mlpackage")
    assert {n.depth for n in nodes(model.spec) if n.type == "quantize"} == {1}
    run(model).predict(given[0])


def test_one_function_of_several(tmp_path) -> None:
    from tests.structures import multifunction

    path = multifunction(tmp_path)
    for name in (None, "second"):
        model = cto.linear_quantize_activations(path, everywhere(), [{"x": np.ones((1, 64))}], function=name)
        assert {n.function.name for n in nodes(model.spec) if n.type == "quantize"} == {name or "first"}


def test_a_classifier(tmp_path) -> None:
    import coremltools as ct

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = torch.nn.Conv2d(3, 4, 3), torch.nn.Linear(4, 3)

        def forward(self, x):
            return torch.softmax(self.head(torch.relu(self.conv(x)).mean((2, 3))), -1)

    example = torch.rand(1, 3, 8, 8)
    ct.convert(
        torch.jit.trace(Net().eval(), example),
        inputs=[ct.TensorType("x", (1, 3, 8, 8))],
        classifier_config=ct.ClassifierConfig(["a", "b", "c"]),
        skip_model_load=True,
    ).save(str(tmp_path / "net.mlpackage"))
    model = cto.linear_quantize_activations(tmp_path / "net.mlpackage", everywhere(), [{"x": example.numpy()}])
    before, after = (run(m).predict({"x": example.numpy()}) for m in (tmp_path / "net.mlpackage", model))
    scores = [next(v for v in result.values() if isinstance(v, dict)) for result in (before, after)]
    assert kinds(model).count("quantize") == 3
    assert all(abs(scores[0][label] - scores[1][label]) < 0.02 for label in "abc")


def seen(observer: str, *batches: np.ndarray):
    made = OBSERVERS[observer]()
    for batch in batches:
        made.update(batch, float(batch.min()), float(batch.max()))
    return made


def error(values: np.ndarray, limits: tuple[float, float]) -> float:
    """The squared error of values in 254 steps of a symmetric range."""
    scale = max(map(abs, limits)) / 127
    return float(np.square(np.clip(np.round(values / scale), -127, 127) * scale - values).mean())


def test_observers_and_an_outlier() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=200_000).astype(np.float32)
    values[0] = 40
    parts = np.split(values, 10)
    assert seen("min_max", *parts).limits(True)[1] == 40
    for symmetric in (True, False):
        low, high = seen("percentile", *parts).limits(symmetric)
        assert low == pytest.approx(np.quantile(values, 5e-5 if symmetric else 1e-4), abs=0.3)
        assert high == pytest.approx(np.quantile(np.abs(values) if symmetric else values, 1 - 1e-4), abs=0.3)
    best = seen("mse", *parts).limits(True)
    assert error(values, best) < min(
        error(values, seen(name, *parts).limits(True)) for name in ("min_max", "percentile")
    )
    tried = min(error(values, (-reach, reach)) for reach in np.linspace(1, 40, 400))
    assert error(values, best) < 1.05 * tried
    low, high = seen("mse", np.maximum(values, 0)).limits(False)
    assert low == 0 and 3 < high < 40


def test_a_histogram_does_not_depend_on_how_its_values_came() -> None:
    rng = np.random.default_rng(1)
    small, large, nothing = rng.normal(size=5000) * 0.01, rng.normal(size=3000) * 1000, np.zeros(100)
    for name in ("percentile", "mse"):
        one, other = seen(name, nothing, small, large), seen(name, np.concatenate([large, small, nothing]))
        np.testing.assert_array_equal(one.counts, other.counts)
        assert one.limits(False) == other.limits(False) and one.counts.sum() == 8100
    for name in OBSERVERS:
        assert seen(name, nothing).limits(True) == (0, 0)


@pytest.mark.parametrize("observer", OBSERVERS)
def test_w8a8_on_digits_is_as_good_as_float16(tmp_path, observer) -> None:
    data = np.load(EXAMPLES / "digits_test.npz")
    images, labels = data["images"][:, None], data["labels"]
    source = load(EXAMPLES / "digits.mlpackage")
    a8 = cto.linear_quantize_activations(
        source, everywhere(), ({"image": image} for image in images[:64]), observer=observer
    )
    w8a8 = cto.linear_quantize_weights(a8, cto.OptimizationConfig(global_config=cto.OpLinearQuantizerConfig()))
    w8a8 = w8a8.save(tmp_path / "w8a8.mlpackage")
    peer_program(tmp_path / "w8a8.mlpackage")

    def accuracy(model) -> float:
        program = run(model)
        guesses = [int(program.predict({"image": image})["logits"].argmax()) for image in images[64:]]
        return float((np.array(guesses) == labels[64:]).mean())

    assert "constexpr_blockwise_shift_scale" in kinds(w8a8) and accuracy(w8a8) >= accuracy(source) - 0.005
