"""Small networks with random weights, one for each way of building that phones meet, and their inputs."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

NETWORKS: dict[str, Callable[[], tuple[nn.Module, dict[str, Tensor]]]] = {}


def network(make: Callable[[], tuple[nn.Module, dict[str, Tensor]]]):
    NETWORKS[make.__name__] = make
    return make


class Residual(nn.Module):
    def __init__(self, inside: int, out: int, stride: int):
        super().__init__()
        self.first, self.second = nn.Conv2d(inside, out, 3, stride, 1), nn.Conv2d(out, out, 3, 1, 1)
        self.norms = nn.ModuleList([nn.BatchNorm2d(out), nn.BatchNorm2d(out)])
        self.short = nn.Conv2d(inside, out, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norms[0](self.first(x)))
        return F.relu(self.norms[1](self.second(y)) + self.short(x))


@network
def resnet():
    body = nn.Sequential(
        nn.Conv2d(3, 8, 7, 2, 3), nn.ReLU(), nn.MaxPool2d(3, 2, 1), Residual(8, 16, 1), Residual(16, 32, 2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
    )  # fmt: skip
    return body, {"image": torch.randn(1, 3, 64, 64)}


class Inverted(nn.Module):
    """MobileNetV3's block: expand, depth-wise, squeeze and excite, project."""

    def __init__(self, channels: int):
        super().__init__()
        wide = channels * 4
        self.expand = nn.Sequential(nn.Conv2d(channels, wide, 1), nn.BatchNorm2d(wide), nn.Hardswish())
        self.depth = nn.Sequential(nn.Conv2d(wide, wide, 5, 1, 2, groups=wide), nn.BatchNorm2d(wide), nn.Hardswish())
        self.squeeze = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(wide, 8, 1), nn.ReLU(), nn.Conv2d(8, wide, 1), nn.Hardsigmoid()
        )
        self.project = nn.Sequential(nn.Conv2d(wide, channels, 1), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        y = self.depth(self.expand(x))
        return x + self.project(y * self.squeeze(y))


@network
def mobilenet_v3():
    body = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU6(), Inverted(16), Inverted(16), nn.Flatten(2))
    return body, {"image": torch.randn(1, 3, 32, 32)}


class EfficientBlock(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.depth = nn.Conv2d(channels, channels, 3, 1, 1, groups=channels)
        self.gate = nn.Sequential(nn.Conv2d(channels, 4, 1), nn.SiLU(), nn.Conv2d(4, channels, 1), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        y = F.silu(self.depth(x))
        return x + y * self.gate(y.mean((2, 3), keepdim=True))


@network
def efficientnet():
    return nn.Sequential(nn.Conv2d(3, 12, 3, 2, 1), EfficientBlock(12), nn.GroupNorm(3, 12), EfficientBlock(12)), {
        "image": torch.randn(1, 3, 32, 32)
    }


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2 = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 3, 2, 1)
        self.up = nn.ConvTranspose2d(16, 8, 2, 2)
        self.last = nn.Conv2d(16, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        a = F.leaky_relu(self.down1(x), 0.1)
        b = F.elu(self.down2(a))
        grown = F.interpolate(self.up(b), scale_factor=2.0, mode="bilinear", align_corners=False)[:, :, ::2, ::2]
        return torch.softmax(self.last(torch.cat([a, grown], 1)), dim=1)


@network
def unet():
    return UNet(), {"image": torch.randn(1, 3, 32, 32)}


class Attention(nn.Module):
    def __init__(self, width: int, heads: int, causal: bool = False):
        super().__init__()
        self.heads, self.width, self.causal = heads, width, causal
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.qkv(x).reshape(1, -1, 3, self.heads, self.width // self.heads).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(parts[0], parts[1], parts[2], is_causal=self.causal)
        return self.out(y.transpose(1, 2).reshape(1, -1, self.width))


class Layer(nn.Module):
    def __init__(self, width: int = 32, causal: bool = False):
        super().__init__()
        self.attention = Attention(width, 4, causal)
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norms[0](x))
        return x + self.narrow(F.gelu(self.wide(self.norms[1](x))))


class ViT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 32, 8, 8)
        self.token = nn.Parameter(torch.randn(1, 1, 32))
        self.places = nn.Parameter(torch.randn(1, 17, 32))
        self.layers = nn.Sequential(Layer(), Layer())
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        y = self.patches(x).flatten(2).transpose(1, 2)
        y = torch.cat([self.token, y], 1) + self.places
        return self.head(self.layers(y)[:, 0])


@network
def vit():
    return ViT(), {"image": torch.randn(1, 3, 32, 32)}


class Bert(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(100, 32), nn.Embedding(16, 32)
        self.layers = nn.Sequential(Layer(), Layer())

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        x = self.words(ids) + self.places(torch.arange(12))
        y = self.layers(x) * mask[..., None]
        return F.normalize(y.sum(1) / mask.sum(1, keepdim=True), dim=-1)


@network
def bert():
    return Bert(), {"ids": torch.randint(0, 100, (1, 12), dtype=torch.int32), "mask": torch.ones(1, 12)}


class Tagger(nn.Module):
    def __init__(self, kind: type[nn.Module]):
        super().__init__()
        self.words = nn.Embedding(50, 16)
        self.memory = kind(16, 12, num_layers=2, bidirectional=True, batch_first=True)
        self.tags = nn.Linear(24, 5)

    def forward(self, ids: Tensor) -> Tensor:
        return F.log_softmax(self.tags(self.memory(self.words(ids))[0]), dim=-1)


@network
def lstm_tagger():
    return Tagger(nn.LSTM), {"ids": torch.randint(0, 50, (1, 9), dtype=torch.int32)}


@network
def gru_tagger():
    class OneWay(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.memory, self.tags = nn.GRU(16, 12, batch_first=True), nn.Linear(12, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.tags(self.memory(x)[0])

    return OneWay(), {"x": torch.randn(1, 9, 16)}


@network
def autoencoder():
    body = nn.Sequential(
        nn.Conv2d(1, 8, 3, 2, 1), nn.Tanh(), nn.Conv2d(8, 4, 3, 2, 1), nn.Softplus(),
        nn.ConvTranspose2d(4, 8, 3, 2, 1, 1), nn.PReLU(8), nn.ConvTranspose2d(8, 1, 4, 2, 1), nn.Sigmoid(),
    )  # fmt: skip
    return body, {"image": torch.randn(1, 1, 28, 28)}


class Conformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.sample = nn.Sequential(nn.Conv1d(20, 32, 3, 2, 1), nn.GELU(), nn.Conv1d(32, 32, 3, 2, 1), nn.GELU())
        self.layer = Layer()
        self.point, self.depth = nn.Conv1d(32, 64, 1), nn.Conv1d(32, 32, 5, padding=2, groups=32)

    def forward(self, mel: Tensor) -> Tensor:
        x = self.layer(self.sample(mel).transpose(1, 2))
        return x + F.silu(self.depth(F.glu(self.point(x.transpose(1, 2)), 1))).transpose(1, 2)


@network
def conformer():
    return Conformer(), {"mel": torch.randn(1, 20, 40)}


@network
def depthwise_audio():
    body = nn.Sequential(
        nn.Conv1d(1, 16, 9, 4, 4), nn.BatchNorm1d(16), nn.ReLU(),
        nn.Conv1d(16, 16, 5, padding=4, dilation=2, groups=16), nn.Conv1d(16, 24, 1),
        nn.InstanceNorm1d(24, affine=True), nn.AvgPool1d(4), nn.Flatten(), nn.Linear(24 * 16, 6),
    )  # fmt: skip
    return body, {"wave": torch.randn(1, 1, 256)}


class Diffusion(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.time = nn.Linear(16, 16)
        self.first, self.last = nn.Conv2d(4, 16, 3, padding=1), nn.Conv2d(16, 4, 3, padding=1)
        self.norm, self.attention = nn.GroupNorm(4, 16), Attention(16, 2)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        angles = t[:, None] * torch.exp(-math.log(10000.0) * torch.arange(8) / 8)
        y = self.first(x) + self.time(torch.cat([angles.sin(), angles.cos()], -1))[:, :, None, None]
        y = F.silu(self.norm(y))
        flat = y.reshape(1, 16, 64).transpose(1, 2)
        y = (flat + self.attention(flat)).transpose(1, 2).reshape(1, 16, 8, 8)
        return self.last(F.interpolate(y, scale_factor=2.0, mode="nearest"))


@network
def diffusion():
    return Diffusion(), {"x": torch.randn(1, 4, 8, 8), "t": torch.tensor([3.0])}


class CachedGpt(nn.Module):
    """`forward(ids, mask)`: the new tokens, and which of all tokens so far each of them sees, 0 or -inf.

    Keys and values of earlier tokens are kept in buffers, which become states of the Core ML model.
    """

    def __init__(self, width: int = 32, heads: int = 4, context: int = 16):
        super().__init__()
        self.words, self.head = nn.Embedding(100, width), nn.Linear(width, 100)
        self.layers = nn.ModuleList([Layer(width), Layer(width)])
        for name in ("keys", "values"):
            self.register_buffer(name, torch.zeros(len(self.layers), heads, context, width // heads))

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        end = mask.shape[-1]
        begin = end - ids.shape[-1]
        x = self.words(ids)
        for i, layer in enumerate(self.layers):
            attention = layer.attention
            parts = attention.qkv(layer.norms[0](x)).reshape(1, -1, 3, attention.heads, 8).permute(2, 0, 3, 1, 4)
            self.keys[i : i + 1, :, begin:end] = parts[1]
            self.values[i : i + 1, :, begin:end] = parts[2]
            keys, values = self.keys[i : i + 1, :, :end], self.values[i : i + 1, :, :end]
            y = F.scaled_dot_product_attention(parts[0], keys, values, attn_mask=mask)
            x = x + attention.out(y.transpose(1, 2).reshape(1, -1, attention.width))
            x = x + layer.narrow(F.gelu(layer.wide(layer.norms[1](x))))
        return self.head(x)


class YoloHead(nn.Module):
    """Boxes (x, y, width, height) and scores (class by class) of a grid of cells, as YOLO decodes them."""

    def __init__(self, size: int = 8, stride: int = 8, classes: int = 3):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 16, 3, 4, 1), nn.SiLU(), nn.Conv2d(16, 16, 3, 2, 1), nn.SiLU())
        self.box, self.score = nn.Conv2d(16, 4, 1), nn.Conv2d(16, classes, 1)
        self.stride = stride
        cells = torch.stack(torch.meshgrid(torch.arange(size), torch.arange(size), indexing="xy"))
        self.register_buffer("cells", cells.flatten(1).float())

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        x = self.body(image)
        box = self.box(x).flatten(2)
        middle = (box[:, :2].sigmoid() * 2 - 0.5 + self.cells) * self.stride
        extent = (box[:, 2:].sigmoid() * 2) ** 2 * 2 * self.stride
        return torch.cat([middle, extent], 1).transpose(1, 2), self.score(x).flatten(2).sigmoid().transpose(1, 2)
