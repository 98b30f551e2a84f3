"""Train a small network on scikit-learn's digits and convert it: the example package and its test data.

Writes `digits.mlpackage` (iOS18, fp16) and `digits_test.npz` (`images` float32 (n, 1, 8, 8), `labels` int64 (n,)).
Needs the `dev` extra: torch, coremltools, scikit-learn.
"""

from __future__ import annotations

import shutil
import sys
from collections import OrderedDict
from pathlib import Path

import coremltools as ct
import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

EPOCHS = 40
WANTED_ACCURACY = 0.97


def network() -> nn.Sequential:
    """8x8 grey images to 10 logits; about 230,000 parameters."""
    return nn.Sequential(OrderedDict(
        conv1=nn.Conv2d(1, 32, 3, padding=1), relu1=nn.ReLU(),
        conv2=nn.Conv2d(32, 64, 3, padding=1), relu2=nn.ReLU(), pool2=nn.MaxPool2d(2),
        conv3=nn.Conv2d(64, 128, 3, padding=1), relu3=nn.ReLU(), pool3=nn.MaxPool2d(2),
        flatten=nn.Flatten(),
        hidden=nn.Linear(512, 256), relu4=nn.ReLU(), dropout=nn.Dropout(0.3),
        scores=nn.Linear(256, 10),
    ))  # fmt: skip


def digits() -> list[np.ndarray]:
    """Training images, test images, training labels, test labels; pixels from 0 to 1."""
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    return train_test_split(images, labels, test_size=0.2, random_state=0, stratify=labels)


def train(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)
    model.train()
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
        schedule.step()


def accuracy(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    model.eval()
    with torch.no_grad():
        return float((model(images).argmax(1) == labels).float().mean())


def convert(model: nn.Module, test_accuracy: float) -> ct.models.MLModel:
    traced = torch.jit.trace(model.eval(), torch.zeros(1, 1, 8, 8))
    converted = ct.convert(
        traced,
        inputs=[ct.TensorType("image", (1, 1, 8, 8))],
        outputs=[ct.TensorType("logits")],
        minimum_deployment_target=ct.target.iOS18,
        compute_precision=ct.precision.FLOAT16,
        skip_model_load=True,
    )
    converted.short_description = "Reads a handwritten digit from an 8x8 grey image."
    converted.author = "corepress"
    converted.input_description["image"] = "1 x 1 x 8 x 8, pixels from 0 (paper) to 1 (ink)"
    converted.output_description["logits"] = "one score for each digit; the largest is the answer"
    converted.user_defined_metadata["dataset"] = "scikit-learn digits (UCI Optical Recognition of Handwritten Digits)"
    converted.user_defined_metadata["test_accuracy"] = f"{test_accuracy:.4f}"
    return converted


def main() -> int:
    torch.manual_seed(0)
    folder = Path(__file__).resolve().parent.parent / "examples"
    train_images, test_images, train_labels, test_labels = digits()
    model = network()
    train(model, torch.from_numpy(train_images), torch.from_numpy(train_labels))
    reached = accuracy(model, torch.from_numpy(test_images), torch.from_numpy(test_labels))
    print(f"test accuracy {reached:.2%}, {sum(p.numel() for p in model.parameters()):,} parameters")
    if reached < WANTED_ACCURACY:
        print(f"less than {WANTED_ACCURACY:.0%}: nothing is written")
        return 1
    folder.mkdir(exist_ok=True)
    package = folder / "digits.mlpackage"
    shutil.rmtree(package, ignore_errors=True)
    convert(model, reached).save(str(package))
    np.savez_compressed(folder / "digits_test.npz", images=test_images, labels=test_labels)
    return 0


if __name__ == "__main__":
    sys.exit(main())
