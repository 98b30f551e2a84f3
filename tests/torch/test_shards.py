"""Checkpoints in safetensors files, compressed without the model in memory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from corepress.errors import ConfigError, FormatError
from corepress.torch.palettization import PostTrainingPalettizer, PostTrainingPalettizerConfig
from corepress.torch.quantization import PostTrainingQuantizer, PostTrainingQuantizerConfig
from corepress.torch.shards import load_compressed

safetensors = pytest.importorskip("safetensors.torch")


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(50, 16), nn.Linear(16, 32), nn.LayerNorm(32), nn.Linear(32, 6))


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    state = net().state_dict()
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    places = {key: names[number * 2 // len(state)] for number, key in enumerate(state)}
    for name in names:
        safetensors.save_file({key: state[key] for key in state if places[key] == name}, folder / name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    (folder / "config.json").write_text("{}")
    return folder


OPTIMIZERS = {
    "palettizer": (PostTrainingPalettizer, PostTrainingPalettizerConfig, {"n_bits": 3}),
    "vectors": (PostTrainingPalettizer, PostTrainingPalettizerConfig, {"n_bits": 4, "cluster_dim": 2}),
    "quantizer": (PostTrainingQuantizer, PostTrainingQuantizerConfig, {"weight_dtype": "int4"}),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_it_is_what_the_model_would_become_in_memory(name: str, checkpoint: Path, tmp_path: Path) -> None:
    optimizer, config, fields = OPTIMIZERS[name]
    chosen = config.from_dict({"global_config": fields})
    whole = optimizer(net(), chosen).compress().state_dict()
    with torch.device("meta"):
        model = net()
    before = {path: path.read_bytes() for path in checkpoint.iterdir()}
    sharded = optimizer(model, chosen)
    sharded.compress_checkpoint(checkpoint, tmp_path / "small")
    assert before == {path: path.read_bytes() for path in checkpoint.iterdir()}
    assert all(value.is_meta for value in model.state_dict().values())
    loaded = load_compressed(model, tmp_path / "small").state_dict()
    assert loaded.keys() == whole.keys()
    assert all(torch.equal(loaded[key], whole[key]) for key in whole)
    assert set(sharded.report()) == {"0.weight", "1.weight", "3.weight"}
    assert (tmp_path / "small" / "config.json").read_text() == "{}"
    index = json.loads((tmp_path / "small" / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(whole)


def test_what_cannot_be_compressed_is_copied_and_counted(checkpoint: Path, tmp_path: Path) -> None:
    config = PostTrainingPalettizerConfig.from_dict(
        {"global_config": {"granularity": "per_grouped_channel", "group_size": 4}}
    )
    with torch.device("meta"):
        palettizer = PostTrainingPalettizer(net(), config)
    palettizer.compress_checkpoint(checkpoint, tmp_path / "small")
    assert palettizer.report().skipped.keys() == {"0.weight", "3.weight"}  # 50 and 6 channels
    loaded = load_compressed(net(), tmp_path / "small").state_dict()
    assert torch.equal(loaded["3.weight"], net().state_dict()["3.weight"])


def test_nothing_is_left_of_a_failure(checkpoint: Path, tmp_path: Path) -> None:
    (checkpoint / "model-00002-of-00002.safetensors").write_bytes(b"\0" * 40)
    with pytest.raises(FormatError, match=r"model-00002-of-00002\.safetensors: not a safetensors file"):
        PostTrainingPalettizer(net()).compress_checkpoint(checkpoint, tmp_path / "small")
    assert {path.name for path in tmp_path.iterdir()} == {"model"}


def test_bad_folders_are_named(checkpoint: Path, tmp_path: Path) -> None:
    palettizer = PostTrainingPalettizer(net())
    with pytest.raises(ConfigError, match="exists already"):
        palettizer.compress_checkpoint(checkpoint, checkpoint)
    with pytest.raises(FormatError, match=r"no \.safetensors files"):
        palettizer.compress_checkpoint(tmp_path, tmp_path / "small")
    with pytest.raises(FormatError, match="does not fit the model: it has"):
        load_compressed(nn.Sequential(nn.Embedding(50, 16)), checkpoint)
