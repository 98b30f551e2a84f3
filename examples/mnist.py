"""What the MNIST examples share: images, a small convolutional network, how to train, to convert and to measure it."""

from __future__ import annotations

import argparse
import gzip
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn

Data = tuple[Tensor, Tensor, Tensor, Tensor]
BATCH = 128
FILES = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")


class Net(nn.Module):
    """Two convolutions and two linear layers: 215,370 parameters, 10 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 5, padding=2)
        self.conv2 = nn.Conv2d(16, 32, 5, padding=2)
        self.dense1 = nn.Linear(32 * 7 * 7, 128)
        self.dense2 = nn.Linear(128, 10)

    def forward(self, images: Tensor) -> Tensor:
        """(batch, 1, 28, 28) to logits, (batch, 10)."""
        x = nn.functional.max_pool2d(self.conv1(images).relu(), 2)
        x = nn.functional.max_pool2d(self.conv2(x).relu(), 2)
        return self.dense2(self.dense1(x.flatten(1)).relu())


def begin(doc: str | None, fine_tuning: float, output: str) -> tuple[argparse.Namespace, Data, Net]:
    """The arguments of an example (`epochs`, `fine_tuning`, `output`), its images, and a network trained on them.

    `doc`: of the example. `fine_tuning`, `output`: epochs and the package, where no arguments name others.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of the four files of MNIST")
    parser.add_argument("--epochs", type=float, default=1.0, help="of the first training")
    parser.add_argument("--fine-tuning", type=float, default=fine_tuning, help="epochs of the second")
    parser.add_argument("--output", default=output)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    data, net = load(arguments.data), Net()
    train(net, data, arguments.epochs)
    return arguments, data, net


def load(path: str | Path) -> Data:
    """Images, float32 (n, 1, 28, 28) of mean 0 and deviation 1, and labels, int64 (n,): for training, then for tests.

    `path`: the folder of the four files of http://yann.lecun.com/exdb/mnist, compressed by gzip.
    """
    arrays = [_read(Path(path, f"{name}-ubyte.gz")) for name in FILES]
    images = [(torch.from_numpy(array).float()[:, None] / 255 - 0.1307) / 0.3081 for array in arrays[::2]]
    labels = [torch.from_numpy(array).long() for array in arrays[1::2]]
    return images[0], labels[0], images[1], labels[1]


def _read(path: Path) -> np.ndarray:
    """An idx file: two zeros, the type (8: unsigned bytes), the rank, the lengths of the axes, the data."""
    content = gzip.decompress(path.read_bytes())
    rank = content[3]
    shape = np.frombuffer(content, ">i4", rank, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape).copy()


def train(
    model: nn.Module,
    data: Data,
    epochs: float,
    on_step: Callable[[], object] | None = None,
    *,
    learning_rate: float = 1e-3,
    description: str = "Training",
) -> float:
    """Train in place with Adam, whose rate falls to zero along a cosine; the mean loss of the last 100 steps.

    `on_step()` is called after each step of the optimiser. A tenth of an epoch is `epochs=0.1`.
    """
    images, labels = data[0], data[1]
    steps = math.ceil(epochs * len(images) / BATCH)
    optimizer = torch.optim.Adam(model.parameters(), learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    losses = []
    model.train()
    for _ in track(range(steps), description):
        batch = torch.randint(len(images), (BATCH,))
        loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if on_step is not None:
            on_step()
    return float(np.mean(losses[-100:]))


@torch.no_grad()
def accuracy(model: nn.Module, data: Data) -> float:
    """The fraction of test images that the model, in evaluation mode, gets right."""
    images, labels = data[2], data[3]
    model.eval()
    answers = [model(batch).argmax(dim=1) for batch in images.split(1000)]
    return float((torch.cat(answers) == labels).float().mean())


def convert(model: nn.Module, data: Data, path: str, target: Any) -> None:
    """Write a package for a deployment target of Core ML Tools."""
    import coremltools as ct

    image = data[2][:1]
    package = ct.convert(
        torch.jit.trace(model, image),
        inputs=[ct.TensorType(name="image", shape=image.shape)],
        minimum_deployment_target=target,
        skip_model_load=True,
    )
    package.save(path)


def show(title: str, models: Mapping[str, nn.Module], data: Data) -> None:
    """Print how often each model, by its name, is right."""
    table = Table("network", "accuracy, %", title=f"MNIST; {title}")
    for name, model in models.items():
        table.add_row(name, f"{100 * accuracy(model, data):.2f}")
    Console().print(table)
