"""The models that `quality.py` compresses, the data for calibrating them, and how well a compressed one does."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import corepress
from corepress.runtime import load as load_program

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "examples")]  # the encoder and sentences of the tests; the MNIST network
import mnist  # noqa: E402
from tests import minilm  # noqa: E402
from tests.sentences import CALIBRATION, TEST  # noqa: E402
from tools import build_digits  # noqa: E402

MNIST = ROOT.parent / "shared" / "data" / "mnist"
BATCH = 1000  # test images at once


@dataclass(frozen=True)
class Task:
    """A model as a module and as a package.

    `batches`: inputs of the module for layer-wise methods, `layers`: the names of its blocks, None for a Sequential.
    `loss`, `labelled`: for sensitivities, one sample each. `samples`: inputs of the package.
    `score`, `score_package`: what the compressed module and package reach.
    """

    title: str
    model: nn.Module
    package: Path
    batches: list[Tensor]
    layers: list[str] | None
    labelled: list[tuple[Tensor, Tensor]]
    loss: Callable[[nn.Module, tuple[Tensor, Tensor]], Tensor]
    samples: list[dict[str, np.ndarray]]
    score: Callable[[nn.Module], float]
    score_package: Callable[[Any], float]


class Encoder(nn.Module):
    """The embedding, (1, 384), of one sentence's tokens, (1, length): nothing is padded, so that no mask is needed."""

    def __init__(self, bert: nn.Module):
        super().__init__()
        self.bert = bert

    def forward(self, ids: Tensor) -> Tensor:
        x = self.bert.embeddings(ids, torch.zeros_like(ids), torch.arange(ids.shape[1])[None])
        return nn.functional.normalize(self.bert.encoder(x)[0].mean(1), dim=-1)


def projection_loss(model: nn.Module, sample: tuple[Tensor, Tensor]) -> Tensor:
    """The embedding on a random direction: mean squares of its gradient are the diagonal of J^T J, J its derivative."""
    return (model(sample[0]) * sample[1]).sum()


def label_loss(model: nn.Module, sample: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(sample[0]), sample[1])


def encoder(folder: Path, calibration: int, tests: int) -> Task:
    """all-MiniLM-L6-v2 with its real weights; so many sentences to calibrate on and others to test with."""
    transformers, source = minilm._libraries()
    model = Encoder(transformers.BertModel.from_pretrained(source, attn_implementation="eager")).eval()
    package = folder / "minilm.mlpackage"
    if not package.exists():
        minilm.package(folder)
    samples, test = minilm.samples(CALIBRATION[:calibration]), minilm.samples(TEST[:tests])
    batches, test_ids = [_tokens(sample) for sample in samples], [_tokens(sample) for sample in test]
    random = torch.Generator().manual_seed(0)
    signs = [torch.randint(0, 2, (1, 384), generator=random) * 2.0 - 1 for _ in batches]

    @torch.no_grad()
    def embed(model: nn.Module) -> np.ndarray:
        return torch.cat([model(ids) for ids in test_ids]).double().numpy()

    expected = embed(model)
    return Task(
        title="MiniLM",
        model=model,
        package=package,
        batches=batches,
        layers=[r"bert\.encoder\.layer\.\d+"],
        labelled=list(zip(batches, signs, strict=True)),
        loss=projection_loss,
        samples=samples,
        score=lambda model: float(minilm.cosines(expected, embed(model)).mean()),
        score_package=lambda model: float(minilm.cosines(expected, minilm.embeddings(model, test)).mean()),
    )


def _tokens(sample: minilm.Sample) -> Tensor:
    return torch.from_numpy(sample["ids"][:, : sample["mask"].sum()]).long()


def digits(calibration: int) -> Task:
    """The example package, for the digits of scikit-learn, and the same network in PyTorch with its weights."""
    model, package = build_digits.network().eval(), ROOT / "examples" / "digits.mlpackage"
    with torch.no_grad():
        for weight in corepress.load(package).weights():
            layer, kind = weight.name.removesuffix("_to_fp16").rsplit("_", 1)
            getattr(model.get_submodule(layer), kind).copy_(torch.from_numpy(weight.read().astype(np.float32)))
    train, test, train_labels, test_labels = map(torch.from_numpy, build_digits.digits())
    return _classifier("digits", model, package, "image", (train, train_labels, test, test_labels), calibration)


def mnist_network(folder: Path, calibration: int, epochs: float) -> Task:
    """The network of the MNIST examples, after a short training that is kept in the folder."""
    data = mnist.load(MNIST)
    net, saved = mnist.Net(), folder / f"mnist-{epochs:g}.pt"
    if not saved.exists():
        torch.manual_seed(0)
        net = mnist.Net()
        mnist.train(net, data, epochs)
        torch.save(net.state_dict(), saved)
    net.load_state_dict(torch.load(saved))
    # The same as a chain, as coremltools' LayerwiseCompressor needs it.
    model = nn.Sequential(
        *(net.conv1, nn.ReLU(), nn.MaxPool2d(2), net.conv2, nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), net.dense1, nn.ReLU(), net.dense2),
    ).eval()
    package = saved.with_suffix(".mlpackage")
    if not package.exists():
        _convert(model, package)
    return _classifier("MNIST", model, package, "image", data, calibration)


def _convert(model: nn.Module, path: Path) -> None:
    import coremltools as ct

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        converted = ct.convert(
            torch.jit.trace(model, torch.zeros(1, 1, 28, 28)),
            inputs=[ct.TensorType("image", (ct.RangeDim(1, BATCH, default=1), 1, 28, 28))],
            outputs=[ct.TensorType("logits")],
            minimum_deployment_target=ct.target.iOS18,
            skip_model_load=True,
        )
    converted.save(str(path))


def _classifier(title: str, model: nn.Module, package: Path, name: str, data: mnist.Data, calibration: int) -> Task:
    train, labels, test, expected = data
    train, labels = train[:calibration], labels[:calibration]
    whole = title == "MNIST"  # its package takes batches

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        answers = torch.cat([model(batch).argmax(1) for batch in test.split(BATCH)])
        return float((answers == expected).double().mean())

    def score_package(model: Any) -> float:
        program = load_program(model)
        logits = [program.predict({name: part.numpy()})["logits"] for part in test.split(BATCH if whole else 1)]
        return float((np.concatenate(logits).argmax(1) == expected.numpy()).mean())

    return Task(
        title=title,
        model=model,
        package=package,
        batches=list(train.split(16)),
        layers=None,
        labelled=list(zip(train.split(1), labels.split(1), strict=True)),
        loss=label_loss,
        samples=[{name: image.numpy()} for image in train.split(1)],
        score=score,
        score_package=score_package,
    )
