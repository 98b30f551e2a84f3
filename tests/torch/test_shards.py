"""Checkpoints in safetensors files, compressed without the model in memory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from corepress.errors import ConfigError, CorepressError, FormatError
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


NAMES = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]


def compress(source: Path, destination: Path) -> PostTrainingPalettizer:
    with torch.device("meta"):
        palettizer = PostTrainingPalettizer(net())
    palettizer.compress_checkpoint(source, destination)
    return palettizer


def add(file: Path, **tensors: torch.Tensor) -> None:
    safetensors.save_file({**safetensors.load_file(file), **tensors} if file.exists() else tensors, file)


def remove(checkpoint: Path) -> None:
    (checkpoint / NAMES[1]).unlink()


def twice(checkpoint: Path) -> None:
    add(checkpoint / NAMES[1], **{"0.weight": torch.zeros(50, 16)})


def twice_without_index(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors.index.json").unlink()
    add(checkpoint / "model.fp16.safetensors", **{"1.weight": torch.zeros(32, 16)})


def elsewhere(checkpoint: Path) -> None:
    index = checkpoint / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"]["0.weight"] = NAMES[1]
    index.write_text(json.dumps(content))


def outside(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors.index.json").write_text('{"weight_map": {"0.weight": "../other.safetensors"}}')


def no_index(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors.index.json").write_text("[1]")


def two_indices(checkpoint: Path) -> None:
    (checkpoint / "other.safetensors.index.json").write_text("{}")


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (remove, rf"{NAMES[1]}: it is missing, though model\.safetensors\.index\.json names it"),
        (twice, rf"the tensor '0\.weight' is in {NAMES[0]} and in {NAMES[1]}"),
        (twice_without_index, r"the tensor '1\.weight' is in .* and in model\.fp16\.safetensors"),
        (elsewhere, rf"{NAMES[1]}: the tensor '0\.weight' is not in it"),
        (outside, "names files outside of its folder"),
        (no_index, "it is not an index of safetensors files"),
        (two_indices, "several checkpoints: model.*, other"),
    ],
)
def test_a_checkpoint_that_is_not_whole_is_refused_before_any_work(damage, told, checkpoint: Path, tmp_path) -> None:
    damage(checkpoint)
    before = {path: path.read_bytes() for path in checkpoint.iterdir()}
    with pytest.raises(FormatError, match=told):
        compress(checkpoint, tmp_path / "small")
    with pytest.raises(FormatError, match=told):
        load_compressed(net(), checkpoint)
    assert before == {path: path.read_bytes() for path in checkpoint.iterdir()}
    assert {path.name for path in tmp_path.iterdir()} == {"model"}


def test_modes_subfolders_and_names_of_the_source_are_kept(checkpoint: Path, tmp_path: Path, caplog) -> None:
    (checkpoint / "model.safetensors.index.json").rename(checkpoint / "weights.safetensors.index.json")
    (checkpoint / "tokenizer" / "deep").mkdir(parents=True)
    (checkpoint / "tokenizer" / "deep" / "words.txt").write_text("a b")
    (checkpoint / ".git").mkdir()
    (checkpoint / ".git" / "objects").write_text("many")
    (checkpoint / "vae").mkdir()
    add(checkpoint / "vae" / "model.safetensors", x=torch.ones(3))
    add(checkpoint / "consolidated.safetensors", **{"0.weight": torch.ones(50, 16)})
    (checkpoint / NAMES[0]).chmod(0o640)
    (checkpoint / NAMES[1]).chmod(0o444)
    (checkpoint / "config.json").chmod(0o600)
    compress(checkpoint, tmp_path / "small")
    small = tmp_path / "small"
    modes = {path.name: oct(path.stat().st_mode & 0o777) for path in small.iterdir() if path.is_file()}
    wanted = {NAMES[0]: "0o640", NAMES[1]: "0o444", "config.json": "0o600"}
    assert modes == wanted | {"weights.safetensors.index.json": modes["weights.safetensors.index.json"]}
    assert small.stat().st_mode == checkpoint.stat().st_mode
    assert (small / "tokenizer" / "deep" / "words.txt").read_text() == "a b" and not (small / ".git").exists()
    assert (small / "vae" / "model.safetensors").read_bytes() == (checkpoint / "vae" / "model.safetensors").read_bytes()
    assert "model.safetensors: copied as it is" in caplog.text
    assert "consolidated.safetensors: left out" in caplog.text
    load_compressed(net(), small)


def test_shards_may_lie_in_a_subfolder(checkpoint: Path, tmp_path: Path) -> None:
    (checkpoint / "shards").mkdir()
    (checkpoint / NAMES[1]).rename(checkpoint / "shards" / NAMES[1])
    index = checkpoint / "model.safetensors.index.json"
    index.write_text(index.read_text().replace(NAMES[1], f"shards/{NAMES[1]}"))
    palettizer = compress(checkpoint, tmp_path / "small")
    assert set(palettizer.report()) == {"0.weight", "1.weight", "3.weight"}
    assert not (tmp_path / "small" / NAMES[1]).exists()
    load_compressed(net(), tmp_path / "small")


def test_the_destination_may_not_lie_in_the_source(checkpoint: Path) -> None:
    before = sorted(checkpoint.iterdir())
    with pytest.raises(CorepressError, match="lies inside"):
        compress(checkpoint, checkpoint / "small")
    assert sorted(checkpoint.iterdir()) == before
