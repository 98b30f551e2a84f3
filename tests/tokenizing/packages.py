"""Small models of language as packages, and a tokenizer of words for them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

VOCABULARY, LENGTH = 64, 8
WORDS = ("[PAD]", "[CLS]", "[SEP]", "[UNK]", *(f"w{number}" for number in range(50)))


class Reader(nn.Module):
    """Adds up rows of tables for the tokens, and for whatever else it is given of them."""

    def __init__(self, inputs: tuple[str, ...], places: int = 32):
        super().__init__()
        self.names, width = inputs, 16
        self.words, self.places, self.kinds = (nn.Embedding(count, width) for count in (VOCABULARY, places, 2))
        self.head = nn.Linear(width, 4)

    def forward(self, ids: Tensor, *others: Tensor) -> Tensor:
        x = self.words(ids)
        for name, value in zip(self.names[1:], others, strict=True):
            if name == "position_ids":
                x = x + self.places(value)
            elif name == "kind":
                x = x + self.kinds(value)
            elif name == "attention_mask":
                x = x * (1 - (1 - value[..., None].float()))
            else:
                x = x + value
        return self.head(x).mean(1)


def reader(folder: Path, inputs: Mapping[str, Any], length: int = LENGTH) -> Path:
    """A package; `inputs`: their names, the tokens first, and their shapes (None: 1 by `length`)."""
    ct = pytest.importorskip("coremltools")
    shapes = {name: (1, length) if shape is None else shape for name, shape in inputs.items()}
    examples = tuple(
        torch.zeros(1, LENGTH, dtype=torch.int32) if name != "noise" else torch.zeros(1, LENGTH, 16) for name in shapes
    )
    torch.manual_seed(0)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        converted = ct.convert(
            torch.jit.trace(Reader(tuple(shapes)).eval(), examples),
            inputs=[
                ct.TensorType(name, shape, dtype=np.float32 if name == "noise" else np.int32)
                for name, shape in shapes.items()
            ],
            minimum_deployment_target=ct.target.iOS17,
            skip_model_load=True,
        )
    path = folder / "reader.mlpackage"
    converted.save(str(path))
    return path


def tokenizer(marks: bool = True) -> Any:
    """Of the library: a number for each word; with `marks` around a text as BERT has them."""
    library = pytest.importorskip("tokenizers")
    made = library.Tokenizer(library.models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    made.pre_tokenizer = library.pre_tokenizers.Whitespace()
    if marks:
        made.post_processor = library.processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
        )
    return made


def text(*numbers: int) -> str:
    return " ".join(f"w{number}" for number in numbers)
