"""`linear_quantize_activations`: every sample counts, on every kind of model, and W8A8 answers right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import corepress.coreml as cto
from corepress import ConfigError, load
from corepress.coreml.activations.observers import OBSERVERS
from corepress.coreml.experimental import OpActivationLinearQuantizerConfig as Config
from corepress.formats.mlprogram.program import nodes
from corepress.formats.mlprogram.values import read_tensor
from corepress.runtime import load as run
from tests.coreml.activations.activation_nets import (
    MODES,
    everywhere,
    linear,
    package_of,
    pools,
    residual,
    samples,
    structure,
)
from tests.oracle import peer_program
from tests.process import python

torch.set_num_threads(1)
EXAMPLES = Path(__file__).parents[3] / "examples"


def kinds(model) -> list[str]:
    return [node.type for node in nodes(model.spec) if not node.is_const]


@pytest.mark.parametrize(
    "observer", [name for name in OBSERVERS if name != "output"]
)  # which may clip what the outputs don't tell
def test_all_samples_count_and_not_only_the_last(tmp_path, observer) -> None:
    path = package_of(tmp_path, linear)
    wide = {"x": np.linspace(-100, 100, 256).reshape(1, 4, 8, 8)}
    narrow = {"x": np.linspace(-1, 1, 256).reshape(1, 4, 8, 8)}
    model = cto.linear_quantize_activations(path, everywhere(), [wide, narrow, narrow], observer=observer)
    (first,) = (n for n in nodes(model.spec) if n.name == "first")
    scale = float(read_tensor(first.operand("x").node.operand("scale").value, model, "scale"))
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


@pytest.mark.filterwarnings("ignore:overflow")
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
from corepress.errors import MissingDependencyError
config = cto.OptimizationConfig(global_config=cto.experimental.OpActivationLinearQuantizerConfig())
try:
    cto.linear_quantize_activations({str(path)!r}, config, [])
except MissingDependencyError as error:
    print(error)
"""
    assert python(code).stdout == "calibration, which runs the model, needs PyTorch: pip install 'corepress[torch]'\n"


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


@pytest.mark.parametrize("exceptions", [{}, {"exceptions": "auto", "min_snr": 5}])
def test_why_weights_were_left_alone_is_still_known(tmp_path, exceptions) -> None:
    weights = cto.OptimizationConfig(cto.OpLinearQuantizerConfig(weight_threshold=10**6))
    model = cto.linear_quantize_weights(package_of(tmp_path, residual), weights)
    assert "no more than 1000000 elements" in str(model.skipped)
    both = cto.linear_quantize_activations(model, everywhere(), samples(8), **exceptions)
    assert both.skipped == model.skipped


def test_an_infinite_activation_is_left_alone(tmp_path, caplog) -> None:
    def masked(mb, x, w):
        mask = mb.select(cond=mb.greater(x=x, y=np.float16(0)), a=np.float16(0), b=np.float16(-np.inf), name="mask")
        y = mb.conv(x=x, weight=w(4, 4, 1, 1), name="conv")
        return mb.softmax(x=mb.add(x=y, y=mask, name="masked"), name="out")

    model = cto.linear_quantize_activations(package_of(tmp_path, masked), everywhere(), samples())
    reason = "a sample made it NaN or infinite"
    assert model.skipped == {("main", "mask"): reason, ("main", "masked"): reason} and reason in caplog.text
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


def test_a_model_without_weights(tmp_path) -> None:
    def doubled(mb, x, w):
        return mb.mul(x=mb.add(x=x, y=x, name="twice"), y=x, name="out")

    model = cto.linear_quantize_activations(package_of(tmp_path, doubled), everywhere(), samples(2), strict=True)
    assert kinds(model).count("quantize") > 0


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
    assert kinds(model).count("quantize") == 4
    assert all(abs(scores[0][label] - scores[1][label]) < 0.02 for label in "abc")


@pytest.mark.parametrize(
    "observer",
    [name if name in ("min_max", "mse") else pytest.param(name, marks=pytest.mark.slow) for name in OBSERVERS],
)
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


def test_a_configuration_may_come_from_a_file(tmp_path) -> None:
    path = tmp_path / "activations.yaml"
    path.write_text(
        """
config_type: OpActivationLinearQuantizerConfig
global_config: {mode: linear, dtype: uint8}
op_type_configs: {add: null}
op_name_configs: {conv_a: {}}
"""
    )
    config = cto.OptimizationConfig.from_yaml(path)
    assert config == cto.OptimizationConfig(
        Config(mode="linear", dtype="uint8"), op_type_configs={"add": None}, op_name_configs={"conv_a": Config()}
    )
    assert cto.OptimizationConfig.from_yaml(path.open()) == config
    net = package_of(tmp_path, residual)
    assert kinds(cto.linear_quantize_activations(net, config, samples())).count("quantize") == 4
